"""Compiled programs kept from one process to the next, whole, so that the next one need not even trace them.

JAX keeps compiled programs too, but finds them by what it traces and lowers first: a second of processor time in
`predict`. Here a program is found by what it is made of: the source of this package, the versions of what it stands
on, the settings of JAX, the machine, and the shapes it is called with. Programs for CPU lie in JAX's own folder for
compiled programs, in `FOLDER`; where JAX keeps none, or there are several devices, a program is jitted as ever.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import logging
import os
import pickle
import platform
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from strega_jax.scans.files import replacing

log = logging.getLogger(__name__)

FOLDER = "strega-programs"
PACKAGES = ("jax", "jaxlib", "flax", "numpy")
# Options for XLA's CPU compiler, for half the time to compile: one part instead of one for each of several threads;
# LLVM optimises a little less; kernels are not made by way of MLIR.
QUICK = {
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_backend_optimization_level": 1,
    "xla_cpu_use_fusion_emitters": False,
}
# What is decided step by step amplifies the last bits, in which these differ: it keeps the options it was tested with.
# All that LLVM can do; and kernels by way of MLIR, with an eighth less memory for volumes.
OPTIMISED = QUICK | {"xla_backend_optimization_level": 3}
BY_MLIR = QUICK | {
    "xla_cpu_use_fusion_emitters": True,
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}
LAPACK = "lapack_"
# Threads that trace at once only take the interpreter from each other: what was begun first is to be compiled first.
_TRACING = threading.Lock()
UNUSED_DAYS = 60  # after which a program is deleted: each version of this package has its own


class Program:
    """A function jitted for CPU with little time to compile, whose compiled programs are kept on disk.

    Called from several threads it is compiled once. As with `jax.jit`, calls of other shapes compile anew.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        about: str = "",
        options: Mapping[str, Any] = QUICK,
    ) -> None:
        """Of a pure function of arrays and trees of them.

        Args:
            function: as for `jax.jit`.
            about: what else the function depends on.
            options: of XLA, on CPU.
        """
        self._function = function
        self._about = f"{function.__module__}.{function.__qualname__} {about}"
        self._options = dict(options)
        self._compiled: dict[Any, Callable[..., Any]] = {}
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any, **static: Any) -> Any:
        """What the function returns, on the device; what is given by name is compiled in, and told apart by `repr`."""
        return self.ready(*arguments, **static)(*arguments)

    def ready(self, *arguments: Any, **static: Any) -> Callable[..., Any]:
        """The compiled program for such arguments, of which shapes and types matter alone; takes those not named."""
        key = _key(arguments, static)
        with self._lock:
            if key not in self._compiled:
                self._compiled[key] = self._made(key, arguments, static)
            compiled = self._compiled[key]
        return lambda *given: compiled(*jax.tree.leaves(given))

    def compile_ahead(self, *arguments: Any, **static: Any) -> None:
        """Compile the program for such arguments, unless it is kept: to read it takes no time, but the interpreter."""
        path = self._place(_key(arguments, static))
        if path is None or not path.exists():
            self.ready(*arguments, **static)

    def lower(self, *arguments: Any, name: str = "", **static: Any) -> jax.stages.Lowered:
        """As that of a jitted function, which is called `name` and takes the leaves of the arguments."""
        leaves, tree = jax.tree.flatten(arguments)

        def flat(*given: Any) -> Any:
            return self._function(*jax.tree.unflatten(tree, given), **static)

        flat.__name__ = flat.__qualname__ = name or self._function.__name__
        with _TRACING:
            return jax.jit(flat).lower(*leaves)

    def _place(self, key: Any) -> Path | None:
        return _place(f"{self._about} {self._options} {key}")

    def _made(self, key: Any, arguments: Sequence[Any], static: dict[str, Any]) -> Callable[..., Any]:
        path = self._place(key)
        if path is None:
            return _compile(self.lower(*arguments, **static), self._options)
        kept = _read(path)
        if kept is not None:
            return kept
        # By a new name, under which JAX keeps none: what JAX has read from its cache cannot be written a second time.
        lowered = self.lower(*arguments, name=f"{self._function.__name__}_{uuid.uuid4().hex}", **static)
        called = set(re.findall(r"custom_call @(\w+)", lowered.as_text()))
        if not all(name.startswith(LAPACK) for name in called):  # who knows what must be loaded for it
            return _compile(self.lower(*arguments, **static), self._options)
        compiled = _compile(lowered, self._options)
        _write(path, compiled, needs_lapack=bool(called))
        return compiled


def _key(arguments: Sequence[Any], static: dict[str, Any]) -> Any:
    """What tells programs of one function apart."""
    leaves, tree = jax.tree.flatten(arguments)
    return tree, tuple((np.shape(leaf), _type(leaf)) for leaf in leaves), repr(sorted(static.items()))


def _type(leaf: Any) -> str:
    return str(leaf.dtype) if hasattr(leaf, "dtype") else type(leaf).__name__  # a plain number is weakly typed


def _compile(lowered: jax.stages.Lowered, options: Mapping[str, Any]) -> jax.stages.Compiled:
    if jax.default_backend() == "cpu":
        try:
            return lowered.compile(compiler_options=dict(options))
        except jax.errors.JaxRuntimeError as error:  # another jaxlib may not know them
            log.debug("compiled as any other program: %s", error)
    return lowered.compile()


def _place(what: str) -> Path | None:
    """Where the compiled program lies, or is to lie."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not folder or "://" in folder or not jax.config.values["jax_enable_compilation_cache"]:
        return None
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return None
    name = hashlib.sha256(f"{what}\n{_surroundings()}".encode()).hexdigest()
    return Path(folder, FOLDER, name)


def _surroundings() -> str:
    """What a compiled program depends on beside the function and the shapes."""
    settings = {name: value for name, value in jax.config.values.items() if "cache" not in name}
    return f"{_fixed()} {os.environ.get('XLA_FLAGS', '')} {sorted(settings.items())}"


@functools.cache
def _fixed() -> str:
    """What stays the same while this process runs."""
    source = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        source.update(path.read_bytes())
    versions = [importlib.metadata.version(name) for name in PACKAGES]
    device = jax.local_devices()[0]
    compiler = (device.platform, device.device_kind, device.client.platform_version)
    return repr((source.hexdigest(), versions, compiler, platform.python_version(), _processor()))


def _processor() -> tuple[Any, ...]:
    """What XLA compiles for on CPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.machine(), platform.processor(), cores
    return cores, *sorted({line for line in lines if line.startswith(("flags", "Features", "model name", "CPU part"))})


def _read(path: Path) -> Callable[..., Any] | None:
    """The program kept there, if it is there and can be used."""
    from jax.experimental import serialize_executable

    try:
        content, needs_lapack = pickle.loads(path.read_bytes())
        with contextlib.suppress(OSError):  # the folder may be another user's
            os.utime(path)
        if needs_lapack:
            _load_lapack()
        return serialize_executable.deserialize_and_load(*content, execution_devices=jax.local_devices()[:1])
    except FileNotFoundError:
        return None
    except Exception as error:  # damaged, or of a runtime that does not take it: it is compiled anew
        log.debug("%s: not used: %s", path, error)
        return None


@functools.cache
def _load_lapack() -> None:
    """JAX does so when it lowers what calls LAPACK; a kept program that calls it before would jump to nowhere."""
    jax.jit(jax.lax.linalg.lu).lower(jax.ShapeDtypeStruct((1, 1), np.float32))


def _write(path: Path, compiled: jax.stages.Compiled, needs_lapack: bool) -> None:
    from jax.experimental import serialize_executable

    try:
        content = pickle.dumps((serialize_executable.serialize(compiled), needs_lapack))
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        _delete_unused(path.parent)
    except Exception as error:  # a full disk, or a backend whose programs cannot be kept: nothing depends on it
        log.debug("%s: not kept: %s", path, error)


def _delete_unused(folder: Path) -> None:
    """What no process has read for long: of an earlier version, or of shapes that do not come any more."""
    oldest = time.time() - UNUSED_DAYS * 86400
    for path in folder.iterdir():
        if path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)
