#!/usr/bin/env bash
# Starts a job of several processes on this machine, as a pod has one on every host.
#   launch/local.sh [--dry_run] [--restart] NUM_PROCESSES ARGUMENTS_OF_MDX_MAIN ...
#   launch/local.sh 2 --config=configs/diffusion.py --workdir=runs/two
# If one process fails or is killed, the others are stopped: they cannot go on without it. Exits
# with the first status that is not 0. With --restart the job is started again after status 75
# (stopped on a signal with everything saved) and, up to ten times in a row, after a process was
# killed; a signal to this script stops it for good.
set -u
dry_run='' restart=''
while [[ ${1:-} == --dry_run || ${1:-} == --restart ]]; do
  if [[ $1 == --dry_run ]]; then dry_run=1; else restart=1; fi
  shift
done
num=${1:-}
if ! [[ $num =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local.sh [--dry_run] [--restart] NUM_PROCESSES ARGUMENTS ..." >&2
  exit 2
fi
shift
stop='' pids=()
trap 'stop=1; kill -TERM "${pids[@]}" 2>/dev/null' TERM INT

run_once() {  # sets `status`
  local port=${MDX_PORT:-$((20000 + RANDOM % 20000))} left code pid i deadline=''
  export JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" JAX_NUM_PROCESSES="$num"
  pids=() status=0
  for ((i = 0; i < num; i++)); do
    if [[ -n $dry_run ]]; then
      printf 'JAX_COORDINATOR_ADDRESS=%s JAX_NUM_PROCESSES=%s JAX_PROCESS_ID=%s' \
        "$JAX_COORDINATOR_ADDRESS" "$num" "$i"
      printf ' %q' python -m mdx.main --distributed "$@"
      echo
      continue
    fi
    JAX_PROCESS_ID="$i" python -m mdx.main --distributed "$@" &
    pids+=("$!")
  done
  left=("${pids[@]}")
  while ((${#left[@]})); do
    for i in "${!left[@]}"; do
      pid=${left[i]}
      kill -0 "$pid" 2>/dev/null && continue
      wait "$pid"
      code=$?
      unset 'left[i]'
      if ((code && !status)); then status=$code; fi
      if ((code && code != 75)) && [[ -z $deadline ]]; then
        ((${#left[@]})) && kill -TERM "${left[@]}" 2>/dev/null
        deadline=$((SECONDS + 10))
      fi
    done
    if [[ -n $deadline ]] && ((SECONDS > deadline && ${#left[@]})); then
      kill -KILL "${left[@]}" 2>/dev/null
    fi
    sleep 0.1
  done
}

killed=0
while true; do
  run_once "$@"
  [[ -z $restart || -n $stop || -n $dry_run ]] && exit "$status"
  if ((status > 128 && killed < 10)); then
    killed=$((killed + 1))
  elif ((status == 75)); then
    killed=0
  else
    exit "$status"
  fi
  echo "local.sh: status $status, starting again" >&2
  sleep 1
done
