"""Message catalogues, beside the standard library's reader and GNU msgfmt."""

import gettext
import io
import shutil
import subprocess

import pytest
from debian_repository import mo_bytes

from ja_llm.errors import JaLlmError
from ja_llm.fetch.catalogues import CATALOGUE, japanese_pairs, parse_mo

HEADER = "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=1; plural=0;\n"
ENTRIES = {
    "": HEADER,
    "Open": "開く",
    "menu\x04Open": "開始",
    "%d file\x00%d files": "%d 個のファイル",
    "Quit": "Quit",
    "Empty": "",
    "translator-credits": "訳者",
    "Line one\nline two": "一行目\n二行目",
    "ファイル": "ファイル",
}


@pytest.mark.parametrize("order", ["<", ">"])
def test_agrees_with_the_standard_library(order):
    data = mo_bytes(ENTRIES, order)
    theirs = gettext.GNUTranslations(io.BytesIO(data))
    ours = {(context, english): value for context, english, value in parse_mo(data)}
    assert ours["", "Open"] == theirs.gettext("Open") == "開く"
    assert ours["menu", "Open"] == theirs.pgettext("menu", "Open") == "開始"
    assert ours["", "%d files"] == theirs.ngettext("%d file", "%d files", 3)
    assert len(ours) == len(ENTRIES) - 1


def test_only_translated_entries_become_pairs():
    assert japanese_pairs(mo_bytes(ENTRIES)) == [
        ("%d files", "%d 個のファイル"),
        ("Line one\nline two", "一行目\n二行目"),
        ("Open", "開く"),
        ("Open", "開始"),
    ]


def test_legacy_charset_is_decoded_by_its_header():
    data = mo_bytes({"": "Content-Type: text/plain; charset=EUC-JP\n", "Open": "OPENED"})
    body = data.replace(b"OPENED", "開く..".encode("euc_jp"))
    assert parse_mo(body) == [("", "Open", "開く..")]


@pytest.mark.skipif(shutil.which("msgfmt") is None, reason="GNU gettext's msgfmt is not installed")
def test_a_file_made_by_msgfmt(tmp_path):
    po = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\nmsgid "Open"\nmsgstr "開く"\n\n#, fuzzy\nmsgid "Old"\nmsgstr "古い"\n'
    (tmp_path / "x.po").write_text(po, "utf-8")
    subprocess.run(["msgfmt", "-o", tmp_path / "x.mo", tmp_path / "x.po"], check=True)
    assert japanese_pairs((tmp_path / "x.mo").read_bytes()) == [("Open", "開く")]


@pytest.mark.parametrize("data", [b"", b"no catalogue at all", mo_bytes(ENTRIES)[:-30], mo_bytes(ENTRIES)[:60]])
def test_damage_is_a_sentence(data):
    with pytest.raises(JaLlmError, match="x.mo: this message catalogue can't be read"):
        parse_mo(data, "x.mo")


def test_which_files_are_japanese_catalogues():
    assert CATALOGUE.fullmatch("usr/share/locale/ja/LC_MESSAGES/apt.mo")
    assert CATALOGUE.fullmatch("usr/lib/libreoffice/program/resource/ja/LC_MESSAGES/sc.mo")
    assert not CATALOGUE.fullmatch("usr/share/locale/jam/LC_MESSAGES/apt.mo")
    assert not CATALOGUE.fullmatch("usr/share/locale/de/LC_MESSAGES/apt.mo")
