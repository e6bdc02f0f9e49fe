"""``meshclient check``: what is wrong with policy files, for people, programs and GitHub.

Prints; decides nothing. Exit code 0: usable (warnings allowed), 1: errors,
2: a path that is not there.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

from meshclient.config.load import Loaded, inspect_paths
from meshclient.model.source import NOT_HONOURED, Diagnostic

_GITHUB = {"error": "error", "warning": "warning", "info": "notice"}


def run(paths: list[str], output: str, namespace: str | None) -> int:
    """Check and print; returns the exit code."""
    loaded = inspect_paths(paths, namespace=namespace)
    if output == "json":
        print(json.dumps(as_json(loaded), indent=2))
    elif output == "github":
        for found in loaded.diagnostics:
            print(github_line(found))
        print(summary(loaded)[0])
    else:
        print("\n".join(as_text(loaded)))
    if any(d.code == "missing-path" for d in loaded.diagnostics):
        return 2
    return 1 if loaded.has_errors else 0


def as_text(loaded: Loaded) -> list[str]:
    """Findings in the order of the files, then the summary."""
    listed = [str(d) for d in loaded.diagnostics if d.code != NOT_HONOURED]
    return [*listed, *([""] if listed else []), *summary(loaded)]


def summary(loaded: Loaded) -> list[str]:
    """What was found, counted; then all that is not yet honoured, one line each."""
    counts = Counter(d.severity for d in loaded.diagnostics)
    hosts = {
        host.name
        for table in loaded.config.route_configurations.values()
        for host in table.virtual_hosts
    }
    parts = [
        _count(len(loaded.config.files), "file"),
        _count(loaded.documents, "document"),
        _count(len(hosts), "virtual host"),
        _count(len(loaded.config.clusters), "cluster"),
        _count(counts["error"], "error"),
        _count(counts["warning"], "warning"),
    ]
    lines = [", ".join(parts)]
    waiting = [d for d in loaded.diagnostics if d.code == NOT_HONOURED]
    if waiting:
        lines.append("not yet honoured:")
        lines.extend(f"  {d.source.short}: {d.field}: {d.message}" for d in waiting)
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def as_json(loaded: Loaded) -> dict[str, Any]:
    """A stable shape: ``ok``, counts, ``diagnostics`` and ``not_honoured``."""
    tables = loaded.config.route_configurations.values()
    return {
        "ok": not loaded.has_errors,
        "files": list(loaded.config.files),
        "documents": loaded.documents,
        "virtual_hosts": len({h.name for t in tables for h in t.virtual_hosts}),
        "clusters": len(loaded.config.clusters),
        "diagnostics": [_plain(d) for d in loaded.diagnostics if d.code != NOT_HONOURED],
        "not_honoured": [_plain(d) for d in loaded.diagnostics if d.code == NOT_HONOURED],
    }


def _plain(found: Diagnostic) -> dict[str, Any]:
    plain = asdict(found)
    return {**plain.pop("source"), **plain}


def github_line(found: Diagnostic) -> str:
    """One workflow command; line breaks and the separators of properties are escaped."""
    source = found.source
    properties = {"file": source.file}
    if source.line:
        properties |= {"line": str(source.line), "col": str(source.column)}
    properties["title"] = f"{found.code}: {source.document}" if source.document else found.code
    listed = ",".join(f"{k}={_property(v)}" for k, v in properties.items() if v)
    message = f"{found.field}: {found.message}" if found.field else found.message
    if found.suggestion:
        message += f" ({found.suggestion})"
    return f"::{_GITHUB[found.severity]} {listed}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
