#!/usr/bin/env bash
# Runs mdx on TPU slices of a GKE cluster as a JobSet (kubectl with the JobSet API installed).
#   IMAGE=REGION-docker.pkg.dev/PROJECT/mdx:TAG launch/gke.sh [--dry_run] \
#     --config=configs/llada_8b.py --workdir=/mnt/bucket/run
# Variables, with their defaults: NAME=mdx SLICES=1 HOSTS=16 CHIPS_PER_HOST=4 TOPOLOGY=4x4x4
# ACCELERATOR=tpu-v5p-slice BUCKET= (mounted at /mnt/bucket by gcsfuse; "" = none).
# A pod that exits with 75 (stopped with everything saved) or dies makes the JobSet start all pods
# again; status 2 (bad input) and 3 end it. --dry_run prints the manifest.
set -eu
dry_run=''
if [[ ${1:-} == --dry_run ]]; then dry_run=1; shift; fi
: "${IMAGE:?a container image with mdx and its extra tpu}"
: "${NAME:=mdx}" "${SLICES:=1}" "${HOSTS:=16}" "${CHIPS_PER_HOST:=4}" "${TOPOLOGY:=4x4x4}"
: "${ACCELERATOR:=tpu-v5p-slice}" "${BUCKET:=}"
quoted() { printf "'%s'" "${1//\'/\'\'}"; }  # a scalar of YAML

manifest() {
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: 1000
    rules:
    - action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: slice
    replicas: $SLICES
    template:
      spec:
        parallelism: $HOSTS
        completions: $HOSTS
        completionMode: Indexed
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes:
              containerName: mdx
              operator: In
              values: [2, 3]
        template:
          metadata:
            annotations:
              gke-gcsfuse/volumes: "true"
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: 300
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: $ACCELERATOR
              cloud.google.com/gke-tpu-topology: $TOPOLOGY
            containers:
            - name: mdx
              image: $(quoted "$IMAGE")
              command: [python, -m, mdx.main, --distributed]
              args:
$(for arg in "$@"; do printf '              - %s\n' "$(quoted "$arg")"; done)
              ports:
              - containerPort: 8471
              - containerPort: 8080
              resources:
                limits:
                  google.com/tpu: $CHIPS_PER_HOST
YAML
  if [[ -n $BUCKET ]]; then
    cat <<YAML
              volumeMounts:
              - name: bucket
                mountPath: /mnt/bucket
            volumes:
            - name: bucket
              csi:
                driver: gcsfuse.csi.storage.gke.io
                volumeAttributes:
                  bucketName: $(quoted "$BUCKET")
YAML
  fi
}

(($#)) || { echo "gke.sh: give the arguments of mdx.main" >&2; exit 2; }
if [[ -n $dry_run ]]; then manifest "$@"; else manifest "$@" | kubectl apply -f -; fi
