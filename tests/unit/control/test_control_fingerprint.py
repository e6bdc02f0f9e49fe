"""Fingerprints: content decides, and the watched directories are the right ones."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from meshclient.control import fingerprint as module
from meshclient.control.fingerprint import Fingerprint, link_points

LATER_NS = 10_000_000_000


class Clock:
    """Far from every time stamp, so that a stat is trusted at once."""

    def __init__(self, offset_ns: int = LATER_NS) -> None:
        self.offset_ns = offset_ns

    def __call__(self) -> int:
        return time.time_ns() + self.offset_ns


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path.resolve() / "policies"
    root.mkdir()
    (root / "a.yaml").write_text("a: 1\n")
    (root / "b.yml").write_text("b: 1\n")
    return root


def test_nothing_changed(folder):
    found = Fingerprint([folder], Clock())
    assert found.files == [str(folder / "a.yaml"), str(folder / "b.yml")]
    assert not found.looks_changed()
    assert not found.scan()


CHANGES = {
    "edit in place": lambda f: (f / "a.yaml").write_text("a: 2\n"),
    "longer": lambda f: (f / "a.yaml").write_text("a: 1\nb: 2\n"),
    "added": lambda f: (f / "c.json").write_text("{}"),
    "upper case suffix": lambda f: (f / "c.YAML").write_text("{}"),
    "deleted": lambda f: (f / "a.yaml").unlink(),
    "renamed": lambda f: (f / "a.yaml").rename(f / "z.yaml"),
    "became a folder": lambda f: ((f / "a.yaml").unlink(), (f / "a.yaml").mkdir()),
    "became a broken link": lambda f: (
        (f / "a.yaml").unlink(),
        (f / "a.yaml").symlink_to("nowhere"),
    ),
    "the folder went away": lambda f: f.rename(f.parent / "gone"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_seen_once(folder, change):
    found = Fingerprint([folder], Clock())
    change(folder)
    assert found.looks_changed()
    assert found.scan()
    assert not found.scan()


NO_CHANGES = {
    "touched": lambda f: os.utime(f / "a.yaml"),
    "same text again": lambda f: (f / "a.yaml").write_text("a: 1\n"),
    "replaced by the same": lambda f: (
        (f / "new").write_text("a: 1\n"),
        (f / "new").rename(f / "a.yaml"),
    ),
    "hidden file": lambda f: (f / ".a.yaml.swp.yaml").write_text("x"),
    "another kind of file": lambda f: (f / "notes.txt").write_text("x"),
    "sub-folder": lambda f: (f / "deeper").mkdir(),
}


@pytest.mark.parametrize("change", NO_CHANGES.values(), ids=NO_CHANGES)
def test_what_does_not_touch_the_content_is_no_change(folder, change):
    found = Fingerprint([folder], Clock())
    change(folder)
    assert not found.scan()


def test_a_file_changed_twice_within_one_time_stamp_is_read_again(folder, monkeypatch):
    monkeypatch.setattr(module, "_stat", lambda path: (1, time.time_ns(), 1, 1))
    found = Fingerprint([folder / "a.yaml"], Clock(0))
    (folder / "a.yaml").write_text("a: 9\n")
    monkeypatch.setattr(
        module, "_stat", lambda path, old=found._entries: next(iter(old.values())).stat
    )
    assert found.looks_changed()
    assert found.scan()


def test_a_time_stamp_from_the_future_is_not_read_again_for_ever(folder):
    found = Fingerprint([folder], Clock(-LATER_NS))
    assert not found.looks_changed()


def test_a_named_file_may_have_any_name_and_may_be_absent(tmp_path):
    path = tmp_path / "policy"
    found = Fingerprint([path], Clock())
    assert found.missing()
    assert not found.scan()
    path.write_text("x")
    assert found.looks_changed()
    assert found.scan()
    assert not found.missing()


def test_a_named_pipe_does_not_hang_the_scan(folder):
    os.mkfifo(folder / "pipe.yaml")
    found = Fingerprint([folder], Clock())
    assert not found.scan()


def test_the_files_are_those_that_the_loader_reads(folder):
    from meshclient.config.files import SUFFIXES, find_files

    (folder / ".hidden.yaml").write_text("")
    (folder / "c.JSON").write_text("{}")
    (folder / "readme.md").write_text("")
    (folder / "deeper.yaml").mkdir()
    (folder / "deeper.yaml" / "d.yaml").write_text("")
    found = Fingerprint([folder], Clock())
    assert found.files == find_files([folder], [])
    assert SUFFIXES == module.SUFFIXES


def test_plain_folders_are_watched_with_their_place_in_the_parent(folder):
    points = Fingerprint([folder], Clock()).watch_points()
    assert points == {str(folder): None, str(folder.parent): {"policies"}}


def test_a_plain_file_is_watched_through_its_directory(folder):
    points = Fingerprint([folder / "a.yaml"], Clock()).watch_points()
    assert points == {str(folder): {"a.yaml"}}


def config_map(root: Path, text: str, stamp: str) -> None:
    """One update as the kubelet makes it: a new directory, then ``..data`` renamed onto it."""
    (root / stamp).mkdir(parents=True)
    (root / stamp / "policy.yaml").write_text(text)
    (root / "..data_tmp").symlink_to(stamp)
    (root / "..data_tmp").rename(root / "..data")
    if not (root / "policy.yaml").is_symlink():
        (root / "policy.yaml").symlink_to("..data/policy.yaml")


@pytest.mark.parametrize("name", ["", "policy.yaml"], ids=["folder", "file"])
def test_each_swap_of_a_config_map_is_a_change(tmp_path, name):
    root = tmp_path.resolve() / "cm"
    config_map(root, "v: 0\n", "..2026_0")
    found = Fingerprint([root / name], Clock())
    for n in range(1, 4):
        config_map(root, f"v: {n}\n", f"..2026_{n}")
        assert found.looks_changed()
        assert found.scan()
        points = found.watch_points()
        assert points[str(root)] is None or {"..data", "policy.yaml"} <= points[str(root)]
        assert points[str(root / f"..2026_{n}")] == {"policy.yaml"}


def test_links_are_followed_to_their_end(tmp_path):
    base = tmp_path.resolve()
    (base / "releases" / "1").mkdir(parents=True)
    (base / "releases" / "1" / "p.yaml").write_text("")
    (base / "current").symlink_to("releases/../releases/./1")
    (base / "absolute").symlink_to(base / "current")
    assert list(link_points(str(base / "absolute" / "p.yaml"))) == [
        (str(base), "absolute"),
        (str(base), "current"),
        (str(base / "releases" / "1"), "p.yaml"),
    ]


def test_what_is_missing_is_awaited_where_it_will_appear(tmp_path):
    base = tmp_path.resolve()
    assert list(link_points(str(base / "no" / "such" / "file"))) == [(str(base), "no")]


def test_a_loop_of_links_ends(tmp_path):
    base = tmp_path.resolve()
    (base / "x").symlink_to("y")
    (base / "y").symlink_to("x")
    assert set(link_points(str(base / "x"))) == {(str(base), "x"), (str(base), "y")}
    assert not Fingerprint([base / "x"], Clock()).scan()
