"""The folder of the workload's certificates: from the file or the program into ISTIO_MUTUAL."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshclient import Mesh
from meshclient.config import load_paths

RULE = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a, namespace: default}
spec:
  hosts: [a.test]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a, namespace: default}
spec:
  host: a.test
  trafficPolicy:
    tls: {mode: ISTIO_MUTUAL, subjectAltNames: [x]}
"""
NATIVE = """
version: 1
node: {workload_certificates: certs}
services:
  plain: {endpoints: [127.0.0.1:1], tls: {mode: simple}}
"""


def folders(path: Path, **options: str) -> dict[str, str]:
    """By cluster; of those that have TLS."""
    with Mesh.from_file(path, watch=False, **options) as mesh:  # type: ignore[arg-type]
        clusters = mesh.snapshot.clusters.values()
        return {
            c.policy.tls.mode: c.policy.tls.workload_certificates for c in clusters if c.policy.tls
        }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "rule.yaml").write_text(RULE)
    (tmp_path / "native.yaml").write_text(NATIVE)
    return tmp_path


def test_the_file_names_it_relative_to_itself(path: Path) -> None:
    assert folders(path) == {"istio_mutual": str(path / "certs"), "simple": ""}


def test_the_program_comes_before_the_file(path: Path) -> None:
    found = folders(path, workload_certificates="/run/certs")
    assert found == {"istio_mutual": "/run/certs", "simple": ""}


def test_a_folder_that_is_not_there_is_a_warning(path: Path) -> None:
    codes = [found.code for found in load_paths(path).diagnostics]
    assert "missing-file" in codes
    (path / "certs").mkdir()
    assert "missing-file" not in [found.code for found in load_paths(path).diagnostics]


def test_an_empty_text_is_no_folder(path: Path) -> None:
    with pytest.raises(ValueError, match="workload_certificates is the path of a folder"):
        Mesh.from_file(path, workload_certificates="")
