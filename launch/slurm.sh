#!/usr/bin/env bash
# One process a node on a SLURM cluster of GPUs. SLURM sends SIGTERM two minutes before the time is
# up or the job is preempted: all processes save and exit with 75, and the job is put in the queue
# again.
#   sbatch --nodes=4 launch/slurm.sh --config=configs/diffusion.py --workdir=/shared/run
#   launch/slurm.sh --dry_run ...   prints what a node would run
#SBATCH --job-name=mdx
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u
dry_run=''
if [[ ${1:-} == --dry_run ]]; then dry_run=1; shift; fi
command=(srun --kill-on-bad-exit=0 python -m mdx.main --distributed "$@")
if [[ -n $dry_run ]]; then
  printf '%q ' "${command[@]}"
  printf '\non status 75: scontrol requeue %s\n' "${SLURM_JOB_ID:-JOB}"
  exit 0
fi
"${command[@]}"
status=$?
if [[ $status -eq 75 ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
