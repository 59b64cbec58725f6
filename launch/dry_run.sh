# Sourced by the launchers: with --dry_run as the first argument, `run` prints commands in place of running them.
# shellcheck shell=bash
dry_run=0
if [[ ${1:-} == --dry_run ]]; then
    dry_run=1
    shift
fi

run() {
    if ((dry_run)); then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}
