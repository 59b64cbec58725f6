"""Compiled programs that are kept: who finds them, who must not, and what they compute."""

import concurrent.futures
import os
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from strega_jax import programs
from strega_jax.programs import FOLDER, UNUSED_DAYS, Program

SCRIPT = """
import sys
import jax, numpy as np
from strega_jax.slices.registration import Level, Prior, minimise
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
traced = []
jax.monitoring.register_event_duration_secs_listener(lambda *_, **about: traced.append(about.get("fun_name", "")))
rng = np.random.default_rng(0)
level = Level(*rng.normal(scale=(30.0, 0.3), size=(500, 3, 2)).astype(np.float32).transpose(2, 0, 1))
prior = Prior((0.65, 1.4), (0.0, 0.0, 0.0), 0.1, 0.05, 1e-4)
volume = rng.random((64, 64, 64, 4), np.float32)
fit = minimise(level, volume, 1.0, 5, np.zeros(12, np.float32), np.ones(12, np.float32), prior)
print(np.asarray(fit.parameters).tobytes().hex(), any("_minimise" in name for name in traced))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for compiled programs, and one device."""
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    yield tmp_path / FOLDER
    jax.config.update("jax_compilation_cache_dir", before)


def test_the_next_process_computes_the_same_without_tracing(tmp_path):
    line = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    told = [subprocess.run(line, capture_output=True, text=True, check=True).stdout.split() for _ in range(3)]
    assert [traced for _, traced in told] == ["True", "False", "False"]
    assert len({bits for bits, _ in told}) == 1
    assert len(list((tmp_path / FOLDER).iterdir())) == 1


def test_what_is_kept_is_not_taken_for_anything_else(folder, monkeypatch):
    times_two, times_three = lambda x: 2 * x, lambda x: 3 * x
    x = jnp.ones(3)
    np.testing.assert_array_equal(Program(times_two, about="two")(x), 2 * np.ones(3))
    np.testing.assert_array_equal(Program(times_three, about="three")(x), 3 * np.ones(3))
    np.testing.assert_array_equal(Program(times_three, about="two")(x), 2 * np.ones(3))  # `about` is believed
    assert len(list(folder.iterdir())) == 2
    # Another source, XLA's flags, and the settings of JAX.
    monkeypatch.setattr(programs, "_fixed", lambda: "other source")
    np.testing.assert_array_equal(Program(times_three, about="two")(x), 3 * np.ones(3))
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    Program(times_three, about="two")(x)
    with jax.numpy_dtype_promotion("standard"):
        Program(times_three, about="two")(x)
    assert len(list(folder.iterdir())) == 5


def test_shapes_types_and_static_arguments_tell_programs_apart(folder):
    @Program
    def repeated(x, times):
        return {"sum": x[0] * times, "shape": x[1]}

    for times in (2, 3):
        for value in (np.ones(3, np.float32), np.ones(4, np.float32), np.ones(3, np.int32)):
            result = repeated((value, np.float32(7)), times=times)
            np.testing.assert_array_equal(result["sum"], value * times)
            assert result["sum"].dtype == value.dtype
            assert result["shape"] == 7
    assert len(list(folder.iterdir())) == 6


def test_a_damaged_program_is_compiled_anew(folder):
    Program(jnp.sin, about="damaged")(np.ones(2, np.float32))
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    np.testing.assert_allclose(Program(jnp.sin, about="damaged")(np.ones(2, np.float32)), np.sin(np.ones(2)), 1e-6)
    assert len(path.read_bytes()) > len(whole) // 2


def test_what_is_not_used_for_long_is_deleted_when_another_is_kept(folder):
    used, unused = Program(jnp.sin, about="used"), Program(jnp.sin, about="unused")
    for program in (used, unused):
        program(np.ones(2, np.float32))
    long_ago = time.time() - (UNUSED_DAYS + 1) * 86400
    for path in folder.iterdir():
        os.utime(path, (long_ago, long_ago))
    Program(jnp.sin, about="used")(np.ones(2, np.float32))  # reads what is kept
    (kept,) = (path for path in folder.iterdir() if path.stat().st_mtime > long_ago + 1)
    Program(jnp.sin, about="another")(np.ones(2, np.float32))
    assert len(list(folder.iterdir())) == 2
    assert kept.exists()


def test_a_folder_that_cannot_be_written_to_stops_nothing(folder):
    folder.write_text("a file in its place")
    np.testing.assert_array_equal(Program(lambda x: -x)(np.ones(2, np.float32)), -np.ones(2))


def test_a_program_that_calls_another_library_is_not_kept(folder):
    """Of all that programs call, LAPACK alone is known to be there again in another process."""
    found = Program(lambda x: jax.lax.approx_max_k(x, 2)[0])(np.arange(64, dtype=np.float32))
    np.testing.assert_array_equal(found, [63, 62])
    assert not folder.exists()


def test_nothing_is_kept_where_jax_keeps_nothing_or_has_several_devices(tmp_path, monkeypatch):
    assert jax.device_count() == 2
    before = jax.config.values["jax_compilation_cache_dir"]
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        Program(lambda x: -x)(np.ones(2, np.float32))
        assert not (tmp_path / FOLDER).exists()
        jax.config.update("jax_compilation_cache_dir", None)
        monkeypatch.setattr(jax, "device_count", lambda: 1)
        np.testing.assert_array_equal(Program(lambda x: -x)(np.ones(2, np.float32)), -np.ones(2))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_threads_that_need_one_program_compile_it_once(monkeypatch):
    compiled, begun = [], threading.Barrier(4)

    def traced(x):
        compiled.append(x)
        return x + 1

    program = Program(traced)

    def call(_):
        begun.wait()
        return float(program(np.float32(1)))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(call, range(4))) == [2.0] * 4
    assert len(compiled) == 1


def test_programs_are_traced_one_after_the_other(monkeypatch):
    """Threads that trace in turns would end together, and the first program be compiled as late as the last."""
    steps, begun = [], threading.Barrier(2)

    def traced(name):
        def function(x):
            steps.append(name)
            time.sleep(0.1)
            steps.append(name)
            return x + 1

        return Program(function)

    programs = [traced(name) for name in "ab"]

    def call(program):
        begun.wait()
        program.ready(np.float32(1))

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(call, programs))
    assert steps in (list("aabb"), list("bbaa"))


def test_ahead_only_what_is_not_kept_is_compiled(folder):
    traced = []

    def function(x):
        traced.append(x)
        return x + 1

    first, second = Program(function), Program(function)
    first.compile_ahead(np.float32(1))
    first.compile_ahead(np.float32(1))
    assert len(traced) == len(list(folder.iterdir())) == 1
    second.compile_ahead(np.float32(1))
    assert not second._compiled  # not even read
    assert float(second(np.float32(1))) == 2.0
    assert len(traced) == 1
