#!/usr/bin/env bash
# Runs mdx on every host of a Cloud TPU pod slice.
#   TPU=my-pod ZONE=us-east5-a launch/tpu_pod.sh --config=configs/diffusion.py --workdir=/mnt/bucket/run
# The first call copies this checkout to the hosts and installs it with the extra tpu.
set -eu
: "${TPU:?name of the TPU}" "${ZONE:?its zone}"
root=$(git rev-parse --show-toplevel)
on_all() { gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"; }
git -C "$root" archive --prefix=mdx/ -o /tmp/mdx.tar.gz HEAD
gcloud compute tpus tpu-vm scp /tmp/mdx.tar.gz "$TPU:" --zone="$ZONE" --worker=all
on_all "tar xzf mdx.tar.gz && python3 -m pip install -q -e 'mdx[tpu]'"
on_all "cd mdx && launch/resume.sh --distributed $(printf '%q ' "$@")"
