"""``meshclient explain``: what a call would do under policy files, and why. Sends nothing."""

from __future__ import annotations

import argparse
import json
import os
import sys

from meshclient.errors import ConfigError, NotReadyError

#: How long endpoints that are discovered may take; explain shows what is known then.
_WAIT_S = 2.0


def run(options: argparse.Namespace) -> int:
    """Explain and print; returns the exit code."""
    paths = options.paths or _from_environment()
    if not paths:
        return _usage("no policy: give -f PATH, or set MESHCLIENT_CONFIG")
    headers: list[tuple[str, str]] = []
    for text in options.headers:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            return _usage(f"not a header: {text!r}; write 'name: value'")
        headers.append((name.strip(), value.strip()))
    for path in paths:
        if not os.path.exists(path):
            return _usage(f"{path}: no such file")
    try:
        return _explain(options, paths, headers)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except ValueError as error:
        return _usage(str(error))


def _explain(options: argparse.Namespace, paths: list[str], headers: list[tuple[str, str]]) -> int:
    import meshclient

    with meshclient.Mesh.from_file(*paths, namespace=options.namespace, watch=False) as mesh:
        try:
            mesh.wait_ready(_WAIT_S)
        except NotReadyError as error:
            print(f"note: {error}", file=sys.stderr)
        explanation = mesh.explain(options.method, options.url, headers=headers)
        if options.format == "json":
            print(json.dumps(explanation.to_dict(), indent=2))
        else:
            print(explanation)
    return 0


def _from_environment() -> list[str]:
    value = os.environ.get("MESHCLIENT_CONFIG", "")
    return [path for path in value.split(os.pathsep) if path]


def _usage(message: str) -> int:
    print(f"meshclient explain: {message}", file=sys.stderr)
    return 2
