"""Manual pages, GNOME help pages, character sets and addresses."""

import gzip
import shutil

import pytest
from debian_repository import deb_bytes

from ja_llm.errors import JaLlmError
from ja_llm.fetch import mallard, manpages, packages, render

PAGE = ".TH LS 1\n.SH 名前\nls \\- ディレクトリの内容を表示する\n"
MAN = packages.Pages("ja", r"usr/share/man/ja/(man\d/[^/]+?)(?:\.gz)?", packages.MAN)


def no_mandoc():
    raise AssertionError("not needed here")


def mandoc_package(tmp_path, script):
    """A package in the place of mandoc's, whose program is a shell script: it shows how the program is called."""
    (tmp_path / "mandoc.deb").write_bytes(deb_bytes("mandoc", "1.14-1", {"usr/bin/mandoc": b"#!/bin/sh\n" + script}))
    return manpages.unpack(tmp_path / "mandoc.deb", tmp_path / "cache")


def test_mandoc_out_of_its_package_is_run_with_the_page_s_encoding(tmp_path):
    mandoc = mandoc_package(tmp_path, b'echo "$@"; cat\n')
    assert mandoc.identity == "Debian package mandoc 1.14-1"
    page = render.page("m", MAN, "man1/ls.1", "usr/share/man/ja/man1/ls.1.gz", 0, gzip.compress(PAGE.encode()), lambda: mandoc)
    assert page.body.decode() == "-K utf-8 -T html\n" + PAGE
    assert page.url == "https://docs.debian.example/m/usr/share/man/ja/man1/ls.1.html" and page.kana_share > 0.3
    assert mandoc.html("caf\xe9".encode("latin-1")).startswith(b"-K iso-8859-1")


@pytest.mark.parametrize(
    ("script", "reason"), [(b"sleep 30\n", "did not come back"), (b"exit 6\n", "code 6"), (b"exit 0\n", "code 0")]
)
def test_a_page_that_can_t_be_rendered_is_skipped_with_its_reason(tmp_path, script, reason):
    mandoc = mandoc_package(tmp_path, script)
    mandoc._timeout = 0.3
    with pytest.raises(render.Skip, match=reason):
        render.page("m", MAN, "k", "usr/share/man/ja/man1/ls.1", 0, PAGE.encode(), lambda: mandoc)


def test_package_without_the_program(tmp_path):
    (tmp_path / "m.deb").write_bytes(deb_bytes("mandoc", "1", {"usr/share/doc/mandoc/x": b""}))
    with pytest.raises(JaLlmError, match="install mandoc"):
        manpages.unpack(tmp_path / "m.deb", tmp_path)


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_real_mandoc():
    html = manpages.installed().html(PAGE.encode()).decode()
    assert "ディレクトリの内容を表示する" in html and "<h1" in html


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b".so man1/dir.1\n", "alias"), (b'.\\" c\n.so man1/dir.1', "alias"), (b" \n", "empty"), (b"\x1f\x8bxx", "damaged gzip")],
)
def test_files_that_hold_no_page(body, reason):
    name = "a.1.gz" if reason == "damaged gzip" else "a.1"
    with pytest.raises(render.Skip, match=reason):
        render.page("m", MAN, "k", f"usr/share/man/ja/man1/{name}", 0, body, no_mandoc)


@pytest.mark.parametrize(
    ("encoding", "kind", "charset"),
    [
        ("utf-8", "text/plain", "; charset=utf-8"),
        ("euc_jp", "text/plain", ""),
        ("cp932", "text/plain", ""),
        ("iso2022_jp", "text/plain", ""),
    ],
)
def test_legacy_bytes_are_served_as_they_are_without_a_false_charset(encoding, kind, charset):
    body = "これはテキストの文書です。日本語で書いてあります。\n".encode(encoding)
    row = packages.Pages("ja", "(.+)", packages.TEXT)
    page = render.page("t", row, "k", "usr/share/doc/README", 0, body, no_mandoc)
    assert (page.body, page.content_type) == (body, kind + charset)
    assert page.kana_share > 0.3


MALLARD = """<page xmlns="http://projectmallard.org/1.0/" id="a" xml:lang="ja">
<info><desc>省く</desc><credit><name>誰か</name></credit></info><title>見出し &lt;1&gt;</title>
<p>本文<em>強調</em>と<link xref="b#c">参照</link>、<keyseq><key>Ctrl</key><key>C</key></keyseq>。</p>
<comment><p>内輪の話</p></comment>
<steps><item><p>一番</p></item></steps>
<section id="s"><title>節</title><terms><item><title>用語</title><p>説明</p></item></terms></section></page>"""


def test_mallard_becomes_html_and_keeps_the_text_in_order():
    html = mallard.html(MALLARD.encode()).decode()
    for part in (
        '<html lang="ja">', "<h1>見出し &lt;1&gt;</h1>", '<p>本文<em>強調</em>と<a href="b.html">参照</a>、<kbd>Ctrl</kbd>+<kbd>C</kbd>。</p>',
        "<ol><li><p>一番</p></li></ol>", "<h2>節</h2>", "<dt>用語</dt><dd><p>説明</p></dd>",
    ):  # fmt: skip
        assert part in html
    assert not any(word in html for word in ("省く", "誰か", "内輪"))
    with pytest.raises(JaLlmError, match="well-formed"):
        mallard.html(MALLARD[:200].encode())


def test_addresses_and_keys_of_the_table():
    keys = {}
    for path in (
        "usr/share/doc/lilypond/html/Documentation/learning/a-b.ja.html",
        "usr/share/doc/lilypond/html/Documentation/learning/a-b.html",
        "usr/share/help/ja/gnome-help/x.page",
        "usr/share/help/C/gnome-help/x.page",
        "usr/share/doc/gnucash-docs/gnucash-guide-ja/x.html",
        "usr/share/doc/gnucash-docs/gnucash-guide-en/x.html",
        "usr/share/doc/texlive-doc/latex/a/README.md.gz",
    ):
        keys[path] = [(p.family, s.lang, s.key(path)) for p in packages.PACKAGES for s in p.pages if s.key(path)]
    found = [k for rows in keys.values() for k in rows]
    assert ("lilypond", "ja", "learning/a-b") in found and ("lilypond", "en", "learning/a-b") in found
    assert ("gnome-user-docs", "ja", "gnome-help/x") in found and ("gnome-user-docs", "en", "gnome-help/x") in found
    assert ("gnucash-docs", "ja", "guide/x") in found and ("gnucash-docs", "en", "guide/x") in found
    assert ("texlive-japanese", "ja", "latex/a/README.md") in found
    assert len(found) == len(keys)  # the Japanese file is in no other language's row
    assert render.address("g", "usr/share/help/sr@latin/x.page", packages.MALLARD).endswith("/g/usr/share/help/sr%40latin/x.html")
