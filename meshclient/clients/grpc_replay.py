"""A stream of requests that can be sent again, as long as it is short: for blocking calls.

Holds what was sent until an answer has come, up to a bound; says when it no longer holds
all. Knows nothing of retries.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

#: Bytes of requests held per call, as Envoy buffers (1 MiB).
MAX_REPLAY_BYTES = 1 << 20


class ReplayStream:
    """The caller's iterator of requests, serialized, for one try after the other. Thread-safe.

    ``on_end`` is called once, when the caller's iterator has given its last.
    """

    __slots__ = ("_ended", "_held", "_keep", "_lock", "_serialize", "_size", "_source", "on_end")

    def __init__(self, source: Iterable[Any], serialize: Callable[[Any], bytes] | None) -> None:
        self._source = iter(source)
        self._serialize = serialize
        self._held: list[bytes] = []
        self._size = 0
        self._keep = True
        self._ended = False
        # A reader of a try that is over may still be in the caller's iterator.
        self._lock = threading.Lock()
        self.on_end: Callable[[], object] | None = None

    @property
    def keeps_all(self) -> bool:
        """Whether every request so far is still at hand."""
        return self._keep

    def keep_no_more(self) -> None:
        """An answer has come: what follows need not be held."""
        self._keep = False

    def reader(self) -> Iterator[bytes]:
        """The requests from the first on, for one try."""
        place = 0
        while True:
            with self._lock:
                if place < len(self._held):
                    item = self._held[place]
                elif self._ended:
                    return
                else:
                    taken = self._take()
                    if taken is None:
                        return
                    item = taken
            place += 1
            yield item

    def _take(self) -> bytes | None:
        """The next of the caller's; None: there is no more."""
        try:
            message = next(self._source)
        except StopIteration:
            self._ended = True
            if self.on_end is not None:
                self.on_end()
            return None
        item: bytes = message if self._serialize is None else self._serialize(message)
        if self._keep:
            self._size += len(item)
            if self._size > MAX_REPLAY_BYTES:
                self._keep = False
            else:
                self._held.append(item)
        return item


__all__ = ["MAX_REPLAY_BYTES", "ReplayStream"]
