"""The published JSON Schema: current, valid, and of one mind with the reader."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from meshclient.config import load_documents, schema
from meshclient.config.diagnostics import Diagnostics
from meshclient.config.durations import DurationError, parse_ns
from meshclient.config.yaml_nodes import parse, to_python
from meshclient.errors import ConfigError

DOCS = Path(__file__).parents[3] / "docs" / "policy-file.md"
EXAMPLES = [
    to_python(parse(text, "", Diagnostics())[0])
    for text in re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
]
VALIDATOR = jsonschema.Draft202012Validator(schema.generate())


def test_the_published_file_is_the_generated_one() -> None:
    assert schema.FILE.read_text(encoding="utf-8") == schema.text(), (
        "run: meshclient schema --write"
    )


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema.generate())


def test_every_reference_leads_somewhere() -> None:
    generated = schema.generate()
    names = set(re.findall(r'"#/\$defs/(\w+)"', schema.text()))
    assert names == set(generated["$defs"])


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_of_the_documentation_is_valid(example: Any) -> None:
    assert [e.message for e in VALIDATOR.iter_errors(example)] == []


def misspelled(value: Any) -> list[Any]:
    """Copies of the document, each with one key that the format fixes spelled wrong."""
    free = {"services", "labels", "subsets", "headers", "query", "cookies", "set", "add", "to"}
    free |= {"entries", "refusal_headers"}
    free |= {"source_labels", "metadata", "default_subset", "subset", "attributes"}
    copies: list[Any] = []
    if isinstance(value, dict):
        for key, inner in value.items():
            copies.append({(k + "q" if k == key else k): v for k, v in value.items()})
            deeper = inner.values() if key in free and isinstance(inner, dict) else ()
            if key not in free:
                copies += [{**value, key: changed} for changed in misspelled(inner)]
            for name, part in zip(inner, deeper, strict=True) if deeper else ():
                if name not in free:
                    copies += [{**value, key: {**inner, name: c}} for c in misspelled(part)]
    elif isinstance(value, list):
        for index, item in enumerate(value):
            copies += [[*value[:index], c, *value[index + 1 :]] for c in misspelled(item)]
    return copies


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_misspelled_key_fails_both(example: Any) -> None:
    copies = misspelled(example)
    assert copies
    for copy in copies:
        assert not VALIDATOR.is_valid(copy), copy
        with pytest.raises(ConfigError):
            load_documents([copy])


def service(**block: Any) -> dict[str, Any]:
    return {"version": 1, "services": {"a": {"endpoints": ["h:1"], **block}}}


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"version": 2},
        {"version": 1, "outbound": "x"},
        service(dns="x:1"),
        service(timeout=5),
        service(timeout="5"),
        service(port=0),
        service(load_balancing="x"),
        service(retries={"attempts": -1}),
        service(retries={"on": ["x"]}),
        service(retries={"on": [700]}),
        service(routes=[{"to": {"a": -1}}]),
        service(routes=[{"to": "a", "respond": {"status": 200}}]),
        service(routes=[{"match": {"path": "/a", "prefix": "/a"}}]),
        service(routes=[{"match": {"headers": {"a": {}}}}]),
        service(routes=[{"match": {"headers": {"a": {"exact": "x", "prefix": "x"}}}}]),
        service(routes=[{"redirect": {"status": 304}}]),
        service(fault={"abort": {}}),
        service(tls={}),
        service(subsets={"x": {}}),
        service(load_balancing={"hash_on": {}}),
    ],
)
def test_both_refuse(document: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(document)
    if document:
        with pytest.raises(ConfigError):
            load_documents([document])


@pytest.mark.parametrize(
    "text", ["1s", "1.5s", "1h30m", "0", "0s", ".5s", "1", "", "1x", "s", "1.5"]
)
def test_durations_mean_the_same_to_both(text: str) -> None:
    definition = schema.generate()["$defs"]["duration"]
    valid = jsonschema.Draft202012Validator(definition).is_valid(text)
    try:
        parse_ns(text)
    except DurationError:
        assert not valid
    else:
        assert valid
