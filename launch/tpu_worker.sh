#!/usr/bin/env bash
# One worker of a TPU pod: make an environment, fetch the slices, train. launch/tpu_pod.sh runs it on every worker.
#
#   launch/tpu_worker.sh [--dry_run] --config=configs/paper_t1.py --workdir=gs://BUCKET/t1
#
# STORE=gs://… is copied to this worker first: slices are memory-mapped, so they must lie on a local disk.
# Training is a systemd unit. It outlives the connection, and SIGTERM reaches it when the machine is taken away.
set -euo pipefail
# shellcheck source=launch/dry_run.sh
source "$(dirname "$0")/dry_run.sh"

cd "$(dirname "$0")/.."
venv=$HOME/.strega-venv
arguments=("$@" --distributed)

# TPU images come with Python 3.10; uv brings a newer one.
run python3 -m pip install --quiet --user uv
run python3 -m uv venv --quiet --allow-existing --python 3.12 "$venv"
run python3 -m uv pip install --quiet --python "$venv/bin/python" ".[gcs]" "jax[tpu]"
if [[ -n ${STORE:-} ]]; then
    run mkdir -p "$HOME/store"
    run gcloud storage rsync --recursive "$STORE" "$HOME/store"
    arguments+=("--config.data.store=$HOME/store")
fi
run sudo systemd-run --unit=strega --collect --uid="$(id -u)" --gid="$(id -g)" --setenv=HOME="$HOME" \
    --working-directory="$PWD" --property=TimeoutStopSec=120 --wait \
    "$venv/bin/python" -m strega_jax.train "${arguments[@]}"
