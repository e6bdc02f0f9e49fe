"""The command line: exit codes, the three formats, explain's usage, the schema."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from meshclient.cli import main
from meshclient.cli.check import github_line
from meshclient.config import schema
from meshclient.model.source import Diagnostic, Source

GOOD = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec: {hosts: [a.test], resolution: DYNAMIC_DNS, ports: [{number: 80, name: http}]}
"""
BAD = "version: 1\nservices:\n  a:\n    endpoints: ['h:1']\n    timout: 1s\n"


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return str(path)


@pytest.fixture
def bad(tmp_path: Path) -> str:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_good_file(capsys: pytest.CaptureFixture[str], good: str) -> None:
    code, out, _ = run(capsys, "check", good)
    assert code == 0
    assert out.splitlines() == [
        "1 file, 1 document, 1 virtual host, 1 cluster, 0 errors, 0 warnings",
        "not yet honoured:",
        f"  {good}:4 (ServiceEntry default/a): spec.resolution: "
        "resolution DYNAMIC_DNS (the dialled host is used): read, but not yet honoured",
    ]


def test_warnings_are_allowed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("version: 1\nservices: {a: {endpoints: []}}")
    code, out, _ = run(capsys, "check", str(path))
    assert code == 0
    assert f"{path}:2:27: warning: services.a.endpoints: no endpoints" in out


def test_a_bad_file(capsys: pytest.CaptureFixture[str], bad: str) -> None:
    code, out, _ = run(capsys, "check", bad)
    assert code == 1
    first = out.splitlines()[0]
    assert first == (
        f'{bad}:5:5: error: services.a.timout: unknown field "timout" in service '
        '(did you mean "timeout"?)'
    )
    assert "1 error, 0 warnings" in out


def test_json(capsys: pytest.CaptureFixture[str], bad: str, good: str) -> None:
    code, out, _ = run(capsys, "check", "--format", "json", bad)
    found = json.loads(out)
    assert code == 1
    assert found["ok"] is False
    assert found["diagnostics"] == [
        {
            "file": bad,
            "line": 5,
            "column": 5,
            "document": "",
            "severity": "error",
            "code": "unknown-field",
            "message": 'unknown field "timout" in service',
            "field": "services.a.timout",
            "suggestion": 'did you mean "timeout"?',
        }
    ]
    code, out, _ = run(capsys, "check", good, "--format", "json")
    found = json.loads(out)
    assert code == 0
    assert (found["ok"], found["virtual_hosts"], found["clusters"]) == (True, 1, 1)
    assert [d["field"] for d in found["not_honoured"]] == ["spec.resolution"]


def test_github(capsys: pytest.CaptureFixture[str], bad: str) -> None:
    code, out, _ = run(capsys, "check", bad, "--format", "github")
    assert code == 1
    assert out.splitlines()[0] == (
        f"::error file={bad},line=5,col=5,title=unknown-field::services.a.timout: "
        'unknown field "timout" in service (did you mean "timeout"?)'
    )


def test_github_escapes() -> None:
    source = Source("a,b:c%.yaml", 1, 2, "Pod a/b")
    found = Diagnostic("info", "x", "100%\r\nline: two", source)
    assert github_line(found) == (
        "::notice file=a%2Cb%3Ac%25.yaml,line=1,col=2,title=x%3A Pod a/b::100%25%0D%0Aline: two"
    )
    assert github_line(Diagnostic("warning", "x", "m")) == "::warning title=x::m"


def test_a_missing_path_is_wrong_usage(capsys: pytest.CaptureFixture[str], good: str) -> None:
    code, out, _ = run(capsys, "check", good, "/nowhere/at/all")
    assert code == 2
    assert "/nowhere/at/all: error: no such file" in out


@pytest.mark.parametrize(
    "arguments", [[], ["check"], ["nonsense"], ["check", "x", "--format", "x"]]
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: meshclient" in capsys.readouterr().err


def test_a_namespace_reaches_the_documents(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "version: 1\nservices: {a: {endpoints: ['h:1'], "
        "routes: [{match: {source_namespace: prod}}]}}"
    )
    assert "another caller" in run(capsys, "check", str(path))[1]
    assert "another caller" not in run(capsys, "check", str(path), "--namespace", "prod")[1]


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "schema")
    assert (code, out) == (0, schema.text())


def test_schema_write(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "FILE", tmp_path / "s.json")
    assert run(capsys, "schema", "--write")[0] == 0
    assert (tmp_path / "s.json").read_text(encoding="utf-8") == schema.text()


def test_explain(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(
        "version: 1\nservices:\n  a:\n    endpoints: [127.0.0.1:1]\n    routes:\n"
        "    - {name: teapot, match: {headers: {x-tea: 'yes'}}, respond: {status: 418}}\n"
    )
    code, out, _ = run(capsys, "explain", "GET", "http://a/x", "-f", str(path), "-H", "x-tea: yes")
    assert code == 0
    assert "teapot" in out
    assert "418" in out
    arguments = ("explain", "GET", "http://a/x", "-f", str(path), "--format", "json")
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert "127.0.0.1:1" in json.dumps(json.loads(out))


def test_explain_reads_the_environment(
    capsys: pytest.CaptureFixture[str], good: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHCLIENT_CONFIG", good)
    assert run(capsys, "explain", "GET", "http://a/")[0] == 0


def test_explain_with_wrong_usage(
    capsys: pytest.CaptureFixture[str], good: str, bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MESHCLIENT_CONFIG", raising=False)
    cases = [
        (("http://a/",), 2, "no policy: give -f PATH, or set MESHCLIENT_CONFIG"),
        (("http://a/", "-f", "/nowhere"), 2, "/nowhere: no such file"),
        (("http://a/", "-f", good, "-H", "nonsense"), 2, "not a header: 'nonsense'"),
        (("/path/only", "-f", good), 2, "a URL with scheme and host is needed"),
        (("http://a/", "-f", bad), 1, 'did you mean "timeout"?'),
    ]
    for arguments, expected, text in cases:
        code, _, err = run(capsys, "explain", "GET", *arguments)
        assert code == expected
        assert text in err


def test_it_runs_as_a_module(good: str) -> None:
    command = [sys.executable, "-m", "meshclient.cli", "check", good]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1 file, 1 document")


def test_output_survives_a_narrow_terminal(tmp_path: Path) -> None:
    path = tmp_path / "u.yaml"
    path.write_text("version: 1\nünknown: 1\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "meshclient.cli", "check", str(path)],
        capture_output=True,
        timeout=30,
        check=False,
        env={"PYTHONIOENCODING": "ascii", "PATH": ""},
    )
    assert done.returncode == 1
    assert b"nknown" in done.stdout
