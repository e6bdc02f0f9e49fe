"""The ``meshclient`` command: arguments in, text out, exit code 0, 1 or 2.

Each command is a module of its own, imported when it runs. No policy here.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TextIO

OK, PROBLEMS, USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. 0: fine; 1: the documents or the call have problems; 2: wrong usage."""
    _tolerate_any_text(sys.stdout)
    _tolerate_any_text(sys.stderr)
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except BrokenPipeError:  # the reader of our output has gone: | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _run(options: argparse.Namespace) -> int:
    if options.command == "check":
        from meshclient.cli import check

        return check.run(options.paths, options.format, options.namespace)
    if options.command == "explain":
        from meshclient.cli import explain

        return explain.run(options)
    from meshclient.cli import schema

    return schema.run(options.write)


def _tolerate_any_text(stream: TextIO) -> None:
    """A document may contain what the terminal's encoding cannot show."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="meshclient", description="A service mesh inside the Python process."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="find the mistakes in policy files")
    check.add_argument("paths", nargs="+", metavar="PATH", help="a file or a directory")
    check.add_argument("--format", choices=("text", "json", "github"), default="text")
    _add_namespace(check)
    explain = commands.add_parser("explain", help="say what a call would do, and why")
    explain.add_argument("method", metavar="METHOD", help="such as GET")
    explain.add_argument("url", metavar="URL", help="what the application would dial")
    explain.add_argument(
        "-H", "--header", action="append", default=[], metavar="'NAME: VALUE'", dest="headers"
    )
    explain.add_argument(
        "-f",
        "--file",
        action="append",
        default=[],
        metavar="PATH",
        dest="paths",
        help="a policy file or directory; default: $MESHCLIENT_CONFIG",
    )
    explain.add_argument("--format", choices=("text", "json"), default="text")
    _add_namespace(explain)
    schema = commands.add_parser("schema", help="print the JSON Schema of the native policy file")
    schema.add_argument("--write", action="store_true", help="write it into the package instead")
    return parser


def _add_namespace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--namespace", help="namespace of the caller; wins over the documents")
