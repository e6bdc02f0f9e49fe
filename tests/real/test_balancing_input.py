"""Clusters at the edge, as a user writes them: as Envoy serves them, or an error that says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from servers.http import HttpServer
from test_balancing_mesh import HOST, asked, named, native, servers

from meshclient import Mesh
from meshclient.config import load_documents
from meshclient.errors import ConfigError

BAD = {
    "no endpoints": ({"endpoints": []}, None, 503),
    "a weight of zero": (
        {"endpoints": [{"address": "127.0.0.1:1", "weight": 0}]},
        "weight",
        None,
    ),
    "a table whose size is not prime": (
        {
            "endpoints": ["127.0.0.1:1"],
            "load_balancing": {"policy": "maglev", "hash_on": {"source_ip": True}, "table_size": 9},
        },
        "needs a prime size",
        None,
    ),
    "a factor below 100": (
        {
            "endpoints": ["127.0.0.1:1"],
            "load_balancing": {
                "policy": "maglev",
                "hash_on": {"source_ip": True},
                "hash_balance_factor": 50,
            },
        },
        "at least 100",
        None,
    ),
}


@pytest.mark.parametrize("policy", ["round_robin", "least_request", "random", "peak_ewma"])
def test_an_address_listed_twice_counts_once(policy: str) -> None:
    with servers("ab") as (a, b):
        documents = native([a, a, b], load_balancing=policy)
        with Mesh.from_documents(documents) as mesh:
            assert len(mesh.dump()["endpoints"][HOST]) == 2
            assert set(asked(mesh, "sync", [{}] * 30)) == {"a", "b"}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_an_error_with_a_reason_or_a_503(case: str) -> None:
    service, part, status = BAD[case]
    documents = [{"version": 1, "services": {HOST: service}}]
    if part is not None:
        with pytest.raises(ConfigError, match=part):
            load_documents(documents)
        return
    with (
        Mesh.from_documents(documents, local_replies="respond") as mesh,
        mesh.client(trust_env=False) as client,
    ):
        assert client.get(f"http://{HOST}/").status_code == status


@pytest.mark.parametrize("policy", ["round_robin", "ring_hash", "maglev", "pick_first"])
def test_ipv6_and_unix_sockets_beside_each_other(policy: str, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with HttpServer(named("6"), host="::1") as six, HttpServer(named("u"), unix_path=path):
        settings: Any = policy
        if policy in ("ring_hash", "maglev"):
            settings = {"policy": policy, "hash_on": {"header": "x-user"}}
        service = {"endpoints": [six.authority, f"unix:{path}"], "load_balancing": settings}
        documents = [{"version": 1, "services": {HOST: service}}]
        requests = [{"headers": {"x-user": str(n)}} for n in range(30)]
        with Mesh.from_documents(documents) as mesh:
            found = [set(asked(mesh, how, requests)) for how in ("sync", "async")]
    assert found == [{"6"} if policy == "pick_first" else {"6", "u"}] * 2
