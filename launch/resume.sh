#!/usr/bin/env bash
# Runs mdx again for as long as it stops on a signal with everything saved (status 75):
# on preemptible machines, start this instead of `python -m mdx.main`.
#   launch/resume.sh --config=configs/diffusion.py --workdir=/mnt/bucket/run
set -u
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
