"""The last good answers to GETs of a service, for when there are no better ones.

Not an HTTP cache: nothing is answered from here while the service answers. What may be kept
follows RFC 9111 section 3 for a private cache that is careful (no ``private`` answers, no
cookies, no credentials). Pure: ``now`` (monotonic seconds) is an argument.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from meshclient.model.fallback import LastGood
from meshclient.model.headers import HeaderMap, RawHeaders

#: Headers of one connection or one moment (RFC 9110 section 7.6.1).
_NOT_KEPT = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"content-length",
        b"age",
    }
)
_FORBIDS = ("no-store", "private")

Place = tuple[str, ...]
Key = tuple[Place, Place]


class KeptAnswer:
    """One answer. ``headers`` say nothing of its length or age."""

    __slots__ = ("body", "headers", "kept_at", "size", "status")

    def __init__(self, status: int, headers: RawHeaders, body: bytes, now: float) -> None:
        self.status = status
        self.headers = [pair for pair in headers if pair[0].lower() not in _NOT_KEPT]
        self.body = body
        self.kept_at = now
        self.size = len(body) + sum(len(name) + len(value) for name, value in self.headers)


class LastGoodAnswers:
    """The answers of one service. Thread-safe, O(1); bounded in number and bytes.

    The one that was used or kept longest ago goes first.
    """

    __slots__ = ("_answers", "_lock", "_varies", "bytes", "settings")

    def __init__(self, settings: LastGood) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._answers: OrderedDict[Key, KeptAnswer] = OrderedDict()
        #: What the last answer of a place named in Vary.
        self._varies: OrderedDict[Place, Place] = OrderedDict()
        #: Bytes kept; never above the limit.
        self.bytes = 0

    def may_ask(self, method: str, headers: HeaderMap) -> bool:
        """Whether an answer to such a request can be kept or found here."""
        if method != "GET" or "range" in headers:
            return False
        if "authorization" in headers and not self.settings.authorization:
            return False
        # A session is as good as credentials, and few services say Vary: Cookie.
        if "cookie" in headers and "cookie" not in self.settings.headers:
            return False
        return "no-store" not in _joined(headers, "cache-control")

    def may_keep(self, status: int, headers: HeaderMap) -> bool:
        """Whether a response with this head can be kept, its body aside."""
        if not 200 <= status <= 299 or status == 206 or "set-cookie" in headers:
            return False
        control = _joined(headers, "cache-control")
        if any(word in control for word in _FORBIDS):
            return False
        return "*" not in _names(headers)

    def keep(
        self,
        host: str,
        path: str,
        asked: HeaderMap,
        status: int,
        headers: RawHeaders,
        body: bytes,
        now: float,
    ) -> bool:
        """Keep an answer that :meth:`may_keep` allows; False when it is too large."""
        answer = KeptAnswer(status, headers, body, now)
        settings = self.settings
        if answer.size > min(settings.max_entry_bytes, settings.max_bytes):
            return False
        place = self._place(host, path, asked)
        names = _names(HeaderMap(headers))
        key = (place, _values(asked, names))
        with self._lock:
            self._varies[place] = names
            self._varies.move_to_end(place)
            self._drop_locked(key)
            self._answers[key] = answer
            self.bytes += answer.size
            self._shrink_locked()
        return True

    def find(self, host: str, path: str, asked: HeaderMap, now: float) -> KeptAnswer | None:
        """The last good answer to such a request that is not too old."""
        place = self._place(host, path, asked)
        with self._lock:
            names = self._varies.get(place)
            if names is None:
                return None
            key = (place, _values(asked, names))
            answer = self._answers.get(key)
            if answer is None:
                return None
            if now - answer.kept_at > self.settings.max_age_s:
                self._drop_locked(key)
                return None
            self._answers.move_to_end(key)
            self._varies.move_to_end(place)
            return answer

    def _place(self, host: str, path: str, asked: HeaderMap) -> Place:
        names = self.settings.headers
        if self.settings.authorization:
            names = (*names, "authorization")
        return (host, path, *_values(asked, names))

    def _drop_locked(self, key: Key) -> None:
        gone = self._answers.pop(key, None)
        if gone is not None:
            self.bytes -= gone.size

    def _shrink_locked(self) -> None:
        settings = self.settings
        while len(self._answers) > settings.max_entries or self.bytes > settings.max_bytes:
            self._drop_locked(next(iter(self._answers)))
        while len(self._varies) > settings.max_entries:
            self._varies.popitem(last=False)

    def __len__(self) -> int:
        return len(self._answers)

    def __repr__(self) -> str:
        return f"<LastGoodAnswers {len(self._answers)} answers, {self.bytes} bytes>"


def _joined(headers: HeaderMap, name: str) -> str:
    return ",".join(headers.get_all(name)).lower()


def _names(headers: HeaderMap) -> Place:
    listed = _joined(headers, "vary").split(",")
    return tuple(sorted({name.strip() for name in listed} - {""}))


def _values(asked: HeaderMap, names: Place) -> Place:
    # A header that is absent is not one that is empty.
    return tuple("=" + ",".join(asked.get_all(name)) if name in asked else "-" for name in names)


__all__ = ["KeptAnswer", "LastGoodAnswers"]
