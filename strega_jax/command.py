"""What the entry points share: flags for devices and hosts, and errors told without a traceback."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import jax
from absl import app, flags
from absl import logging as absl_logging
from jax.experimental import multihost_utils

from strega_jax.config_names import config_file
from strega_jax.errors import ConfigError, StregaError
from strega_jax.streams import make_patient

# Programs are kept here between runs, so that only the first pays for compilation.
CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
DEFAULT_CACHE = os.path.join("~", ".cache", "strega_jax")

_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Join the other processes of this job (TPU pod, SLURM, Kubernetes, Open MPI, or JAX_COORDINATOR_ADDRESS, "
    "JAX_NUM_PROCESSES and JAX_PROCESS_ID).",
)
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", 0, "Simulate this many CPU devices; 0 leaves the devices as they are.", lower_bound=0
)


flags.DEFINE_bool("version", False, "Print the version and end.")
_DEBUG = flags.DEFINE_bool("debug", False, "Show the tracebacks of unforeseen errors.")
INTERRUPTED = 130  # 128 + SIGINT, as shells count


def run(main: Callable[[], int]) -> None:
    """Run an entry point's `main` under absl: exit with what it returns, or with 1 after a told error."""
    make_patient()

    def guarded(argv: Sequence[str]) -> int:
        try:
            if len(argv) > 1:
                raise ConfigError(f"unexpected argument {argv[1]!r}; every argument is a --flag, see --help")
            # Ours is worth reading; what the libraries say below a warning is not.
            absl_logging.set_verbosity(absl_logging.WARNING)
            logging.getLogger("strega_jax").setLevel(logging.DEBUG if _DEBUG.value else logging.INFO)
            _set_up_devices()
            if _DISTRIBUTED.value and jax.process_index() > 0:
                logging.getLogger("strega_jax").setLevel(logging.WARNING)
            return main()
        except (StregaError, OSError) as error:
            if _DEBUG.value:
                raise
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted: what is complete is kept, and the same command goes on from there", file=sys.stderr)
            return INTERRUPTED

    app.run(guarded, flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
    """absl's parser, for flags with hyphens too; `--version` needs no other flag."""
    if "--version" in argv[1:]:
        print(f"strega-jax {version('strega-jax')}")
        sys.exit(0)
    try:
        return app.parse_flags_with_usage([argv[0], *(_with_config(with_underscores(given)) for given in argv[1:])])
    except StregaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _with_config(argument: str) -> str:
    """`--config=NAME` → the file of that name."""
    name, equals, value = argument.partition("=")
    return f"{name}={config_file(value)}" if name == "--config" and equals else argument


def with_underscores(argument: str) -> str:
    """`--dry-run` → `--dry_run`, `--no-pages` → `--nopages`; values are left alone."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    name = name.replace("-", "_")
    if name.startswith("no_") and name[3:] in flags.FLAGS:
        name = f"no{name[3:]}"
    return f"--{name}{equals}{value}"


def share(text: str | None) -> tuple[int, int]:
    """Which share of the subjects is this process's: `--shard=i/n`, else its place among the job's processes."""
    if text is None:
        return jax.process_index(), jax.process_count()
    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError as error:
        raise ConfigError(f"--shard={text}: i/n is wanted, e.g. 0/4") from error
    if not 0 <= index < count:
        raise ConfigError(f"--shard={text}: i must lie between 0 and n − 1")
    return index, count


def _set_up_devices() -> None:
    """Must come before anything touches a device."""
    if _CPU_DEVICES.value:
        jax.config.update("jax_num_cpu_devices", _CPU_DEVICES.value)
    if not os.environ.get(CACHE_VARIABLE):
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(DEFAULT_CACHE))
    if _DISTRIBUTED.value:
        try:
            jax.distributed.initialize(**_explicit_cluster(), shutdown_timeout_seconds=60)
            multihost_utils.sync_global_devices("started")
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                f"--distributed: this process cannot find its job ({error}). Start it with a launcher from "
                "launch/, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
            ) from error


def _explicit_cluster() -> dict[str, Any]:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    address, count, index = (os.environ.get(name) for name in names)
    if not (address and count and index):
        return {}
    return {"coordinator_address": address, "num_processes": int(count), "process_id": int(index)}
