"""The request being handled, as far as the calls made for it care.

Values only: how they are read from a request is :mod:`meshclient.telemetry.capture`'s,
where the one of the running code is kept :mod:`meshclient.telemetry.propagation`'s. No
clock, no context variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from meshclient.model.headers import RawHeaders
from meshclient.model.propagation import DeadlineHeader

NO_VALUES: Mapping[str, str] = MappingProxyType({})


class TraceContext:
    """Ids of the trace that the inbound request belongs to, as its headers gave them.

    ``trace_id`` and ``span_id`` are lower-case hexadecimal (empty where the header only
    decides about sampling); ``sampled`` None: left to the receiver. ``format`` is ``w3c``,
    ``b3`` or ``cloud``.
    """

    __slots__ = ("format", "sampled", "span_id", "trace_id")

    def __init__(self, trace_id: str, span_id: str, sampled: bool | None, format_: str) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.sampled = sampled
        self.format = format_

    def __repr__(self) -> str:
        return f"<TraceContext {self.format} {self.trace_id}-{self.span_id} {self.sampled}>"


class Marks:
    """What becomes known of retries while one request is handled. Shared by everything
    that works on it, on all threads; each field is set by a single assignment.

    ``attempt``: which try of the caller's (an outer hop's) it is, 0 where nothing says.
    ``exhausted``: the cluster of an outbound call that failed although it was repeated,
    or was refused by a limit; empty: none.
    """

    __slots__ = ("attempt", "exhausted")

    def __init__(self, attempt: int = 0) -> None:
        self.attempt = attempt
        self.exhausted = ""

    def __repr__(self) -> str:
        return f"<Marks attempt={self.attempt} exhausted={self.exhausted!r}>"


class Inbound:
    """The request being handled. Treat it as immutable, but for ``marks``.

    ``deadline`` is monotonic seconds (None: none). ``trace_lines`` and ``lines`` are the
    header lines that outbound calls carry on, names in lower case; the first are those of the
    trace context, which belong together. ``values`` are for hash policies of kind ``context``
    and for the application: carried headers by name, ``trace-id``, ``baggage.<key>``, and what was
    set in code. ``unix_offset`` is wall clock minus monotonic clock when it was captured.
    """

    __slots__ = (
        "deadline",
        "deadline_header",
        "lines",
        "marks",
        "prepared",
        "request_id",
        "trace",
        "trace_lines",
        "unix_offset",
        "values",
    )

    def __init__(
        self,
        deadline: float | None = None,
        trace_lines: RawHeaders | None = None,
        lines: RawHeaders | None = None,
        values: Mapping[str, str] = NO_VALUES,
        marks: Marks | None = None,
        trace: TraceContext | None = None,
        request_id: str = "",
        deadline_header: DeadlineHeader | None = None,
        unix_offset: float = 0.0,
    ) -> None:
        self.deadline = deadline
        self.trace_lines: RawHeaders = [] if trace_lines is None else trace_lines
        self.lines: RawHeaders = [] if lines is None else lines
        self.values = values
        self.marks = Marks() if marks is None else marks
        self.trace = trace
        self.request_id = request_id
        self.deadline_header = deadline_header
        self.unix_offset = unix_offset
        #: Where :mod:`meshclient.telemetry.propagation` keeps what it made of the lines.
        self.prepared: tuple[frozenset[bytes], RawHeaders] | None = None

    def derive(
        self, *, deadline: float | None = None, values: Mapping[str, str] | None = None
    ) -> Inbound:
        """The same request with an earlier deadline (a later one changes nothing), or
        with further values."""
        if deadline is None or (self.deadline is not None and self.deadline < deadline):
            deadline = self.deadline
        merged = self.values if values is None else MappingProxyType({**self.values, **values})
        return Inbound(
            deadline,
            self.trace_lines,
            self.lines,
            merged,
            self.marks,
            self.trace,
            self.request_id,
            self.deadline_header,
            self.unix_offset,
        )

    def detach(self) -> Inbound:
        """What outlives the request: the same headers and values, no deadline, marks of its own."""
        return Inbound(
            None,
            self.trace_lines,
            self.lines,
            self.values,
            Marks(self.marks.attempt),
            self.trace,
            self.request_id,
            self.deadline_header,
            self.unix_offset,
        )

    def deadline_line(self, now: float) -> tuple[bytes, bytes] | None:
        """The organisation's own deadline header as of ``now``; None: there is none."""
        header, deadline = self.deadline_header, self.deadline
        if header is None or deadline is None:
            return None
        if header.format.startswith("unix"):
            seconds = deadline + self.unix_offset
        else:
            seconds = max(0.0, deadline - now)
        if header.format.endswith("milliseconds"):
            return header.name.encode("latin-1"), b"%d" % int(seconds * 1000)
        return header.name.encode("latin-1"), f"{seconds:.3f}".encode("ascii")

    def __repr__(self) -> str:
        names = sorted({name.decode("latin-1") for name, _ in (*self.trace_lines, *self.lines)})
        return f"<Inbound deadline={self.deadline} carries={names} {self.marks!r}>"
