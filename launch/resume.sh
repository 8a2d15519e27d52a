#!/usr/bin/env bash
# Runs mdx again for as long as it stops on a signal with everything saved (status 75):
# on preemptible machines, start this instead of `python -m mdx.main`.
#   launch/resume.sh [--dry_run] --config=configs/diffusion.py --workdir=/mnt/bucket/run
set -u
if [[ ${1:-} == --dry_run ]]; then
  shift
  printf 'while the status is 75:'
  printf ' %q' python -m mdx.main "$@"
  echo
  exit 0
fi
while true; do
  python -m mdx.main "$@" &
  child=$!
  trap 'stop=1; kill -TERM "$child" 2>/dev/null' TERM INT
  wait "$child"
  status=$?
  while kill -0 "$child" 2>/dev/null; do wait "$child"; status=$?; done
  [ "$status" -eq 75 ] && [ -z "${stop:-}" ] || exit "$status"
  sleep 1
done
