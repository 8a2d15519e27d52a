#!/usr/bin/env bash
# One process a node on a SLURM cluster; SLURM warns with SIGTERM and requeues.
#   sbatch --nodes=4 launch/slurm.sh --config=configs/diffusion.py --workdir=/shared/run
#SBATCH --job-name=mdx
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -eu
srun --kill-on-bad-exit=0 python -m mdx.main --distributed "$@" || {
  status=$?
  [ "$status" -eq 75 ] && scontrol requeue "$SLURM_JOB_ID"
  exit "$status"
}
