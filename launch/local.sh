#!/usr/bin/env bash
# Starts a job of several processes on this machine, for trying out what a pod does.
#   launch/local.sh 2 --config=configs/diffusion.py --workdir=runs/two
# Exits with the first status that is not 0.
set -u
num=${1:?usage: launch/local.sh NUM_PROCESSES ARGUMENTS_OF_MDX_MAIN ...}
shift
export JAX_COORDINATOR_ADDRESS="127.0.0.1:${MDX_PORT:-$((20000 + RANDOM % 20000))}"
export JAX_NUM_PROCESSES="$num"
pids=()
trap 'kill -TERM "${pids[@]}" 2>/dev/null' TERM INT
for ((i = 0; i < num; i++)); do
  JAX_PROCESS_ID="$i" python -m mdx.main --distributed "$@" &
  pids+=("$!")
done
status=0
for pid in "${pids[@]}"; do
  wait "$pid"
  code=$?
  while kill -0 "$pid" 2>/dev/null; do wait "$pid"; code=$?; done  # a signal interrupts wait
  [ "$status" -ne 0 ] || status=$code
done
exit "$status"
