"""The public API against its golden file: a change of it is a decision, not an accident.

``MESHCLIENT_UPDATE_GOLDEN=1 pytest tests/unit/test_public_api.py`` writes the file anew.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import meshclient

GOLDEN = Path(__file__).parent.parent / "golden" / "public_api.txt"


def _signature(member: object) -> str:
    try:
        text = str(inspect.signature(member))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "(...)"
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _members(cls: type) -> list[str]:
    lines = []
    for name, member in sorted(vars(cls).items()):
        if name.startswith("_"):
            continue
        if isinstance(member, (classmethod, staticmethod)):
            kind = type(member).__name__
            lines.append(f"    {kind} {name}{_signature(member.__func__)}")
        elif isinstance(member, property):
            lines.append(f"    property {name}")
        elif inspect.isfunction(member):
            prefix = "async " if inspect.iscoroutinefunction(member) else ""
            lines.append(f"    {prefix}def {name}{_signature(member)}")
        elif dataclasses.is_dataclass(cls) or inspect.ismemberdescriptor(member):
            lines.append(f"    {name}")
        elif not callable(member):
            lines.append(f"    {name} = {member!r}")
    return lines


def describe() -> str:
    """The whole surface as text, one name a line."""
    lines = []
    for name in sorted(meshclient.__all__):
        value = getattr(meshclient, name)
        if not inspect.isclass(value):
            lines.append(name)
            continue
        bases = ", ".join(base.__name__ for base in value.__bases__)
        lines.append(f"class {name}({bases})")
        if not issubclass(value, BaseException):
            lines.append(f"    __init__{_signature(value.__init__)}")
        lines += _members(value)
    return "\n".join(lines) + "\n"


def test_the_public_api_is_what_the_golden_file_says():
    """Read the diff, decide, then update the file together with the changelog."""
    if os.environ.get("MESHCLIENT_UPDATE_GOLDEN"):
        GOLDEN.write_text(describe())
    assert describe() == GOLDEN.read_text()


def test_every_public_name_has_a_docstring():
    for name in meshclient.__all__:
        value = getattr(meshclient, name)
        if inspect.isclass(value):
            assert inspect.getdoc(value), name


def test_importing_the_package_loads_no_client_library():
    """Heavy imports wait for their first use."""
    heavy = "httpx httpx2 httpcore grpc dns opentelemetry tenacity pybreaker yaml asyncio"
    program = (
        f"import sys, meshclient;print(' '.join(m for m in '{heavy}'.split() if m in sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert run.stdout.strip() == ""
