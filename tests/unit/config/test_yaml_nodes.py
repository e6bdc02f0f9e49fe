"""YAML text to nodes: positions, scalars, limits. No policy in here."""

from __future__ import annotations

import json
import math
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from meshclient.config import yaml_nodes
from meshclient.config.diagnostics import Diagnostics
from meshclient.config.python_nodes import from_python
from meshclient.config.yaml_nodes import MAX_DEPTH, MAX_VALUES, Node, parse, to_python


def read(text: str) -> tuple[list[Node], list[str]]:
    sink = Diagnostics()
    return parse(text, "f.yaml", sink), [str(d) for d in sink]


def one(text: str) -> object:
    nodes, problems = read(text)
    assert problems == []
    return to_python(nodes[0])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("010", "010"),
        ("1_000", "1_000"),
        ("0x1f", 31),
        ("0o17", 15),
        ("-5", -5),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("! 5", "5"),
        ("!!int '5'", 5),
        ("1.2.3", "1.2.3"),
        ("99999999999999999999999999", 1e26),
        ("9" * 5000, math.inf),
    ],
)
def test_scalars_mean_what_kubernetes_tools_make_of_them(text: str, value: object) -> None:
    assert one(f"k: {text}") == {"k": value}
    assert type(one(f"k: {text}")["k"]) is type(value)  # type: ignore[index]


def test_nulls_in_all_spellings() -> None:
    assert one("a:\nb: ~\nc: null\nd: Null") == dict.fromkeys("abcd")


def test_every_node_knows_its_line_and_column() -> None:
    node = read("a: 1\nb:\n  - x\n  - {c: d}\n")[0][0]
    inner = node.value["b"].value[1]
    assert (inner.line, inner.column) == (4, 5)
    assert inner.keys == {"c": (4, 6)}
    assert (inner.value["c"].line, inner.value["c"].column) == (4, 9)


def test_columns_count_characters_not_bytes() -> None:
    node = read("é: {ü: x}")[0][0]
    assert node.value["é"].value["ü"].column == 8


def test_documents_are_separated_and_empty_ones_left_out() -> None:
    nodes, problems = read("---\n---\na: 1\n---\n# nothing\n---\nb: 2\n...\n")
    assert [to_python(n) for n in nodes] == [{"a": 1}, {"b": 2}]
    assert problems == []


def test_json_is_yaml() -> None:
    data = {"a": [1, 2.5, None, True, 'x\n\t"é'], "b": {"c": {}}, "d": []}
    assert one(json.dumps(data, indent="\t")) == data


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3", 'f.yaml:3:1: error: duplicate key "a", first given in line 1'),
        ("a: *x", "f.yaml:1:4: error: the alias *x has no anchor above it"),
        ("a: &x [*x]", "f.yaml:1:8: error: the alias *x contains itself"),
        ("a: !!python/name:os.x y", "f.yaml:1:4: error: the YAML tag !!python/name:os.x is not"),
        ("a: !!binary eA==", "f.yaml:1:4: error: the YAML tag !!binary is not supported"),
        ("? [a]\n: 1", "f.yaml:1:3: error: a mapping key must be a plain text"),
        ("<<: 5", "f.yaml:1:5: error: << takes a mapping"),
        ("a: b: c", "f.yaml:1:5: error: mapping values are not allowed"),
        ("a:\n\t- b", "indent with spaces, not tabs"),
        ("a: {{ .Values.b }} c", "this looks like a template"),
        ("a: b\nc: d\x01", "f.yaml:2:5: error: character U+0001: control characters"),
        ("a: [1, 2", "f.yaml:"),
        ("a: 'x", "f.yaml:"),
        ("%YAML 9.9\n---\na", "f.yaml:1:1"),
    ],
)
def test_mistakes_are_named_with_their_place(text: str, problem: str) -> None:
    problems = read(text)[1]
    assert any(problem in p for p in problems), problems


def test_documents_before_a_syntax_error_survive() -> None:
    nodes, problems = read("a: 1\n---\nb: [")
    assert [to_python(n) for n in nodes] == [{"a": 1}]
    assert len(problems) == 1


def test_merge_keys_as_in_yaml_1_1() -> None:
    text = "x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz:\n  <<: [*x, *y]\n  a: 9\n'<<': plain\n"
    assert one(text) == {
        "x": {"a": 1, "b": 2},
        "y": {"b": 3, "c": 4},
        "z": {"a": 9, "b": 2, "c": 4},
        "<<": "plain",
    }


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


def test_an_alias_bomb_is_refused_quickly() -> None:
    started = time.process_time()
    nodes, problems = read(bomb(40))
    assert nodes == []
    assert f"more than {MAX_VALUES} values" in problems[0]
    assert time.process_time() - started < 2


def test_a_merge_bomb_is_refused() -> None:
    wide = ", ".join(f"k{i}: v" for i in range(1000))
    merges = "\n".join(f"m{i}: {{<<: *w}}" for i in range(1000))
    assert "more than" in read(f"w: &w {{{wide}}}\n{merges}")[1][0]


def test_small_use_of_aliases_is_fine() -> None:
    assert len(one(bomb(4))["a3"]) == 10  # type: ignore[index]


@pytest.mark.parametrize("unit", ["[", "{a: ", "- ", "? ", "- ? ", "[{a: "])
def test_deep_nesting_is_refused_before_it_is_built(unit: str) -> None:
    nodes, problems = read(unit * 50_000)
    assert nodes == []
    assert f"nested more than {MAX_DEPTH} levels" in problems[0]


def test_depth_limit_is_exact() -> None:
    assert read("[" * MAX_DEPTH + "]" * MAX_DEPTH)[1] == []
    assert "nested more than" in read("[" * 65 + "]" * 65)[1][0]


def test_a_hundred_levels_in_block_style() -> None:
    text = "".join("  " * i + "k:\n" for i in range(100))
    assert "f.yaml:65:129: error: nested more than 64" in read(text)[1][0]


def test_too_many_values() -> None:
    assert "more than" in read("[" + "1," * (MAX_VALUES + 1) + "1]")[1][0]


def test_pure_python_parser_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: [1, {b: 'x'}]\nc: |\n  text\n"
    expected = one(text)
    monkeypatch.setattr(yaml_nodes, "_LOADER", yaml.SafeLoader)
    assert one(text) == expected
    assert "nested more than" in read("[" * 5000)[1][0]
    assert "control" in read("a: \x01")[1][0] or "not allowed" in read("a: \x01")[1][0]


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=200))
def test_any_text_gives_nodes_or_findings(text: str) -> None:
    sink = Diagnostics()
    parse(text, "f.yaml", sink)
    for found in sink:
        assert found.severity == "error"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=100)
@given(json_values)
def test_parsed_data_survives_the_copy(value: object) -> None:
    sink = Diagnostics()
    node = from_python(value, "", sink)
    assert node is not None
    assert to_python(node) == value
    assert list(sink) == []


def test_parsed_data_has_the_same_limits() -> None:
    deep: object = 1
    for _ in range(100):
        deep = [deep]
    loop: list[object] = []
    loop.append(loop)
    wide: object = ["x"] * 10
    for _ in range(9):
        wide = [wide] * 10
    for value in (deep, loop, wide):
        sink = Diagnostics()
        assert from_python(value, "", sink) is None
        assert sink.has_errors


def test_parsed_data_of_strange_types() -> None:
    sink = Diagnostics()
    node = from_python({7: b"x", True: {2.5}, None: 10**5000, 10**5000: 1, "7": 0}, "", sink)
    assert node is not None
    assert list(node.value)[:3] == ["7", "true", "null"]
    assert [(d.code, d.field) for d in sink] == [
        ("invalid", "7"),
        ("invalid", "true"),
        ("duplicate-key", "7"),
    ]
