"""ORCA reports: every format, every mistake, and bounds."""

from __future__ import annotations

import json
import struct
from base64 import b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshclient.balancing.orca import (
    MAX_CHARACTERS,
    MAX_ENTRIES,
    LoadReport,
    Malformed,
    read_report,
)
from meshclient.model.headers import HeaderMap


def read(value: str, name: str = "endpoint-load-metrics") -> LoadReport | None:
    return read_report(HeaderMap.of([("Other", "1"), (name, value)]))


def told(report: LoadReport | None) -> dict[str, object]:
    assert report is not None
    return {name: value for name in LoadReport.__slots__ if (value := getattr(report, name))}


def double(number: int, value: float) -> bytes:
    return bytes([number << 3 | 1]) + struct.pack("<d", value)


def message(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def base64(content: bytes) -> str:
    return b64encode(content).decode()


_FULL = {
    "cpu_utilization": 0.7,
    "application_utilization": 0.8,
    "mem_utilization": 0.9,
    "rps_fractional": 1000.0,
    "eps": 2.0,
    "named_metrics": {"foo": 123.0, "bar": 0.2},
    "utilization": {"total": 0.5},
}
_TEXT = (
    "cpu_utilization=0.7,application_utilization:0.8, mem_utilization = 0.9 ,"
    "rps_fractional:1000,eps=2,named_metrics.foo=123,named_metrics.bar:0.2,utilization.total=5e-1"
)
_JSON = json.dumps(
    {
        "cpu_utilization": 0.7,
        "applicationUtilization": "0.8",
        "memUtilization": 0.9,
        "rpsFractional": 1000,
        "eps": 2,
        "namedMetrics": {"foo": 123, "bar": 0.2},
        "utilization": {"total": 0.5},
        "somethingNew": [1],
        "request_cost": None,
    }
)
_BINARY = base64(
    double(1, 0.7)
    + double(9, 0.8)
    + double(2, 0.9)
    + b"\x18\x07"  # the old whole-numbered rate: left aside
    + double(6, 1000)
    + double(7, 2)
    + message(8, message(1, b"foo") + double(2, 123))
    + message(8, double(2, 0.2) + message(1, b"bar"))
    + message(5, message(1, b"total") + double(2, 0.5))
    + message(15, b"new")
)


@pytest.mark.parametrize("text", [f"TEXT {_TEXT}", f"JSON {_JSON}", f"BIN {_BINARY}"])
def test_every_format_says_the_same(text: str) -> None:
    assert told(read(text)) == _FULL


@pytest.mark.parametrize("value", [_BINARY, _BINARY.rstrip("=")])
def test_the_binary_header_goes_first(value: str) -> None:
    both = HeaderMap.of(
        [("endpoint-load-metrics", "TEXT eps=9"), ("Endpoint-Load-Metrics-Bin", value)]
    )
    assert told(read_report(both)) == _FULL


def test_no_report_and_an_empty_one() -> None:
    assert read_report(HeaderMap([])) is None
    assert told(read("TEXT ")) == {}
    assert told(read("JSON {}")) == {}
    assert repr(read("TEXT eps=2")) == "<LoadReport eps=2.0>"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "eps=2",
        "BAD eps=2",
        "text eps=2",
        "TEXT eps",
        "TEXT =2",
        "TEXT eps=",
        "TEXT eps=two",
        "TEXT eps=1_0",
        "TEXT eps=\xb2",
        "TEXT eps=nan",
        "TEXT eps=inf",
        "TEXT eps=1e999",
        'TEXT eps="2"',
        "TEXT eps=1,eps=2",
        "TEXT speed=1",
        "TEXT named_metrics.=1",
        "TEXT request_cost.x=1",
        "JSON",
        "JSON [1]",
        "JSON {",
        "JSON " + "[" * 16_000,
        'JSON {"eps": true}',
        'JSON {"eps": [1]}',
        'JSON {"eps": NaN}',
        'JSON {"eps": "x"}',
        'JSON {"eps": ' + "9" * 400 + "}",
        'JSON {"namedMetrics": 3}',
        'JSON {"namedMetrics": {"": 3}}',
        "BIN",
        "BIN !!!!",
        "BIN " + base64(b"\x09\x00"),
        "BIN " + base64(b"\x0a\x05ab"),
        "BIN " + base64(b"\x08\x01"),
        "BIN " + base64(b"\x40\x01"),
        "BIN " + base64(b"\x0b"),
        "BIN " + base64(b"\xff" * 11),
        "BIN " + base64(double(1, float("nan"))),
        "BIN " + base64(message(8, message(1, b"a") + b"\x10\x01")),
        "BIN " + base64(message(8, double(2, 1.0))),
        "TEXT " + " " * MAX_CHARACTERS + "eps=1",
        "TEXT " + ",".join(f"named_metrics.m{n}=1" for n in range(MAX_ENTRIES + 1)),
    ],
)
def test_a_malformed_report_does_not_exist(value: str) -> None:
    with pytest.raises(Malformed):
        read(value)


@pytest.mark.parametrize(
    ("names", "most"),
    [
        ((), 0.0),
        (("cpu_utilization",), 0.7),
        (("cpu_utilization", "mem_utilization"), 0.9),
        (("named_metrics.bar", "utilization.total"), 0.5),
        (("named_metrics.*",), 123.0),
        (("named_metrics.none", "request_cost.*", "nothing", "x.y"), 0.0),
    ],
)
def test_the_largest_of_some_metrics(names: tuple[str, ...], most: float) -> None:
    report = read(f"TEXT {_TEXT}")
    assert report is not None
    assert report.largest(names) == most


@settings(deadline=None)
@given(st.one_of(st.text(), st.binary().map(lambda raw: "BIN " + base64(raw))))
def test_anything_is_a_report_or_malformed(value: str) -> None:
    headers = HeaderMap([(b"endpoint-load-metrics", value.encode("latin-1", "replace"))])
    try:
        report = read_report(headers)
    except Malformed:
        return
    assert report is not None


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(("cpu_utilization", "rps_fractional", "eps")),
        st.floats(allow_nan=False, allow_infinity=False),
        min_size=1,
    )
)
def test_numbers_arrive_whole_in_every_format(values: dict[str, float]) -> None:
    numbers = {"cpu_utilization": 1, "rps_fractional": 6, "eps": 7}
    text = ",".join(f"{name}={value!r}" for name, value in values.items())
    binary = base64(b"".join(double(numbers[name], value) for name, value in values.items()))
    for report in (f"TEXT {text}", f"JSON {json.dumps(values)}", f"BIN {binary}"):
        found = read(report)
        assert {name: getattr(found, name) for name in values} == values
