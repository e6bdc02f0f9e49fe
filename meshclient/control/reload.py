"""Loading documents again: what is new, what is refused, and saying so once.

It reads through the function it is given and publishes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from meshclient.control.thread import run_in_thread
from meshclient.errors import ConfigError
from meshclient.model.snapshot import MeshConfig
from meshclient.model.source import Diagnostic

_log = logging.getLogger("meshclient.config")


class Documents:
    """The accepted configuration, and what was last refused.

    ``config`` is the accepted one, ``rejected`` the diagnostics of the
    documents that stand there instead (empty: the accepted ones stand there).
    """

    def __init__(self, load: Callable[[], MeshConfig]) -> None:
        self._load = load
        self.rejected: tuple[Diagnostic, ...] = ()
        self.config = load()
        _summarise(self.config)

    async def read_again(self) -> MeshConfig | tuple[Diagnostic, ...]:
        """The documents as they are now, or why they cannot be used.

        Runs on a thread of its own: a large parse does not delay discovery.
        """
        try:
            return await run_in_thread(self._load, "meshclient-load")
        except ConfigError as error:
            return error.diagnostics
        except Exception as error:
            _log.exception("the policy documents could not be loaded")
            return (failure("load-failed", error),)

    def accept(self, config: MeshConfig) -> None:
        """``config`` is in force."""
        self.config = config
        self.rejected = ()
        _summarise(config)

    def reject(self, diagnostics: tuple[Diagnostic, ...]) -> bool:
        """Keep the accepted configuration; False if these were reported already."""
        if diagnostics == self.rejected:
            return False
        known = set(self.rejected)
        self.rejected = diagnostics
        for diagnostic in diagnostics:
            if diagnostic.severity == "error" and diagnostic not in known:
                _log.error("policy refused, the last good one stays: %s", diagnostic)
        return True


def failure(code: str, error: BaseException) -> Diagnostic:
    """An exception that nobody expected, as a finding."""
    return Diagnostic("error", code, f"{type(error).__name__}: {error}")


def same_text(old: MeshConfig, new: MeshConfig) -> bool:
    """Equal, and every statement in the same place of the same file.

    Equality leaves positions out, but explanations print them: a comment
    inserted above moves every line.
    """
    return old == new and repr(old) == repr(new)


def _summarise(config: MeshConfig) -> None:
    warnings = [d for d in config.diagnostics if d.severity == "warning"]
    if warnings:
        _log.warning("policy loaded with %d warnings; the first: %s", len(warnings), warnings[0])
