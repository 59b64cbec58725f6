"""Memory that is free again."""

import ctypes
import gc
import os
import subprocess
import sys

import pytest

from strega_jax import memory

SIZE_MB = 256
# Resident memory in MB: at the start, after a buffer was freed, and with another one in another thread.
PROGRAM = f"""
import sys, threading
from strega_jax import memory

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) // 1024

if "keep" in sys.argv:
    assert memory.keep_freed_memory()
told = [resident()]
held = b"x" * ({SIZE_MB} << 20)
del held
told.append(resident())
memory.give_back_after_fine(memory.FINE_VOXELS)
assert resident() > told[-1] - 8
if "fine" in sys.argv:
    memory.give_back_after_fine(memory.FINE_VOXELS + 1)
    told[-1] = resident()

def another():
    held = b"x" * ({SIZE_MB - 1} << 20)
    told.append(resident())

thread = threading.Thread(target=another)
thread.start()
thread.join()
print(*told)
"""

glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc"
)


def resident_mb(*arguments: str) -> list[int]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    return [int(number) for number in done.stdout.split()]


@glibc
def test_freed_memory_is_kept_and_used_again_by_another_thread():
    start, freed, again = resident_mb("keep")
    assert freed - start >= SIZE_MB
    assert again - freed < SIZE_MB / 8


@glibc
def test_freed_memory_is_given_back_by_default():
    start, freed, _ = resident_mb()
    assert freed - start < SIZE_MB / 8


@glibc
def test_between_stages_of_a_fine_scan_it_is_given_back():
    start, freed, again = resident_mb("keep", "fine")
    assert freed - start < SIZE_MB / 8
    assert again - start >= SIZE_MB - 1


@pytest.mark.parametrize("variable", ["MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES"])
def test_what_the_user_has_set_stays(variable, monkeypatch):
    monkeypatch.setenv(variable, "4")
    assert not memory.keep_freed_memory()


@pytest.mark.parametrize("platform", ["darwin", "win32", "linux"])
def test_elsewhere_nothing_happens(platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())  # a C library without mallopt
    assert not memory.keep_freed_memory()


def test_cycles_are_looked_for_seldom_and_not_at_all_among_what_is_left():
    before, usual = gc.get_threshold(), (700, 10, 10)
    gc.set_threshold(*usual)
    try:
        with memory.seldom_collected():
            assert gc.get_threshold()[0] == memory.COLLECT_AFTER > usual[0]
        assert gc.get_threshold() == usual
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
