"""/etc/hosts: names that need no query.

Parsing and look-up only; when the hosts file is asked is decided in
:mod:`meshclient.discovery.names`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from meshclient.discovery.watched_file import WatchedFile

Hosts = Mapping[str, tuple[str, ...]]


def parse_hosts(text: str) -> Hosts:
    """Lower-case name or alias -> its addresses, in the order of the file.

    As hosts(5): ``#`` starts a comment anywhere, a name may stand on several
    lines, and a line that does not start with an IP address is skipped.
    """
    hosts: dict[str, dict[str, None]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) < 2:
            continue
        try:
            address = str(ipaddress.ip_address(words[0]))
        except ValueError:
            continue
        for name in words[1:]:
            hosts.setdefault(name.lower().rstrip("."), {})[address] = None
    return {name: tuple(addresses) for name, addresses in hosts.items()}


class HostsFile:
    """The hosts file at ``path``, read again when it changes. Not thread-safe."""

    __slots__ = ("_file",)

    def __init__(self, path: str) -> None:
        self._file: WatchedFile[Hosts] = WatchedFile(path, parse_hosts)

    def lookup(self, name: str) -> tuple[str, ...]:
        """The addresses of ``name`` (any case, final dot ignored); empty if not listed."""
        return self._file.get().get(name.lower().rstrip("."), ())
