"""What became of a scan that failed: told in one line, its traceback kept, and the others go on."""

import errno
import logging
import os
import threading
import traceback
from datetime import UTC, datetime
from pathlib import Path

from strega_jax.errors import ScanError, StregaError

log = logging.getLogger(__name__)

LOG = "errors.log"
# A disk that is full or read-only is no scan's fault, and the next scan would meet it too.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_writing = threading.Lock()


def ends_the_run(error: BaseException) -> bool:
    """Whether no scan can be blamed for an error: a wrong setting, a model, a full disk."""
    if isinstance(error, ScanError):
        return False
    if isinstance(error, OSError):
        return error.errno in _DISK
    return isinstance(error, StregaError) or not isinstance(error, Exception)


def tell(error: Exception, source: str, folder: Path) -> str:
    """One line that says what failed and what to do; the traceback of an unforeseen error goes to `LOG` in `folder`.

    Args:
        error: what was raised.
        source: the scan's file or name.
        folder: of the results.
    """
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, StregaError | OSError):
        return str(error) if source in str(error) or Path(source).name in str(error) else f"{source}: {error}"
    text = "".join(traceback.format_exception(error))
    log.debug("%s", text)
    kept = f"the traceback is in {folder / LOG}" if _keep(text, source, folder) else "--debug shows the traceback"
    return f"{source}: unforeseen {type(error).__name__} ({first}); {kept}, which a report of this error should have"


def _keep(text: str, source: str, folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _writing, (folder / LOG).open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {source}{os.linesep}{text}{os.linesep}")
    except OSError:
        return False
    return True
