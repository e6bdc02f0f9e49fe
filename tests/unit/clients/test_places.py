"""Which targets a change of policy lets go of, from the words of policy and caller."""

from __future__ import annotations

import ssl

import pytest

from meshclient.clients.places import lets_go
from meshclient.model.cluster import ConnectionOptions
from meshclient.transport.interface import Target
from meshclient.transport.proxy import parse_proxy
from meshclient.transport.tls import TlsIdentity
from meshclient.transport.tls_context import RotatingContext
from meshclient.transport.tls_source import FileSource

OPTIONS = ConnectionOptions()
OLD, NEW = RotatingContext(FileSource()), RotatingContext(FileSource())
CALLERS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ONE, TWO = parse_proxy("http://127.0.0.1:3128"), parse_proxy("http://127.0.0.1:3129")


def place(context=None, name="", proxy=None, options=OPTIONS, address="10.0.0.1"):
    return (address, 80, options, None, context, name, proxy)


def target(context=None, name="", proxy=None, options=OPTIONS):
    tls = None if context is None else TlsIdentity(name, context)
    return Target("10.0.0.1", 80, tls, options, proxy=proxy)


@pytest.mark.parametrize(
    ("before", "after", "of", "leaves"),
    [
        (place(), place(), target(), False),
        (place(), None, target(), True),
        (place(), None, target(CALLERS, "a.test"), True),
        (place(), place(), target(CALLERS, "a.test"), False),
        (place(), place(NEW), target(), True),
        (place(OLD), place(NEW), target(OLD, "web"), True),
        (place(OLD), place(OLD), target(OLD, "web"), False),
        (place(OLD), place(), target(OLD, "web"), True),
        (place(OLD, "a"), place(OLD, "b"), target(OLD, "a"), True),
        (place(OLD, "a"), place(OLD, ""), target(OLD, "a"), True),
        (place(OLD, ""), place(OLD, "b"), target(OLD, "a"), True),
        (place(OLD, ""), place(OLD, "b"), target(OLD, "b"), False),
        (place(proxy=ONE), place(proxy=TWO), target(proxy=ONE), True),
        (place(proxy=ONE), place(), target(proxy=ONE), True),
        (place(), place(proxy=TWO), target(), True),
        (place(), place(proxy=TWO), target(proxy=ONE), True),
        (place(), place(proxy=TWO), target(proxy=TWO), False),
        (place(), place(), target(proxy=ONE), False),
        (place(), place(options=ConnectionOptions(max_requests=1)), target(), True),
        (place(address="10.0.0.2"), None, target(), False),
    ],
)
def test_what_leaves(before, after, of, leaves) -> None:
    kept = set() if after is None else {after}
    gone = {before} - kept
    assert lets_go(of, gone, kept) is leaves


def test_what_another_cluster_still_dials_stays() -> None:
    kept = {place(OLD, "a"), place(OLD, "b")}
    assert not lets_go(target(OLD, "b"), {place(OLD, "")}, kept)
