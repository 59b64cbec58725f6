"""When a scan fails: whether the run goes on, what is said in one line, and where the traceback is kept."""

import datetime
import errno
import logging
import os
import traceback
from collections.abc import Iterator
from pathlib import Path

from strega_jax.errors import ScanError, StregaError

log = logging.getLogger(__name__)

LOG = "errors.log"
FULL = (errno.ENOSPC, errno.EDQUOT)
IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
LONGEST = 500  # characters of a line
LEAVE_OUT = "leave the scan out, and report it"


class DiskFullError(StregaError):
    """No room for results, whatever the scan."""


class Failures:
    """The scans of one run that failed; unforeseen errors with their tracebacks in `errors.log` beside the results.

    Attributes:
        folder: of the results.
        messages: one line for each scan.
    """

    def __init__(self, folder: Path) -> None:
        self.messages: list[str] = []
        self.folder = folder

    def add(self, scan: str | os.PathLike[str], error: BaseException, advice: str = LEAVE_OUT) -> str:
        """Take note of a scan that failed.

        Args:
            scan: its file, for the message.
            error: why.
            advice: what to do about an unforeseen error.

        Returns:
            The message.

        Raises:
            BaseException: `error`, or what it means, where it is no scan's fault; see `run_error`.
        """
        ending = run_error(error, self.folder)
        if ending is not None:
            raise ending
        log.debug("%s", scan, exc_info=error)
        message = told(scan, error, advice)
        if not _is_foreseen(error):
            message += self._keep(scan, error)
        self.messages.append(message)
        return message

    def _keep(self, scan: str | os.PathLike[str], error: BaseException) -> str:
        """Append the traceback to the log; what the message says of it."""
        path = self.folder / LOG
        when = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        text = f"{when} {os.fspath(scan)}\n{''.join(traceback.format_exception(error))}\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError as unwritten:
            return f"; its traceback could not be written to {path} ({unwritten.strerror}), --debug shows it"
        return f"; its traceback is in {path}"


def run_error(error: BaseException, folder: Path | None = None) -> BaseException | None:
    """What ends the whole run: a wrong setting, a full disk, an interruption. None where the scan is to blame.

    Args:
        error: what was raised.
        folder: of the results, for the message.
    """
    if not isinstance(error, Exception) or (isinstance(error, StregaError) and not isinstance(error, ScanError)):
        return error
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in FULL:
            where = folder or cause.filename2 or cause.filename
            place = f"{os.fsdecode(where)}: " if isinstance(where, str | bytes | os.PathLike) else ""
            full = DiskFullError(
                f"{place}{os.strerror(cause.errno)}: make room, and the same command goes on from here"
            )
            full.__cause__ = error
            return full
    return None


def told(scan: str | os.PathLike[str], error: BaseException, advice: str = LEAVE_OUT) -> str:
    """One line: which scan, what is wrong, and what to do."""
    scan = os.fspath(scan)
    text = one_line(error)
    if isinstance(error, ScanError):
        return text if scan in text else f"{scan}: {text}"
    if _lacks_memory(error):
        return f"{scan}: not enough memory; free some, or crop the scan to the brain ({text})"
    if not _is_foreseen(error):
        return f"{scan}: an unforeseen {type(error).__name__} ({text}): {advice}"
    return f"{scan}: {text}"


def one_line(error: BaseException) -> str:
    """What an error says, in one line; an operating system's with what to do about it."""
    if isinstance(error, OSError) and error.errno:
        return _of_system(error)
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _of_system(error: OSError) -> str:
    where = error.filename2 or error.filename
    place = f": {os.fsdecode(where)}" if isinstance(where, str | bytes | os.PathLike) else ""
    advice = (
        "it is in the way: move it"
        if error.errno in IN_THE_WAY
        else "allow it, or name another place"
        if error.errno in REFUSED
        else "mend that, and start the same command again"
    )
    return f"{os.strerror(error.errno or 0)}{place}; {advice}"


def _is_foreseen(error: BaseException) -> bool:
    """Whether its text tells a user enough. Libraries raise OSError without a number for faults of their own."""
    return isinstance(error, StregaError) or (isinstance(error, OSError) and error.errno is not None)


def _lacks_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__
