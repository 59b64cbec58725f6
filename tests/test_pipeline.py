"""Work in threads: what raises is handed on in its place, and who stops early leaves nothing running."""

import time

import pytest

from strega_jax.pipeline import in_threads, staged


def test_items_that_cannot_be_had_are_told_after_those_before_them():
    def items():
        yield from (1, 2)
        raise RuntimeError("no third")

    found = []
    with pytest.raises(RuntimeError, match="no third"):
        found.extend(staged(items(), (lambda n: n * 10,)))
    assert found == [(1, 10, None), (2, 20, None)]


def test_a_stage_that_wants_to_exit_hands_that_on():
    def leave(_):
        raise SystemExit(3)

    for run in (staged([1], (leave, lambda n: n)), in_threads([1], leave, 1)):
        ((item, value, error),) = run
        assert (item, value) == (1, None)
        assert isinstance(error, SystemExit)


def test_a_consumer_that_stops_cancels_what_has_not_begun():
    begun = []

    def work(n):
        begun.append(n)
        time.sleep(0.02)
        return n

    for run in (in_threads(range(100), work, 2), staged(range(100), (work, lambda n: n))):
        begun.clear()
        next(run)
        run.close()  # as the interpreter does where a consumer is interrupted
        assert 0 < len(begun) < 20
        counted = len(begun)
        time.sleep(0.1)
        assert len(begun) == counted
