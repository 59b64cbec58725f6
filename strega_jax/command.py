"""What the entry points share: flags, devices and hosts, and errors told in one line."""

import importlib.metadata
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging

from strega_jax import failures, memory, terminal
from strega_jax.config_names import config_file
from strega_jax.errors import ConfigError, StregaError

log = logging.getLogger(__name__)

# Programs are kept here between runs, so that only the first pays for compilation.
CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
HELP = frozenset(("--help", "-help", "-?", "--helpshort", "-helpshort"))
_ENDING = ("help", "helpshort", "helpfull", "version")
_OF_ABSL = ("flagfile", "undefok")
DEFAULT_CACHE = os.path.join("~", ".cache", "strega_jax")

SHARD_HELP = "i/n: do the i-th of n shares of the subjects, 1/n to n/n; for job arrays. One subject is in one share."

_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Join the other processes of this job (TPU pod, SLURM, Kubernetes, Open MPI, or JAX_COORDINATOR_ADDRESS, "
    "JAX_NUM_PROCESSES and JAX_PROCESS_ID).",
)
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", 0, "Simulate this many CPU devices; 0 leaves the devices as they are.", lower_bound=0
)
_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of every error.")


class _VersionFlag(flags.BooleanFlag):
    """`--version` prints the version and ends, whatever else is asked for; as absl's own `--help`."""

    def __init__(self) -> None:
        super().__init__("version", False, "Print the version, and end.", allow_hide_cpp=True)

    def parse(self, argument: Any) -> None:
        if self._parse(argument):
            print(f"strega-jax {version()}")
            sys.exit(0)


flags.DEFINE_flag(_VersionFlag())


def version() -> str:
    """Of this package, as it is installed."""
    try:
        return importlib.metadata.version("strega-jax")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def run(
    main: Callable[[], int],
    take: Callable[[Sequence[str]], Sequence[str]] | None = None,
    more_help: Callable[[], str] | None = None,
) -> NoReturn:
    """Run an entry point's `main` under absl: exit with what it returns, with 1 after a told error, 130 after Ctrl-C.

    Flags may be written with hyphens. Output that nobody reads any more does not stop the work.

    Args:
        main: the command; its exit code.
        take: sets flags from the arguments that are none, and returns those that it has no use for.
        more_help: what --help tells beyond the flags.
    """
    terminal.make_ready()
    end = terminal.QuickEnd()
    if not HELP.isdisjoint(sys.argv[1:]):
        _print_help(main, more_help)
        sys.exit(0)

    def guarded(argv: Sequence[str]) -> int:
        try:
            left = take(argv[1:]) if take else argv[1:]
            if left:
                raise ConfigError(f"unexpected argument {left[0]!r}; every argument is a --flag, see --help")
            _set_up_logging()
            memory.keep_freed_memory()  # before the devices' threads
            with memory.seldom_collected():
                _set_up_devices()
                end.code = main()
                return end.code
        except (StregaError, OSError, MemoryError) as error:
            log.debug("", exc_info=error)
            print(f"error: {failures.one_line(failures.run_error(error) or error)}", file=sys.stderr)
            return 1

    flags.FLAGS.set_gnu_getopt(True)
    terminal.interruptible()
    try:
        arguments = _quickly_told(with_underscores(sys.argv[1:]))
        arguments = [_named_config(argument) for argument in arguments]
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    try:
        app.run(guarded, [sys.argv[0], *arguments], flags_parser=_parse)
    except KeyboardInterrupt:
        terminal.leave(terminal.INTERRUPTED)
    raise AssertionError("app.run exits")


def _parse(arguments: Sequence[str]) -> list[str]:
    """As absl does; a field that the config does not have, or a config that is refused, is told in a line."""
    try:
        return app.parse_flags_with_usage(list(arguments))
    except (AttributeError, KeyError, StregaError) as error:
        raised_in = [frame.filename for frame in traceback.extract_tb(error.__traceback__)][-1]
        if not isinstance(error, StregaError) and "ml_collections" not in raised_in:
            raise  # the config's own fault, whose author wants to see where
        text: Any = error
        while isinstance(text, BaseException) and text.args:
            text = text.args[0]
        where = "" if isinstance(error, StregaError) else "the config has no field "
        print(f"error: {where}{' '.join(str(text).split())}; --help lists what can be set", file=sys.stderr)
        sys.exit(1)


def _print_help(main: Callable[[], int], more_help: Callable[[], str] | None) -> None:
    """As absl does, but for console scripts too, whose main module is none of ours."""
    module = sys.modules[main.__module__]
    print(module.__doc__)
    print(f"flags:\n{flags.FLAGS.module_help(module)}\n\nflags of every command:\n{flags.FLAGS.module_help(__name__)}")
    if more_help:
        print(f"\n{more_help()}")


def with_underscores(arguments: Sequence[str]) -> list[str]:
    """The names of flags as they were defined: `--dry-run` is `--dry_run`. Values stay as they are."""
    changed: list[str] = []
    is_value = False
    for place, argument in enumerate(arguments):
        if argument == "--":
            return [*changed, *arguments[place:]]
        name, separator, value = argument.partition("=")
        if not is_value and name.startswith("--"):
            name = "--" + _defined(name[2:].replace("-", "_"))
        changed.append(name + separator + value)
        flag = flags.FLAGS[name[2:]] if not is_value and name[2:] in flags.FLAGS else None
        is_value = flag is not None and not flag.boolean and not separator
    return changed


def _quickly_told(arguments: list[str]) -> list[str]:
    """Without the config, which takes a second to load, where a help text or an unknown flag is all there will be."""
    names = [argument.partition("=")[0].lstrip("-") for argument in arguments if argument.startswith("--")]
    own = [name for name in names if name and not name.startswith("config.") and name not in _OF_ABSL]
    if any(name in _ENDING or (name not in flags.FLAGS and name.removeprefix("no") not in flags.FLAGS) for name in own):
        return [argument for argument in arguments if not argument.startswith("--config")]
    return arguments


def _named_config(argument: str) -> str:
    """`--config=NAME` → the file of that name. Raises ConfigError."""
    name, equals, value = argument.partition("=")
    return f"{name}={config_file(value)}" if name == "--config" and equals else argument


def _defined(name: str) -> str:
    """`nopages` for `no_pages`, where `pages` is a flag."""
    positive = name.removeprefix("no_")
    return f"no{positive}" if positive != name and name not in flags.FLAGS and positive in flags.FLAGS else name


def output_folder(text: str | None, flag: str = "output") -> Path:
    """The folder that a flag names for results, which need not exist.

    Raises:
        ConfigError: no folder can be made there, or nothing written into it.
    """
    folder = Path(text or "")
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise ConfigError(f"--{flag}={folder}: {place} is a file; name a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"--{flag}={folder}: nothing can be written into {place}; allow it, or name another folder")
    return folder


def _set_up_logging() -> None:
    # Ours is worth reading; what the libraries say below a warning is not.
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.getLogger("strega_jax").setLevel(logging.DEBUG if _DEBUG.value else logging.INFO)


def share(text: str | None) -> tuple[int, int]:
    """Which share of the subjects is this process's: `--shard=i/n`, else its place among the job's processes.

    Returns:
        The share's index, from 0, and how many there are.

    Raises:
        ConfigError: `text` is not i/n with 1 ≤ i ≤ n.
    """
    if text is None:
        import jax

        return jax.process_index(), jax.process_count()
    found = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(f"--shard={text}: i/n is wanted, two numbers with i from 1 to n, e.g. 1/4")
    return int(found[1]) - 1, int(found[2])


def _set_up_devices() -> None:
    """Must come before anything touches a device."""
    import jax

    if _CPU_DEVICES.value:
        jax.config.update("jax_num_cpu_devices", _CPU_DEVICES.value)
    if not os.environ.get(CACHE_VARIABLE):
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(DEFAULT_CACHE))
    if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # small programs too: they are many
    if _DISTRIBUTED.value:
        from jax.experimental import multihost_utils

        try:
            jax.distributed.initialize(**_explicit_cluster(), shutdown_timeout_seconds=60)
            multihost_utils.sync_global_devices("started")
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                f"--distributed: this process cannot find its job ({error}). Start it with a launcher from "
                "launch/, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
            ) from error
        if jax.process_index() > 0:
            logging.getLogger("strega_jax").setLevel(logging.WARNING)


def _explicit_cluster() -> dict[str, Any]:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    address, count, index = (os.environ.get(name) for name in names)
    if not (address and count and index):
        return {}
    return {"coordinator_address": address, "num_processes": int(count), "process_id": int(index)}
