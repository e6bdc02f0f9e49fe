"""Size limits of response heads in the native file: values, defaults, mistakes."""

from __future__ import annotations

from typing import Any

import pytest

from meshclient.config import load_documents
from meshclient.errors import ConfigError
from meshclient.model.cluster import ConnectionOptions


def options(**connection: Any) -> ConnectionOptions:
    service = {"endpoints": ["h:1"], "connection": connection}
    config = load_documents([{"version": 1, "services": {"a": service}}])
    (cluster,) = config.clusters.values()
    return cluster.policy.connection


def test_the_defaults_are_envoys() -> None:
    assert options() == ConnectionOptions()
    assert (options().max_response_header_kb, options().max_response_headers) == (80, 100)


@pytest.mark.parametrize(("kb", "lines"), [(1, 1), (96, 500), (8192, 4294967295)])
def test_values(kb: int, lines: int) -> None:
    found = options(max_response_header_kb=kb, max_response_headers=lines)
    assert (found.max_response_header_kb, found.max_response_headers) == (kb, lines)


@pytest.mark.parametrize("value", [0, -1, 8193, "80", "80k", 1.5, True, [80]])
def test_sizes_that_are_none(value: Any) -> None:
    with pytest.raises(ConfigError, match="max_response_header_kb"):
        options(max_response_header_kb=value)


@pytest.mark.parametrize("value", [0, -1, 4294967296, "many", 1.5])
def test_counts_that_are_none(value: Any) -> None:
    with pytest.raises(ConfigError, match="max_response_headers"):
        options(max_response_headers=value)


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(ConfigError, match="max_response_header_kb"):
        options(max_response_headers_kb=80)
