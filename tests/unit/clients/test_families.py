"""Errors are the mesh's and the client library's at once, in both families."""

from __future__ import annotations

import pickle

import httpx
import httpx2
import pytest

from meshclient import errors
from meshclient.clients.families import family_of
from meshclient.model.report import CallReport


class Record:
    """A finished call, as the core keeps it."""

    host = "reviews"
    snapshot_version = 3
    virtual_host_name = "reviews"
    route_name = "v2"
    cluster_name = "reviews/v2"
    attempts = ()
    flags = ("UF",)
    notes = ()
    fallen_back = ""


CASES = [
    (errors.InvalidRequest, "LocalProtocolError"),
    (errors.UnknownHost, "ConnectError"),
    (errors.NoRoute, "ConnectError"),
    (errors.UnknownCluster, "ConnectError"),
    (errors.NoHealthyEndpoint, "ConnectError"),
    (errors.Overflow, "ConnectError"),
    (errors.SecurityError, "ConnectError"),
    (errors.ConnectFailed, "ConnectError"),
    (errors.ConnectTimeout, "ConnectTimeout"),
    (errors.UpstreamReset, "ReadError"),
    (errors.UpstreamProtocolError, "RemoteProtocolError"),
    (errors.RouteTimeout, "ReadTimeout"),
    (errors.PerTryTimeout, "ReadTimeout"),
    (errors.DeadlineExceeded, "ReadTimeout"),
]


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
@pytest.mark.parametrize(("kind", "counterpart"), CASES, ids=lambda v: getattr(v, "__name__", v))
def test_an_error_is_both(library, kind, counterpart):
    """Old handlers and new ones catch the same object."""
    request = library.Request("GET", "http://reviews/")
    plain = kind("GET http://reviews/: it broke", CallReport(Record()))
    made = family_of(request).error(plain, request)
    assert isinstance(made, kind)
    assert isinstance(made, getattr(library, counterpart))
    assert isinstance(made, library.TransportError)
    assert isinstance(made, TimeoutError) is issubclass(kind, errors.CallTimeout)
    assert str(made) == "GET http://reviews/: it broke"
    assert made.request is request
    assert made.report.flags == ("UF",)
    assert (made.status, made.flag) == (kind.status, kind.flag)


@pytest.mark.parametrize("kind", [errors.ConnectFailed, errors.RouteTimeout])
def test_an_error_travels_between_processes(kind):
    """Celery and multiprocessing pickle what a task raises."""
    request = httpx.Request("GET", "http://reviews/")
    made = family_of(request).error(kind("it broke", CallReport(Record())), request)
    copy = pickle.loads(pickle.dumps(made))
    assert isinstance(copy, kind)
    assert isinstance(copy, httpx.TransportError)
    assert str(copy) == "it broke"
    assert copy.report.to_dict() == made.report.to_dict()


def test_a_write_timeout_keeps_its_name():
    request = httpx.Request("GET", "http://reviews/")
    plain = errors.DeadlineExceeded("too slow", CallReport(Record()))
    assert isinstance(family_of(request).error(plain, request, "write"), httpx.WriteTimeout)
    assert isinstance(family_of(request).error(plain, request, "pool"), httpx.PoolTimeout)


def test_a_subclass_of_a_request_belongs_to_its_library():
    class Mine(httpx2.Request):
        pass

    assert family_of(Mine("GET", "http://reviews/")).name == "httpx2"


def test_something_else_is_refused():
    with pytest.raises(TypeError, match="not a request of httpx"):
        family_of(object())
