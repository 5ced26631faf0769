"""The whole fetch against a small archive on the loopback."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from warcio.archiveiterator import ArchiveIterator

from ja_llm import manifest
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.fetch import debian_docs, download, source
from ja_llm.fetch.debian_docs import fetch_debian_docs

FAMILIES = ["debian-faq", "messages"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)


def run(out, server, **changes):
    return fetch_debian_docs(out, **({"mirror": server.url, "backend": "mirror", "families": FAMILIES} | changes))


def tree(out):
    return {
        p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*"))
        if p.is_file() and ".state" not in p.parts
    }


def rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_pages_pairs_licences_and_ledger(tmp_path, server, capsys):
    summary = run(tmp_path / "out", server)
    assert summary["responses"] == {"debian-faq": {"de": 1, "en": 3, "ja": 4, "ko": 1, "zh-cn": 1}}
    assert summary["japanese_by_script"] == 3  # `left` is English inside
    assert summary["skipped"] == {"empty": 1, "link to another page": 1}
    assert "mutt" not in summary["missing"] and "iso-codes" in summary["missing"]
    assert "iso-codes" in capsys.readouterr().err

    pairs = rows(tmp_path / "out/pairs/pages.jsonl")
    assert [pair["key"] for pair in pairs] == ["basic", "kernel"]
    assert summary["pairs"] == {"pages": 2, "messages": 2} and summary["pages_untranslated"] == 1
    messages = rows(tmp_path / "out/pairs/messages.jsonl")
    assert [(m["en"], m["ja"], m["package"]) for m in messages] == [
        ("Open", "開く", "debconf-i18n"),
        ("Save", "保存", "debconf-i18n"),
    ]

    ledger = manifest.read(tmp_path / "out", debian_docs.SCHEMA, verify=True)
    licences = {entry["package"]: entry["licence"] for entry in ledger["inputs"]}
    assert licences["debian-faq-ja"] == "GPL-2.0-or-later"
    assert licences["debian-faq"] == "GPL-2.0-or-later"  # through the link to the other package's copyright file
    assert licences["debian-faq-de"] == "see the copyright file of debian-faq-de"
    assert all(len(entry["sha256"]) == 64 and entry["version"] == "1.0-1" for entry in ledger["inputs"])
    assert not (tmp_path / "out/.cache").exists()


def test_records_are_what_a_server_would_send(tmp_path, server):
    run(tmp_path / "out", server, families=["debian-faq"])
    with open(tmp_path / "out/warc/debian-faq-ja-00000.warc.gz", "rb") as file:
        records = [(r.rec_type, r.rec_headers, r.http_headers, r.content_stream().read()) for r in ArchiveIterator(file)]
    assert [r[0] for r in records] == ["warcinfo"] + ["response", "metadata"] * 4
    kind, warc, http, body = records[1]
    url = "https://docs.debian.example/debian-faq-ja/usr/share/doc/debian/FAQ/ja/basic.ja.html"
    assert warc["WARC-Target-URI"] == url and warc["WARC-Date"] == "2020-09-13T12:26:40Z"
    assert http.get_statuscode() == "200" and http["Content-Type"] == "text/html; charset=utf-8"
    assert http["Last-Modified"] == "Sun, 13 Sep 2020 12:26:40 GMT" and int(http["Content-Length"]) == len(body)
    fields = dict(line.split(": ", 1) for line in records[2][3].decode().splitlines())
    assert records[2][1]["WARC-Concurrent-To"] == warc["WARC-Record-ID"]
    wanted = {"source": "debian-docs", "licence": "GPL-2.0-or-later", "package": "debian-faq-ja", "version": "1.0-1"}
    assert wanted.items() <= fields.items()


def test_two_fetches_are_byte_identical_and_a_second_run_asks_nobody(tmp_path, server):
    first = run(tmp_path / "a", server)
    assert run(tmp_path / "b", server) == first
    assert tree(tmp_path / "a") == tree(tmp_path / "b") and len(tree(tmp_path / "a")) == 8
    server.requests.clear()
    assert run(tmp_path / "a", server) == first
    assert not server.requests


def test_a_lost_file_is_made_again_and_only_its_package_fetched(tmp_path, server):
    run(tmp_path, server)
    before = tree(tmp_path)
    (tmp_path / "warc/debian-faq-en-00000.warc.gz").write_bytes(b"damaged")
    server.requests.clear()
    run(tmp_path, server)
    assert tree(tmp_path) == before
    fetched = {path.rpartition("/")[2].partition("_")[0] for path in server.requests if path.endswith(".deb")}
    assert fetched == {"debian-faq", "debian-faq-ja"}  # the second for its copyright file


def test_a_selection_may_grow_but_not_shrink(tmp_path, server):
    run(tmp_path / "grown", server, families=["debian-faq"])
    run(tmp_path / "grown", server)
    run(tmp_path / "whole", server)
    assert tree(tmp_path / "grown") == tree(tmp_path / "whole")
    with pytest.raises(UsageError, match="also holds debconf-i18n"):
        run(tmp_path / "grown", server, families=["debian-faq"])
    with pytest.raises(UsageError, match="--suite bookworm"):
        run(tmp_path / "grown", server, suite="trixie")


def test_cut_connection_is_continued_by_range(tmp_path, server, repository):
    path = next(p for p in repository.files if "debian-faq-ja_" in p)
    server.cut_after[path] = len(repository.files[path]) // 3 + 1
    run(tmp_path, server, families=["debian-faq"])
    n = server.cut_after[path]
    assert server.requests[path][:3] == ["", f"bytes={n}-", f"bytes={2 * n}-"]


def test_wrong_bytes_are_discarded_and_told(tmp_path, server, repository, capsys):
    path = next(p for p in repository.files if "debian-faq-ja_" in p)
    server.wrong.add(path)
    run(tmp_path / "once", server, families=["debian-faq"])
    assert "SHA-256 differs" in capsys.readouterr().err and server.requests[path][:2] == ["", ""]
    server.always_wrong.add(path)
    with pytest.raises(JaLlmError, match="twice"):
        run(tmp_path / "twice", server, families=["debian-faq"])
    assert not (tmp_path / "twice/manifest.json").exists() and not list((tmp_path / "twice").rglob("*.deb*"))


def test_file_gone_suite_gone_and_nobody_there(tmp_path, server, repository):
    del repository.files[next(p for p in repository.files if "debian-faq-ja_" in p)]
    with pytest.raises(JaLlmError, match="it is gone; the mirror is being updated"):
        run(tmp_path / "a", server)
    with pytest.raises(JaLlmError, match="no suite 'nosuch'"):
        run(tmp_path / "b", server, suite="nosuch")
    with pytest.raises(JaLlmError, match="can't be fetched .*Connection refused"):
        fetch_debian_docs(tmp_path / "c", mirror="http://127.0.0.1:9/debian", backend="mirror", families=FAMILIES)
    with pytest.raises(UsageError, match="must be an https"):
        fetch_debian_docs(tmp_path / "d", mirror="http://debian.example/debian", backend="mirror", families=FAMILIES)
    with pytest.raises(UsageError, match="no such family; the known ones are debian-faq"):
        run(tmp_path / "e", server, families=["nosuch"])


def test_apt_asked_for_where_there_is_none(tmp_path, server, monkeypatch):
    monkeypatch.setattr(source.apt, "available", lambda: False)
    with pytest.raises(UsageError, match="this machine has no apt"):
        run(tmp_path, server, backend="apt")
    with pytest.raises(UsageError, match="choose one of auto, apt, mirror"):
        run(tmp_path, server, backend="ftp")


def test_auto_without_apt_takes_the_mirror(tmp_path, server, monkeypatch):
    monkeypatch.setattr(source.apt, "available", lambda: False)
    assert run(tmp_path, server, backend="auto", families=["debian-faq"])["packages"] == 5


def test_damaged_package_inside_a_right_checksum(tmp_path, server, repository):
    repository.add("maint-guide-ja", {"usr/share/doc/maint-guide-ja/html/a.ja.html": b"x" * 3000}, cut=40)
    repository.publish()
    with pytest.raises(JaLlmError, match="damaged or not one"):
        run(tmp_path, server, families=["maint-guide"])
    assert not list(tmp_path.rglob("*.warc.gz")) and not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("victim", ["debian-faq_", "libc-l10n_"])
def test_sigkill_then_the_same_command_ends_in_the_same_bytes(tmp_path, server, repository, victim):
    run(tmp_path / "whole", server)
    path = next(p for p in repository.files if f"/{victim}" in p)
    half = len(repository.files[path]) // 2
    server.requests.clear()
    server.cut_after[path] = half
    server.held.add(path)
    code = f"from ja_llm.fetch.debian_docs import *; fetch_debian_docs({str(tmp_path / 'killed')!r}, mirror={server.url!r}, backend='mirror', families={FAMILIES!r})"
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    assert server.reached.wait(30)
    part = []
    for _ in range(500):  # until the bytes sent are in the part file; the server holds the rest back for longer
        part = [p for p in (tmp_path / "killed").rglob(f"*{victim}*.part") if p.stat().st_size > 0]
        if part or threading.Event().wait(0.02):
            break
    assert part and child.poll() is None
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "killed/manifest.json").exists()
    server.cut_after.clear(), server.held.clear(), server.release.set()
    got = part[0].stat().st_size
    run(tmp_path / "killed", server)
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    assert server.requests[path] == ["", f"bytes={got}-"]
    done_before = next(p for p in repository.files if "debian-faq-ja_" in p)
    # once for itself, and once more for debian-faq's copyright file where that came after the kill
    assert len(server.requests[done_before]) == 2


def test_a_second_fetch_into_the_same_folder_is_refused(tmp_path, server):
    with debian_docs._locked(tmp_path), pytest.raises(JaLlmError, match="another fetch is writing"):
        run(tmp_path, server)


def test_full_disk_is_one_sentence_and_leaves_nothing_finished(tmp_path, server, monkeypatch):
    """A write that fails with ENOSPC, as the kernel reports it on /dev/full."""
    real = io.open

    def full(path, mode="r", *rest, **named):
        return real("/dev/full" if str(path).endswith(".part") and "deb" in str(path) else path, mode, *rest, **named)

    monkeypatch.setattr(download, "open", full, raising=False)
    with pytest.raises(JaLlmError, match="the disk is full"):
        run(tmp_path, server)
    assert not (tmp_path / "manifest.json").exists()
