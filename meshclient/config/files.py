"""Policy files on disk: which files a list of paths means, and their text.

Bounded: nothing over the limit is read, and only regular files are opened, so
that a FIFO or a device cannot hang a load. Interprets no content.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from meshclient.config.yaml_nodes import MAX_BYTES, Sink
from meshclient.model.source import Diagnostic, Source

SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILES = 10_000


def find_files(paths: Iterable[str | os.PathLike[str]], sink: Sink) -> list[str]:
    """The files that ``paths`` (files and directories) mean, each once, in order.

    A directory gives its ``*.yaml``, ``*.yml`` and ``*.json`` files by name,
    not those of its subdirectories and none whose name starts with a dot (a
    ConfigMap mount keeps its real files in ``..data``). The same file under
    two names counts once. A missing path is an error in ``sink``.
    """
    found: dict[str, str] = {}
    for path in paths:
        text = os.fspath(path)
        for name in _expand(text, sink):
            found.setdefault(os.path.realpath(name), name)
    return list(found.values())


def _expand(path: str, sink: Sink) -> list[str]:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISDIR(mode):
            return [path]
        names = sorted(os.listdir(path))
    except (OSError, ValueError) as error:
        sink.append(_unreadable(path, error))
        return []
    wanted = [n for n in names if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
    if len(wanted) > MAX_FILES:
        what = f"more than {MAX_FILES} policy files in one directory"
        sink.append(Diagnostic("error", "too-large", what, Source(path)))
        return []
    joined = (os.path.join(path, n) for n in wanted)
    return [name for name in joined if not os.path.isdir(name)]


def read_text(path: str, sink: Sink) -> str | None:
    """The text of one file, or None with an error in ``sink``."""
    try:
        data = _read_bytes(path, sink)
    except (OSError, ValueError) as error:
        sink.append(_unreadable(path, error))
        return None
    return None if data is None else decode(data, path, sink)


def _read_bytes(path: str, sink: Sink) -> bytes | None:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        what = "not a regular file"
        sink.append(Diagnostic("error", "unreadable", what, Source(path)))
        return None
    if status.st_size <= MAX_BYTES:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) <= MAX_BYTES:
            return data
    what = f"larger than {MAX_BYTES // 1_000_000} MB"
    sink.append(Diagnostic("error", "too-large", what, Source(path), suggestion="split the file"))
    return None


def decode(data: bytes, path: str, sink: Sink) -> str | None:
    """UTF-8, with or without a byte order mark; anything else is an error in ``sink``."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        advice = "save the file as UTF-8"
        what = "the file is UTF-16, not UTF-8"
        sink.append(Diagnostic("error", "encoding", what, Source(path, 1, 1), suggestion=advice))
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind the mark
        at = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
    line_start = data.rfind(b"\n", 0, at) + 1
    column = len(data[line_start:at].decode("utf-8-sig", "replace")) + 1
    source = Source(path, data.count(b"\n", 0, at) + 1, column)
    what = f"the byte 0x{data[at]:02x} is not valid UTF-8"
    sink.append(Diagnostic("error", "encoding", what, source, suggestion="save the file as UTF-8"))
    return None


def _unreadable(path: str, error: Exception) -> Diagnostic:
    if isinstance(error, FileNotFoundError):
        near = _near(path)
        hint = f'did you mean "{near}"?' if near else ""
        return Diagnostic("error", "missing-path", "no such file", Source(path), suggestion=hint)
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Diagnostic("error", "unreadable", f"cannot be read: {reason}", Source(path))


def _near(path: str) -> str:
    """A file beside ``path`` that differs only in suffix or case."""
    wanted = Path(path)
    try:
        names = os.listdir(wanted.parent)[:MAX_FILES]
    except OSError:
        return ""
    for name in sorted(names):
        candidate = Path(name)
        same = candidate.stem.lower() == wanted.stem.lower()
        if same and candidate.suffix.lower() in (*SUFFIXES, ""):
            return str(wanted.parent / name)
    return ""
