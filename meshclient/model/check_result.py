"""What one active health check found. A value; who judges by it stands elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: ``failed``: an answer, and the wrong one. ``retriable``: a wrong one that may be passing.
#: ``network``: no answer. ``timeout``: none in time. ``passive``: ordinary traffic said so.
CheckKind = Literal["passed", "failed", "retriable", "network", "timeout", "passive"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """``degraded``: passed, but prefers others to get the traffic. ``immediate_failure``:
    failed, and asked to be left out of the count of endpoints. ``why`` is for people.
    """

    kind: CheckKind
    why: str = ""
    degraded: bool = False
    immediate_failure: bool = False

    @property
    def passed(self) -> bool:
        """Whether the endpoint is fit for traffic as far as this check knows."""
        return self.kind == "passed"


PASSED = CheckResult("passed")

__all__ = ["PASSED", "CheckKind", "CheckResult"]
