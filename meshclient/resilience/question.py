"""What a filter asks of a remote service, and what came back.

Values only: the driver carries them (:mod:`meshclient.clients.questions`), the filter that
asked understands them.
"""

from __future__ import annotations


class GrpcQuestion:
    """One unary gRPC call: ``message`` (serialized) to ``path`` of a server of ``cluster``.

    ``timeout_s`` bounds all of it, the connecting included.
    """

    __slots__ = ("cluster", "message", "path", "timeout_s")

    def __init__(self, cluster: str, path: bytes, message: bytes, timeout_s: float) -> None:
        self.cluster = cluster
        self.path = path
        self.message = message
        self.timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"<GrpcQuestion {self.cluster}{self.path.decode('latin-1')}>"


class GrpcAnswer:
    """The serialized ``message`` of the answer, or None and the ``problem``."""

    __slots__ = ("message", "problem")

    def __init__(self, message: bytes | None, problem: str = "") -> None:
        self.message = message
        self.problem = problem

    def __repr__(self) -> str:
        return f"<GrpcAnswer {self.problem or 'ok'}>"


__all__ = ["GrpcAnswer", "GrpcQuestion"]
