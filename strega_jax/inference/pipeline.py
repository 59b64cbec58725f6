"""Work in stages that overlap: while one scan is on the device, the next is read and the last is written."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
_END = object()


def staged(
    items: Iterable[Item], stages: Sequence[Callable[[Any], Any]]
) -> Iterator[tuple[Item, Any, Exception | None]]:
    """Send every item through all stages, each stage in a thread of its own, in order.

    At most one finished item waits between two stages. An item whose stage raises skips the stages after it.

    Yields:
        The item with what the last stage made of it, or with the exception that ended it; in the items' order.

    Raises:
        Exception: what `items` itself raised, after the items before it.
    """
    inboxes: list[queue.Queue[Any]] = [queue.Queue(maxsize=1) for _ in range(len(stages) + 1)]
    stopped = threading.Event()
    failed: list[Exception] = []

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
        except Exception as error:  # raised again where the results are taken
            failed.append(error)
        put(inboxes[0], _END)

    def work(stage: Callable[[Any], Any], inbox: queue.Queue[Any], outbox: queue.Queue[Any]) -> None:
        while (content := get(inbox)) is not _END:
            item, value, error = content
            if error is None:
                try:
                    value = stage(value)
                except Exception as raised:  # the consumer decides what to do about it
                    value, error = None, raised
            put(outbox, (item, value, error))
            del content, value  # a scan's volumes must not wait here for the next one
        put(outbox, _END)

    threads = [threading.Thread(target=feed, daemon=True)]
    for stage, inbox, outbox in zip(stages, inboxes[:-1], inboxes[1:], strict=True):
        threads.append(threading.Thread(target=work, args=(stage, inbox, outbox), daemon=True))
    for thread in threads:
        thread.start()
    try:
        while (content := get(inboxes[-1])) is not _END:
            yield content
        if failed:
            raise failed[0]
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
