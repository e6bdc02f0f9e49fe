"""Certificate files that documents name: where a relative path leads.

Looks whether a file is there, for a warning; opens none, and a file that is
missing today may be there tomorrow.
"""

from __future__ import annotations

import os

from meshclient.config.reader import Reader


def path_of(block: Reader, name: str) -> str:
    """The path in field ``name``; a relative one is relative to the document's file.

    In documents that come from no file it stays relative to the working
    directory. A file that is not there is a warning: calls are refused until it is.
    """
    field = block.field(name)
    if field is None:
        return ""
    text = field.string()
    if text == "":
        field.error("must not be empty")
    if not text or not field.source.file:
        return text or ""
    path = os.path.join(os.path.dirname(os.path.abspath(field.source.file)), text)
    if not os.path.exists(path):
        field.warning(
            f"{path} does not exist; calls are refused until it does", code="missing-file"
        )
    return path
