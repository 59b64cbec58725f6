#!/usr/bin/env bash
# Train with two processes on this machine, one CPU device each: the smallest run that is truly distributed.
#
#   launch/local_two_processes.sh --config=configs/demo.py --workdir=runs/two
#
# Arguments go to strega_jax.train. When one process fails, the other, which would wait for it, is killed and the
# status is the failed one's. SIGTERM and Ctrl-C let both save first. PORT and PYTHON may be set.
set -euo pipefail

python=${PYTHON:-python}
port=${PORT:-$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
export JAX_PLATFORMS=cpu JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" JAX_NUM_PROCESSES=2

processes=()
# The shell's own list of jobs: a signal may come between a start and the line that notes it.
# shellcheck disable=SC2046
trap 'kill -TERM $(jobs -p) 2>/dev/null || true; wait; exit 143' TERM INT
# shellcheck disable=SC2046
trap 'kill -KILL $(jobs -p) 2>/dev/null || true; wait' EXIT
for index in 0 1; do
    JAX_PROCESS_ID=$index "$python" -m strega_jax.train "$@" --distributed --cpu_devices=1 &
    processes+=("$!")
done
for _ in "${processes[@]}"; do
    wait -n || {
        status=$?
        echo "error: a process ended with status $status; stopping the other" >&2
        exit "$status"
    }
done
