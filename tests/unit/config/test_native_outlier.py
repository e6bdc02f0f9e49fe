"""``outlier_detection`` of the native file: every key, every refusal, and what cannot work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from meshclient.config import load_documents
from meshclient.errors import ConfigError
from meshclient.model.cluster import OutlierDetection
from meshclient.model.snapshot import MeshConfig
from meshclient.model.source import Diagnostic

_TEN = [f"10.0.0.{number}:80" for number in range(1, 11)]


def load(block: Any, endpoints: Sequence[Any] = _TEN, **service: Any) -> MeshConfig:
    return load_documents(
        [
            {
                "version": 1,
                "services": {
                    "s": {"endpoints": list(endpoints), "outlier_detection": block, **service},
                },
            }
        ]
    )


def detection_of(block: dict[str, Any]) -> OutlierDetection | None:
    loaded = load(block)
    cluster = loaded.clusters["s"]
    assert cluster.not_honoured == ()
    return cluster.policy.outlier_detection


def test_an_empty_block_has_envoys_defaults() -> None:
    assert detection_of({}) == OutlierDetection()


_SPLIT = {"split_external_local_origin_errors": True}


@pytest.mark.parametrize(
    ("block", "changes"),
    [
        ({"consecutive_5xx": 0}, {"consecutive_5xx": None}),
        ({"consecutive_gateway_failure": 4}, {"consecutive_gateway_failure": 4}),
        ({"consecutive_gateway_failure": 0}, {}),
        ({"interval": "300ms"}, {"interval_s": 0.3}),
        ({"base_ejection_time": "1m"}, {"base_ejection_time_s": 60.0}),
        (
            {"base_ejection_time": "10m"},
            {"base_ejection_time_s": 600.0, "max_ejection_time_s": 600.0},
        ),
        ({"max_ejection_time": "40s"}, {"max_ejection_time_s": 40.0}),
        ({"max_ejection_time_jitter": "2s"}, {"max_ejection_time_jitter_s": 2.0}),
        ({"max_ejection_time_jitter": "0s"}, {}),
        ({"http_error_codes": [429, 503, 429]}, {"http_error_codes": (429, 503)}),
        (
            {**_SPLIT, "consecutive_local_origin_failure": 3},
            {**_SPLIT, "consecutive_local_origin_failure": 3},
        ),
        *(
            ({**_SPLIT, name: value}, {**_SPLIT, name: value})
            for name, value in (
                ("enforcing_consecutive_local_origin_failure", 1),
                ("enforcing_local_origin_success_rate", 2),
                ("enforcing_failure_percentage_local_origin", 3),
            )
        ),
        *(
            ({name: value}, {name: value})
            for name, value in (
                ("max_ejection_percent", 50),
                ("min_health_percent", 30),
                ("always_eject_one_host", True),
                ("enforcing_consecutive_5xx", 0),
                ("enforcing_consecutive_gateway_failure", 7),
                ("enforcing_success_rate", 8),
                ("enforcing_failure_percentage", 9),
                ("success_rate_minimum_hosts", 3),
                ("success_rate_request_volume", 10),
                ("success_rate_stdev_factor", 1500),
                ("failure_percentage_threshold", 60),
                ("failure_percentage_minimum_hosts", 2),
                ("failure_percentage_request_volume", 11),
                ("successful_active_health_check_uneject_host", False),
                ("detect_degraded_hosts", True),
            )
        ),
    ],
)
def test_every_key(block: dict[str, Any], changes: dict[str, Any]) -> None:
    assert detection_of(block) == OutlierDetection(**changes)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"consecutive_5x": 3}, 'did you mean "consecutive_5xx"?'),
        ({"consecutive_5xx": -1}, "-1 is less than 0"),
        ({"max_ejection_percent": 101}, "101 is more than 100"),
        ({"interval": "0s"}, "too short"),
        ({"interval": 10}, "write 10s"),
        ({"http_error_codes": [99]}, "99 is less than 100"),
        (
            {"base_ejection_time": "40s", "max_ejection_time": "30s"},
            "max_ejection_time is less than base_ejection_time",
        ),
        *(
            ({name: 1}, "has no effect without split_external_local_origin_errors: true")
            for name in (
                "consecutive_local_origin_failure",
                "enforcing_consecutive_local_origin_failure",
                "enforcing_local_origin_success_rate",
                "enforcing_failure_percentage_local_origin",
            )
        ),
    ],
)
def test_what_is_refused(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(block)
    assert message in str(caught.value)


def _inert(loaded: MeshConfig) -> list[Diagnostic]:
    return [found for found in loaded.diagnostics if found.code == "outlier-inert"]


@pytest.mark.parametrize(
    ("block", "endpoints", "warned"),
    [
        ({}, 9, True),
        ({}, 10, False),
        ({"max_ejection_percent": 33}, 3, True),
        ({"max_ejection_percent": 34}, 3, False),
        ({"always_eject_one_host": True}, 3, False),
        ({"max_ejection_percent": 100}, 1, False),
    ],
)
def test_a_percentage_that_never_ejects_is_named(
    block: dict[str, Any], endpoints: int, warned: bool
) -> None:
    found = _inert(load(block, _TEN[:endpoints]))
    assert bool(found) is warned
    if warned:
        least = -(-100 // endpoints)
        assert f"set max_ejection_percent: {least} or more" in found[0].suggestion


def test_a_subset_may_be_too_small_where_the_service_is_not() -> None:
    labelled = [
        {"address": address, "labels": {"v": "2" if number > 7 else "1"}}
        for number, address in enumerate(_TEN)
    ]
    loaded = load({}, labelled, subsets={"two": {"labels": {"v": "2"}}})
    (found,) = _inert(loaded)
    assert '2 endpoints of subset "two"' in found.message
