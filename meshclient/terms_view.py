"""Priority and fallback of a route in words, for ``explain``. Decides nothing."""

from __future__ import annotations

from meshclient.model.fallback import Fallback
from meshclient.model.routes import ForwardAction

_SERVER_ERRORS = frozenset(range(500, 600))


def term_lines(action: ForwardAction) -> list[str]:
    """A line for each that is not as usual."""
    lines = []
    if action.priority != "default":
        lines.append(f"priority: {action.priority} (limits: high_priority)")
    if action.fallback is not None:
        lines.append(f"fallback: {_fallback(action.fallback)}")
    return lines


def _fallback(settings: Fallback) -> str:
    answers = []
    if settings.last_good is not None:
        answers.append(f"the last good answer, up to {settings.last_good.max_age_s:g} s old")
    if settings.cluster:
        answers.append(settings.cluster)
    if settings.respond is not None:
        answers.append(f"status {settings.respond.status}")
    return f"{', else '.join(answers) or 'the program alone'}; after {_failures(settings)}"


def _failures(settings: Fallback) -> str:
    named = ["local failures"] if settings.local else []
    named += ["5xx"] if settings.statuses >= _SERVER_ERRORS else []
    others = settings.statuses - _SERVER_ERRORS if "5xx" in named else settings.statuses
    return ", ".join([*named, *map(str, sorted(others))])


__all__ = ["term_lines"]
