"""Output that cannot be printed, because its reader has left or was never there, must not stop the work."""

import os
import sys
from typing import Any, TextIO


class PatientStream:
    """A text stream that goes on when nobody reads it any more; everything else is the stream's own."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or let it be."""
        try:
            return self._stream.write(text)
        except OSError:
            self._let_go()
            return len(text)

    def flush(self) -> None:
        """Flush, or let it be."""
        try:
            self._stream.flush()
        except OSError:
            self._let_go()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _let_go(self) -> None:
        # What is still in the buffer goes nowhere, and so does all that follows, the interpreter's last flush too.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def make_patient() -> None:
    """Replace `sys.stdout` and `sys.stderr`; a closed one becomes one that leads nowhere."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            # The next file to be opened must not get this number, or output would be written into it.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            stream = os.fdopen(number, "w", encoding="utf-8", closefd=False)
        if not isinstance(stream, PatientStream):
            setattr(sys, name, PatientStream(stream))
