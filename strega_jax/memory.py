"""How the process holds memory that is free again, and how often it looks for objects that are dead."""

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator

# Numbers of glibc's <malloc.h>.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
NEVER = -1  # read as the largest size there is
# Of a scan with more voxels than this, stages leave gigabytes in pieces that the next one finds no use for.
FINE_VOXELS = 40_000_000
# Objects that may be made before Python looks for cycles among them; its own number is some hundreds.
COLLECT_AFTER = 50_000
_OF_USER = ("MALLOC_", "GLIBC_TUNABLES")
_kept = False


def keep_freed_memory() -> bool:
    """Keep freed memory for the next buffer of this process, whichever thread frees or asks for it; until it ends.

    glibc returns every buffer of some ten megabytes to the kernel when it is freed, and the next one costs a page fault
    for each 4 kB, and its zeroing: a third of the processor time of `predict` at 0.5 mm. One arena, since what lies
    free in the arena of one thread is of no use to another.

    Call it before there are threads. Where the C library is not glibc, or the user has set up its malloc by environment
    variables (MALLOC_ARENA_MAX, GLIBC_TUNABLES), nothing happens.

    Returns:
        Whether it is so now.
    """
    global _kept
    if sys.platform != "linux" or any(name.startswith(_OF_USER) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is None:
        return False
    _kept = all([mallopt(ARENA_MAX, 1), mallopt(MMAP_MAX, 0), mallopt(TRIM_THRESHOLD, NEVER)])
    return _kept


@contextlib.contextmanager
def seldom_collected() -> Iterator[None]:
    """In here Python looks for cycles of dead objects seldom, and not at all among what is left when the process ends.

    The libraries make more than a hundred thousand objects that stay: to look through them again and again while they
    are made, and once more at the end, is a quarter of the time of importing them.
    """
    usual = gc.get_threshold()
    gc.set_threshold(COLLECT_AFTER, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.freeze()


def is_fine(voxels: int) -> bool:
    """Whether a scan of so many voxels is one whose stages take gigabytes."""
    return voxels > FINE_VOXELS


def give_back_after_fine(voxels: int) -> None:
    """Between two stages of the work on a scan: give back now what was kept, if it is a fine one."""
    if _kept and is_fine(voxels):
        ctypes.CDLL(None).malloc_trim(0)
