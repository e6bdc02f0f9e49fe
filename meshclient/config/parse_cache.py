"""Documents of files that have not changed since the last load.

A reload reads every file again but parses only the ones whose text is new, so
that the edit of one file among hundreds is in force at once. Holds parsed
nodes, which nobody changes; no translation, no diagnostics.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict

from meshclient.config.reader import Diagnostics
from meshclient.config.yaml_nodes import Node, parse

#: Characters of policy text whose documents are kept; beyond it the oldest go.
MAX_KEPT = 4 * 1024 * 1024

_lock = threading.Lock()
_kept: OrderedDict[str, tuple[str, list[Node]]] = OrderedDict()
_size = 0


def parse_file(text: str, file: str, sink: Diagnostics) -> list[Node]:
    """:func:`~meshclient.config.yaml_nodes.parse`, remembered by file and text.

    A text with any finding is parsed anew each time, so that the finding is
    reported each time. Thread-safe.
    """
    with _lock:
        known = _kept.get(file)
    if known is not None and known[0] == text:
        return known[1]
    before = len(sink)
    nodes = parse(text, file, sink)
    _remember(file, text, nodes if len(sink) == before else None)
    return nodes


def _remember(file: str, text: str, nodes: list[Node] | None) -> None:
    global _size
    with _lock:
        old = _kept.pop(file, None)
        if old is not None:
            _size -= len(old[0])
        if nodes is None or len(text) > MAX_KEPT:
            return
        _kept[file] = (text, nodes)
        _size += len(text)
        while _size > MAX_KEPT:
            _, (dropped, _nodes) = _kept.popitem(last=False)
            _size -= len(dropped)


def _after_fork() -> None:
    """The lock may have been held by a thread that the child does not have."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
