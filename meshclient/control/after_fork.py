"""Which live objects must be repaired in the child of a fork.

In the child only the forking thread exists: a lock that another thread held
stays locked for ever, and the control thread is gone. Each registered object
replaces its own locks and forgets its own threads; it must not start a thread
or wait here (a child that calls ``exec`` next should pay nothing).
"""

from __future__ import annotations

import logging
import os
import threading
from typing import Protocol
from weakref import WeakSet

_log = logging.getLogger("meshclient.control")


class ForkAware(Protocol):
    """Something that has locks, threads or file descriptors of its own."""

    def after_fork_in_child(self) -> None:
        """Forget what the parent's threads held. Independent of all others."""


_live: WeakSet[ForkAware] = WeakSet()
_lock = threading.Lock()


def register(target: ForkAware) -> None:
    """Have ``target`` repaired in every child from now on; held weakly."""
    with _lock:
        _live.add(target)


def _repair() -> None:
    global _lock
    _lock = threading.Lock()
    for target in list(_live):
        try:
            target.after_fork_in_child()
        except Exception:
            _log.exception("could not repair %r after a fork", target)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_repair)
