#!/usr/bin/env bash
# Train on a TPU slice of a GKE cluster that has the JobSet controller, from an image of launch/Dockerfile.
#
#   IMAGE=REGION-docker.pkg.dev/PROJECT/REPOSITORY/strega STORE=gs://BUCKET/store \
#       launch/gke.sh --config=configs/paper_t1.py --workdir=gs://BUCKET/t1
#
# --dry_run as the first argument prints the JobSet and the command. Settings and their defaults:
#   IMAGE, STORE      required
#   NAME              strega
#   ACCELERATOR       tpu-v5-lite-podslice
#   TOPOLOGY          4x4            16x16 is a v5e-256
#   CHIPS             4              a host
#   SERVICE_ACCOUNT   default        must be allowed to read STORE and write the workdir
# Logs:   kubectl logs --follow --selector=jobset.sigs.k8s.io/jobset-name=strega,batch.kubernetes.io/job-completion-index=0
# Delete: kubectl delete jobset strega
set -euo pipefail
# shellcheck source=launch/dry_run.sh
source "$(dirname "$0")/dry_run.sh"

: "${IMAGE:?set IMAGE to the pushed image}" "${STORE:?set STORE to a gs:// slice store}"
export IMAGE STORE NAME=${NAME:-strega} SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-default} CHIPS=${CHIPS:-4}
export ACCELERATOR=${ACCELERATOR:-tpu-v5-lite-podslice} TOPOLOGY=${TOPOLOGY:-4x4}
HOSTS=$((${TOPOLOGY//x/*} / CHIPS))
ARGUMENTS=$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@" --config.data.store=/store --distributed)
export HOSTS ARGUMENTS

jobset=$(python3 -c 'import os, string, sys; print(string.Template(sys.stdin.read()).substitute(os.environ))' \
    <"$(dirname "$0")/gke_jobset.yaml")
if ((dry_run)); then
    echo "$jobset"
fi
run kubectl apply --filename=- <<<"$jobset"
