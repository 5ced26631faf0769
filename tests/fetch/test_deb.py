"""Debian packages, beside dpkg-deb where the machine has it."""

import shutil
import subprocess

import pytest
from debian_repository import MTIME, deb_bytes

from ja_llm.errors import JaLlmError
from ja_llm.fetch import deb

FILES = {"usr/share/doc/x/a.html": b"<p>a</p>" * 1000, "usr/bin/tool": b"#!/bin/sh\n", "usr/share/doc/y": "x"}


@pytest.mark.parametrize("compression", ["xz", "gz", ""])
def test_files_and_links_come_back(tmp_path, compression):
    path = tmp_path / "x.deb"
    path.write_bytes(deb_bytes("x", "1:2.0-1", FILES, compression))
    found = {e.path: e.link if e.body is None else e.body for e in deb.entries(path, lambda p: True)}
    assert found == FILES
    assert [e.path for e in deb.entries(path, lambda p: p.startswith("usr/bin"))] == ["usr/bin/tool"]
    fields, newest = deb.control(path)
    assert (fields["Version"], fields["Description"], newest) == ("1:2.0-1", "test\nmore", MTIME)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb")
@pytest.mark.parametrize("compression", ["xz", "gzip", "zstd", "none"])
def test_packages_built_by_dpkg(tmp_path, compression):
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        "Package: x\nVersion: 3\nArchitecture: all\nMaintainer: A <a@b.example>\nDescription: d\n"
    )
    for name, body in FILES.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body) if isinstance(body, bytes) else target.symlink_to(body)
    built = subprocess.run(["dpkg-deb", f"-Z{compression}", "-b", root, tmp_path / "x.deb"], capture_output=True, check=False)
    if built.returncode or (compression == "zstd" and shutil.which("zstd") is None):
        pytest.skip(f"this machine can't make or read {compression} packages")
    found = {e.path: e.link if e.body is None else e.body for e in deb.entries(tmp_path / "x.deb", lambda p: True)}
    assert found == FILES and deb.control(tmp_path / "x.deb")[0]["Version"] == "3"


@pytest.mark.parametrize("keep", [0, 7, 80, 300, -1])
def test_a_cut_package_is_refused_wherever_it_was_cut(tmp_path, keep):
    whole = deb_bytes("x", "1", FILES)
    (tmp_path / "x.deb").write_bytes(whole[:keep])
    with pytest.raises(JaLlmError, match="damaged or not one"):
        list(deb.entries(tmp_path / "x.deb", lambda p: True))
