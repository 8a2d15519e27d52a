#!/usr/bin/env bash
# Runs mdx on every host of a Cloud TPU pod slice; hosts start it again after status 75.
#   TPU=my-pod ZONE=us-east5-a launch/tpu_pod.sh [--dry_run] --config=configs/diffusion.py \
#     --workdir=/mnt/bucket/run
# Each call copies this checkout's HEAD to the hosts and installs it with the extra tpu.
set -eu
dry_run=''
if [[ ${1:-} == --dry_run ]]; then dry_run=1; shift; fi
: "${TPU:?name of the TPU}" "${ZONE:?its zone}"
root=$(cd "$(dirname "$0")/.." && pwd)
run() {
  if [[ -n $dry_run ]]; then printf '%q ' "$@"; echo; else "$@"; fi
}
on_all() { run gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"; }
archive=${TMPDIR:-/tmp}/mdx.tar.gz
run git -C "$root" archive --prefix=mdx/ -o "$archive" HEAD
run gcloud compute tpus tpu-vm scp "$archive" "$TPU:mdx.tar.gz" --zone="$ZONE" --worker=all
on_all "tar xzf mdx.tar.gz && python3 -m pip install -q -e 'mdx[tpu]'"
on_all "cd mdx && launch/resume.sh --distributed $(printf '%q ' "$@")"
