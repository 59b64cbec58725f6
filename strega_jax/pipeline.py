"""Many items in threads: in stages that overlap, or several at once; what one raises is handed to the consumer."""

import contextlib
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

Item = TypeVar("Item")
Outcome = tuple[Item, Any, BaseException | None]
_END = object()


def staged(items: Iterable[Item], stages: Sequence[Callable[[Any], Any]]) -> Iterator[Outcome[Item]]:
    """Send every item through all stages, each stage in a thread of its own, in order.

    At most one finished item waits between two stages. An item whose stage raises skips the stages after it. A
    consumer that stops early ends the threads.

    Yields:
        The item with what the last stage made of it, or with the exception that ended it; in the items' order.

    Raises:
        BaseException: what `items` raises, after the items before it.
    """
    inboxes: list[queue.Queue[Any]] = [queue.Queue(maxsize=1) for _ in range(len(stages) + 1)]
    stopped = threading.Event()
    broken: list[BaseException] = []  # what the items themselves raised

    def put(box: queue.Queue[Any], content: Any) -> None:
        while not stopped.is_set():
            try:
                return box.put(content, timeout=0.1)
            except queue.Full:
                continue

    def get(box: queue.Queue[Any]) -> Any:
        while not stopped.is_set():
            try:
                return box.get(timeout=0.1)
            except queue.Empty:
                continue
        return _END

    def feed() -> None:
        try:
            for item in items:
                put(inboxes[0], (item, item, None))
                if stopped.is_set():
                    return
        except BaseException as raised:
            broken.append(raised)
        put(inboxes[0], _END)

    def work(stage: Callable[[Any], Any], inbox: queue.Queue[Any], outbox: queue.Queue[Any]) -> None:
        while (content := get(inbox)) is not _END:
            item, value, error = content
            if error is None:
                value, error = _tried(stage, value)
            put(outbox, (item, value, error))
            del content, value, error  # a scan's volumes must not wait here for the next one
        put(outbox, _END)

    threads = [threading.Thread(target=feed, daemon=True)]
    for stage, inbox, outbox in zip(stages, inboxes[:-1], inboxes[1:], strict=True):
        threads.append(threading.Thread(target=work, args=(stage, inbox, outbox), daemon=True))
    try:
        with _uninterrupted():
            for thread in threads:
                thread.start()
        while (content := get(inboxes[-1])) is not _END:
            yield content
        if broken:
            raise broken[0]
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def in_threads(items: Iterable[Item], work: Callable[[Item], Any], workers: int) -> Iterator[Outcome[Item]]:
    """Do `work` on every item, so many at once. A consumer that stops early cancels what has not begun.

    Yields:
        The item with what was made of it, or with the exception that ended it; the first to be done first.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        with _uninterrupted():
            jobs = {pool.submit(_tried, work, item): item for item in items}
        for job in as_completed(jobs):
            yield jobs[job], *job.result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the block ends: a thread interrupted while it starts is unknown to who must wait for it.

    A blocked signal would not do: another thread of a library would take it, and Python hand it to this one.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield  # Python interrupts the main thread alone, and only where it set the handler
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


def _tried(work: Callable[[Any], Any], value: Any) -> tuple[Any, BaseException | None]:
    try:
        return work(value), None
    except BaseException as error:  # the consumer decides what to do about it
        return None, error
