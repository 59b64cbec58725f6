"""A command and its terminal: output that cannot be printed stops no work, and Ctrl-C ends in one line.

Loads the standard library alone, so that both hold while everything else is still being loaded.
"""

import atexit
import contextlib
import io
import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED = 130  # 128 + SIGINT, as shells count
_IMPORT_CHECK_SECONDS = 0.02


class Unbroken:
    """A text stream whose writes never fail: what nobody reads any more is dropped."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As the stream's."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            self._drop()
            return len(text)

    def flush(self) -> None:
        """As the stream's."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._drop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self) -> None:
        """Lead the descriptor to nowhere, for whoever else writes to it and for what is still in the buffer."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def is_command() -> bool:
    """Whether this process starts a command of this package, and is no other program that uses it."""
    name = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
    if name == "-m":  # what Python puts there while it loads the package of the module
        return "-m strega_jax" in " ".join(sys.orig_argv).replace("-mstrega", "-m strega")
    return name.startswith("strega-")


def make_ready() -> None:
    """Guard the output, and let Ctrl-C end the process in one line, at once: nothing has begun yet."""
    _fill_descriptors()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal of another encoding
            setattr(sys, name, Unbroken(stream))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave_at_once)


def interruptible() -> None:
    """From here on Ctrl-C says so at once and raises KeyboardInterrupt, so that temporary files go; a second leaves."""
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _leave_at_once):
        signal.signal(signal.SIGINT, _interrupt)


def leave(code: int) -> NoReturn:
    """End the process, whatever its threads do; a further Ctrl-C changes nothing about it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class QuickEnd:
    """Ends a command's process once all exit handlers have run, without taking its modules apart: 0.05 s.

    Made before any library is loaded, since of exit handlers the first comes last. Only where `code` was set, and not
    in another program that calls a command: whatever else ends the process, ends it as ever.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        atexit.register(self._end)

    def _end(self) -> None:
        if self.code is not None and _is_main():
            leave(self.code)


def _is_main() -> bool:
    """Whether this process runs a command and nothing else, by `python -m` or by its script."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return spec.name.startswith("strega_jax.")
    return os.path.basename(getattr(main, "__file__", None) or "").startswith("strega-")


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    _say("interrupted: what is complete is kept")
    if not hasattr(signal, "setitimer"):  # Windows
        raise KeyboardInterrupt
    signal.signal(signal.SIGALRM, _raise_outside_imports)
    _raise_outside_imports(number, frame)


def _raise_outside_imports(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but not while a module is loaded: that of a compiled one may crash by it, or drop it."""
    while frame:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            signal.setitimer(signal.ITIMER_REAL, _IMPORT_CHECK_SECONDS)
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _leave_at_once(number: int, frame: FrameType | None) -> None:
    _say("interrupted before anything was done")
    os._exit(INTERRUPTED)


def _say(text: str) -> None:
    """One line past all buffers; a progress bar may stand in the line before."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


def _fill_descriptors() -> None:
    """Open what was closed before the start, lest a file of results become the error output of a library."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
