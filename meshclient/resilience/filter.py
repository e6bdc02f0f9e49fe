"""What stands before the router: policies that let a call pass, hold it, or answer it.

The protocol only; each filter has a module of its own. In the order of Envoy's HTTP
filters: fault, local rate limit, global rate limit, admission control, adaptive
concurrency. A filter sees a call once, whatever the number of its tries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from meshclient.model.request import LocalReply, RequestHead


class Verdict:
    """A filter's word where it does not simply let the call pass.

    ``reply``: the call ends with this answer. ``wait_s`` above 0: seconds to hold the call.
    ``ask``: a question that the driver carries to a remote service. After either,
    :meth:`Filter.after` has the word. None of them: the call passes, and the filter wants
    to be told of its end. ``headers`` are added to the response of a call that goes on.
    ``flag`` is Envoy's response flag, ``why`` says which rule and which numbers decided.
    """

    __slots__ = ("ask", "flag", "headers", "reply", "wait_s", "why")

    def __init__(
        self,
        *,
        reply: LocalReply | None = None,
        wait_s: float = 0.0,
        ask: Any = None,
        flag: str = "",
        why: str = "",
        headers: list[tuple[str, str]] | None = None,
    ) -> None:
        self.reply = reply
        self.wait_s = wait_s
        self.ask = ask
        self.flag = flag
        self.why = why
        self.headers = headers

    def __repr__(self) -> str:
        if self.reply is not None:
            return f"<Verdict {self.reply!r} {self.flag}>"
        return f"<Verdict wait_s={self.wait_s:g}>" if self.ask is None else "<Verdict ask>"


#: The call passes, and the filter counts it until it leaves.
ENTERED = Verdict()


class Filter(Protocol):
    """The run-time state of one filter, shared by the calls of its scope. Thread-safe."""

    def enter(self, head: RequestHead, now: float, rand: Callable[[], int]) -> Verdict | None:
        """A call arrives. None: it passes, and its end does not matter here.

        With a verdict other than a reply it leaves exactly once.
        """

    def after(
        self,
        held: Verdict,
        answer: Any,
        head: RequestHead,
        now: float,
        rand: Callable[[], int],
    ) -> Verdict | None:
        """The wait is over, or the question has its ``answer``. None: the call goes on."""

    def leave(self, status: int, grpc_status: int, started: float, now: float) -> None:
        """The call is over: its body is closed, or it failed. ``status`` 0: no response;
        ``grpc_status`` -1: none."""

    def describe(self) -> dict[str, Any]:
        """Statistics under Envoy's names, as plain values, for dumps."""


class NeverHolds:
    """The part of a filter that lets a call pass or answers it, and never makes it wait."""

    __slots__ = ()

    def after(
        self,
        held: Verdict,  # noqa: ARG002
        answer: Any,  # noqa: ARG002
        head: RequestHead,  # noqa: ARG002
        now: float,  # noqa: ARG002
        rand: Callable[[], int],  # noqa: ARG002
    ) -> Verdict | None:
        """Never asked for: there is no hold to come after."""
        return None


__all__ = ["ENTERED", "Filter", "NeverHolds", "Verdict"]
