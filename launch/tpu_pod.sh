#!/usr/bin/env bash
# Train on a Cloud TPU slice: ask for it (queued resource), wait, copy the source to every worker, train on all.
#
#   ZONE=us-west4-a STORE=gs://BUCKET/store launch/tpu_pod.sh \
#       --config=configs/paper_t1.py --workdir=gs://BUCKET/t1
#
# --dry_run as the first argument prints the commands. Run again to go on after a preemption; a slice that is there
# is used. The committed source (HEAD) is what runs. Settings and their defaults:
#   ZONE           required
#   TPU            strega         name of the slice and of its queued resource
#   ACCELERATOR    v5litepod-16
#   RUNTIME        v2-alpha-tpuv5-lite
#   STORE          none           gs:// slice store, copied to each worker's disk
#   QUEUE          none           further flags of the request, e.g. "--spot"
# Logs:   gcloud compute tpus tpu-vm ssh strega --zone=ZONE --worker=0 --command="journalctl -fu strega"
# Delete: gcloud compute tpus queued-resources delete strega --zone=ZONE --force
set -euo pipefail
# shellcheck source=launch/dry_run.sh
source "$(dirname "$0")/dry_run.sh"

cd "$(dirname "$0")/.."
: "${ZONE:?set ZONE, e.g. us-west4-a}"
tpu=${TPU:-strega}
tpus=(gcloud compute tpus)
read -ra queue <<<"${QUEUE:-}"

state() {
    "${tpus[@]}" queued-resources describe "$tpu" --zone="$ZONE" --format='value(state.state)' 2>/dev/null || true
}

if ((dry_run)) || [[ -z $(state) ]]; then
    run "${tpus[@]}" queued-resources create "$tpu" --node-id="$tpu" --zone="$ZONE" \
        --accelerator-type="${ACCELERATOR:-v5litepod-16}" --runtime-version="${RUNTIME:-v2-alpha-tpuv5-lite}" \
        --scopes=https://www.googleapis.com/auth/cloud-platform "${queue[@]}"
fi
until ((dry_run)) || [[ $(state) == ACTIVE ]]; do
    if [[ $(state) =~ FAILED|SUSPEND ]]; then
        echo "error: queued resource $tpu is $(state); delete it and start again" >&2
        exit 1
    fi
    echo "waiting for $tpu: $(state)" >&2
    sleep 30
done

archive=$(mktemp -d)/strega.tar.gz
trap 'rm -r "$(dirname "$archive")"' EXIT
run git archive --output="$archive" HEAD
run "${tpus[@]}" tpu-vm scp "$archive" "$tpu:strega.tar.gz" --zone="$ZONE" --worker=all
printf -v arguments '%q ' "$@"
printf -v store '%q' "${STORE:-}"
run "${tpus[@]}" tpu-vm ssh "$tpu" --zone="$ZONE" --worker=all --command \
    "mkdir -p strega && tar -xzf strega.tar.gz -C strega && STORE=$store strega/launch/tpu_worker.sh $arguments"
