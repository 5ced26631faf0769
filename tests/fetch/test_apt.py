"""The machine's real apt, pointed at a small archive on the loopback."""

import pytest

from ja_llm.errors import JaLlmError
from ja_llm.fetch import apt, source
from ja_llm.fetch.debian_docs import fetch_debian_docs

pytestmark = pytest.mark.skipif(not apt.available(), reason="this machine has no apt")


@pytest.fixture
def only_our_archive(tmp_path, server, monkeypatch):
    """apt reads APT_CONFIG: our sources only, nothing of the machine's."""
    settings = tmp_path / "apt"
    (settings / "none").mkdir(parents=True)
    (settings / "sources.list").write_text(f"deb [trusted=yes] {server.url} bookworm main\n")
    (settings / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{settings}/sources.list";\nDir::Etc::sourceparts "{settings}/none";\n'
        f'Dir::Etc::parts "{settings}/none";\nDir::State::status "/dev/null";\nAPT::Update::Post-Invoke-Success {{}};\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(settings / "apt.conf"))


def test_apt_and_mirror_give_the_same_files(tmp_path, server, only_our_archive, monkeypatch):
    by_mirror = fetch_debian_docs(tmp_path / "m", mirror=server.url, backend="mirror", families=["debian-faq"])
    monkeypatch.setattr(source, "Mirror", None)  # apt alone must do
    by_apt = fetch_debian_docs(tmp_path / "a", backend="apt", families=["debian-faq"])
    assert by_apt == by_mirror
    for path in (tmp_path / "m/warc").iterdir():
        assert (tmp_path / "a/warc" / path.name).read_bytes() == path.read_bytes()


def test_package_gone_from_the_archive(tmp_path, server, repository, only_our_archive):
    del repository.files[next(p for p in repository.files if "debian-faq-ja_" in p)]
    with pytest.raises(JaLlmError, match="apt-get download debian-faq-ja: apt could not get this package .*404"):
        fetch_debian_docs(tmp_path / "out", backend="apt", families=["debian-faq"])


def test_wrong_bytes_are_refused(tmp_path, server, repository, only_our_archive):
    server.always_wrong.add(next(p for p in repository.files if "debian-faq-ja_" in p))
    with pytest.raises(JaLlmError, match="debian-faq-ja"):
        fetch_debian_docs(tmp_path / "out", backend="apt", families=["debian-faq"])
    assert not (tmp_path / "out/manifest.json").exists()


def test_no_network_for_apt_and_mirror(tmp_path, server, repository, only_our_archive, monkeypatch):
    repository.files.clear()
    with pytest.raises(JaLlmError, match="apt offers none of the packages"):
        fetch_debian_docs(tmp_path / "a", backend="apt", families=["debian-faq"])
    with pytest.raises(JaLlmError, match="no package source can be reached: apt-get update.*no suite"):
        fetch_debian_docs(tmp_path / "b", mirror=server.url, backend="auto", families=["debian-faq"])


def test_auto_takes_from_the_mirror_what_apt_lacks(tmp_path, server, repository, only_our_archive):
    """apt reads the suite `bookworm`, which lacks the package; the mirror's `later` has it."""
    repository.add("maint-guide-ja", {"usr/share/doc/maint-guide-ja/html/a.ja.html": "<p>保守</p>".encode()})
    repository.publish("later")
    got = fetch_debian_docs(tmp_path / "o", mirror=server.url, suite="later", families=["maint-guide", "debian-faq"])
    assert got["responses"]["maint-guide"] == {"ja": 1} and got["missing"] == ["maint-guide", "maint-guide-zh-cn"]
    assert "dists/later/Release" in server.requests
