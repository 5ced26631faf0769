"""What records mean: Wikipedia dumps, source code, parallel text; a page, file or pair for each reason."""

import bz2
import gzip
import hashlib
import json
import sys
import time
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_pipelines import chain
from beam_pipelines.config import Corpus
from beam_pipelines.inputs import syntax, table, wikitext
from beam_pipelines.inputs.items import Damage, Record, Rejected
from beam_pipelines.inputs.parallel import broken_rule
from beam_pipelines.inputs.wikipedia import cut_tail
from beam_pipelines.settings.inputs import Code, Inputs, Parallel, Wikipedia
from beam_pipelines.workspace import Execution, Stage
from ja_llm.errors import JaLlmError, UsageError

LIMIT = 1 << 20


def read(path, inputs=None, limit=LIMIT):
    return list(table.read(str(path), inputs or Inputs(), limit))


def told(items):
    """Each item in a word: the text, or the reason."""
    return [item.text if isinstance(item, Record) else item.reason for item in items]


def page(title, text, ns=0, redirect="", model="wikitext"):
    more = f'<redirect title="{redirect}" />' if redirect else ""
    return (
        f"<page><title>{title}</title><ns>{ns}</ns><id>{len(title)}</id>{more}<revision><id>9</id>"
        f"<timestamp>2024-01-02T03:04:05Z</timestamp><model>{model}</model><format>text/x-wiki</format>"
        f'<text bytes="{len(text)}" xml:space="preserve">{text}</text></revision></page>'
    )


def dump(pages):
    head = (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="ja"><siteinfo>'
        "<sitename>Wikipedia</sitename><dbname>jawiki</dbname><base>https://ja.wikipedia.org/wiki/%E3%83%A1</base></siteinfo>"
    )
    return [f"{head}\n", *(f"{p}\n" for p in pages), "</mediawiki>\n"]


PAGES = [
    page("東京 都", "'''東京都'''は日本の首都。[[Category:東京都| ]]\n== 脚注 ==\n&lt;references /&gt;"),
    page("転送", "#REDIRECT [[東京都]]", redirect="東京都"),
    page("別の転送", "#転送 [[東京都]]"),
    page("ノート:東京", "議論", ns=1),
    page("東京 (曖昧さ回避)", "{{aimai}}\n* [[東京都]]"),
    page("MediaWiki:Common.css", "a {}", model="css"),
    page("空", ""),
    page("大", "大" * 3000),
    page("京都", "京都は&lt;math&gt;x&lt;/math&gt;。"),
]


@pytest.mark.parametrize("multistream", [False, True])
def test_xml_dump(tmp_path, multistream):
    parts = dump(PAGES)
    data = [bz2.compress(part.encode()) for part in parts] if multistream else [bz2.compress("".join(parts).encode())]
    path = tmp_path / "jawiki-20240101-pages-articles.xml.bz2"
    path.write_bytes(b"".join(data))
    items = read(path, limit=5000)
    assert told(items) == [
        "'''東京都'''は日本の首都。[[Category:東京都| ]]\n", "wiki_redirect", "wiki_redirect", "wiki_namespace", "wiki_disambiguation", "wiki_model",
        "text_missing", "too_large", "京都は<math>x</math>。",
    ]  # fmt: skip
    first = items[0]
    assert first.url == "https://ja.wikipedia.org/wiki/%E6%9D%B1%E4%BA%AC_%E9%83%BD"
    assert (first.date, first.lang, first.markup) == ("2024-01-02T03:04:05Z", "ja", "wikitext")
    assert first.meta == {"title": "東京 都", "page_id": "4", "revision": "9", "wiki": "jawiki", "categories": ["東京都"]}
    path.write_bytes(b"".join(data)[:-20])
    cut = read(path, limit=5000)
    assert cut[-1].reason == "input_truncated" and cut[-1].lost_documents == 1
    assert told(cut[:-1]) == told(items)[: len(cut) - 1]


def test_xml_that_ends_early_or_is_none(tmp_path):
    parts = dump(PAGES[:3])
    (tmp_path / "a.xml").write_text("".join(parts[:3]) + "<page><title>&broken;", encoding="utf-8")
    items = read(tmp_path / "a.xml")
    assert told(items)[1:] == ["wiki_redirect", "xml_corrupt"] and isinstance(items[-1], Damage)
    (tmp_path / "b.xml").write_text("".join(parts[:2]), encoding="utf-8")
    assert told(read(tmp_path / "b.xml"))[1:] == ["xml_corrupt"]


def test_cirrus_dump(tmp_path):
    def document(**fields):
        return {"title": "東京 都", "text": "東京都は日本の首都。", "namespace": 0, "wiki": "jawiki", "language": "ja", "timestamp": "2024-01-01T00:00:00Z"} | fields  # fmt: skip

    documents = [
        document(category=["東京都", "日本の首都"], source_text="'''東京都'''\n== 脚注 ==\n注"),
        document(title="ノート", namespace=1),
        document(title="東京", template=["Template:Dmbox", "Template:Aimai"]),
        {"title": "壊れ", "namespace": 0},
        document(title="最後"),
    ]
    lines = [line for i, d in enumerate(documents) for line in (json.dumps({"index": {"_id": str(i + 10)}}), json.dumps(d))]
    lines.insert(4, "{broken")
    path = tmp_path / "jawiki-20240101-cirrussearch-content.json.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    items = read(path)
    assert told(items) == [
        "東京都は日本の首都。",
        "wiki_namespace",
        "bad_json_line",
        "wiki_disambiguation",
        "text_missing",
        "東京都は日本の首都。",
    ]
    assert items[0].url == "https://ja.wikipedia.org/wiki/%E6%9D%B1%E4%BA%AC_%E9%83%BD"
    assert items[0].meta == {"title": "東京 都", "page_id": "10", "wiki": "jawiki", "categories": ["東京都", "日本の首都"]}
    assert items[-1].meta["page_id"] == "14"
    source = read(path, Inputs(wikipedia=Wikipedia(cirrus_text="source_text", namespaces=(0, 1), drop_disambiguation=False)))
    assert (source[0].text, source[0].markup) == ("'''東京都'''\n", "wikitext")


@pytest.mark.parametrize(
    ("source", "plain"),
    [
        ("'''東京'''は[[日本]]の[[首都圏 (日本)|首都圏]]。", "東京は日本の首都圏。"),
        ("{{Infobox|a={{b|c}}}}本文。<ref name=a>注</ref>続き<ref name=a />。", "本文。続き。"),
        (
            "東京（とうきょう、{{lang-en|Tokyo}}）と{{lang|fr|Paris}}。",
            "東京（とうきょう、Tokyo）とパリ。".replace("パリ", "Paris"),
        ),
        ("名（{{IPA|x}}、{{audio|y}}）と（、別名）。", "名と（別名）。"),
        ("{{読み仮名|漢字|かんじ}}と{{仮リンク|題|en|Title}}と{{ruby|字|じ}}", "漢字（かんじ）と題と字"),
        ("[[ファイル:a.jpg|thumb|説明の[[リンク]]]]本文[[File:b.png]][[画像:c.png|右]]", "本文"),
        ("本文[[Category:甲]][[カテゴリ:乙|丙]][[en:Tokyo]][[fr:Tokyo]]", "本文"),
        (
            "[[:Category:甲|甲の一覧]]と[http://a.example 名]と[http://b.example]と http://c.example/",
            "甲の一覧と名とと http://c.example/",
        ),
        ("{| class=wikitable\n|-\n| a || b\n|}\n後", "後"),
        ("前<!-- 注釈\n -->後", "前後"),
        ("a<br />b<br>c", "a\nb\nc"),
        ("<gallery>\na.jpg|図\n</gallery>本文<nowiki>[[x]]</nowiki>", "本文[[x]]"),
        ("式<math>a^2</math>と&amp;と&nbsp;空", "式$a^2$と&と 空"),
        ("__NOTOC__本文__TOC__", "本文"),
        ("* 一\n** 二\n# 三\n: 四\n; 五", "一\n二\n三\n四\n五"),
        ("== 空の節 ==\n== 節 ==\n=== 小節 ===\n文\n== 末 ==", "節\n小節\n文"),
        ("<syntaxhighlight lang=python>x = 1</syntaxhighlight>", "x = 1"),
        ("{{{引数|x}}}本文{{#if:a|b}}", "本文"),
        ("{{未閉じ 本文", "{{未閉じ 本文"),
        ("<!-- 閉じない", ""),
    ],
)
def test_wikitext_by_hand(source, plain):
    assert wikitext.clean(source) == plain


def test_tail_sections_go_with_what_is_below_them_and_others_stay():
    text = "序\n== 歴史 ==\n史\n==脚注==\n注\n=== 細目 ===\n釈\n== 年表 ==\n表\n=== 参考文献 ===\n書\n== '''外部リンク''' ==\n* x"
    assert cut_tail(text, Wikipedia().tail_sections) == "序\n== 歴史 ==\n史\n== 年表 ==\n表\n"
    assert cut_tail(text, ()) == text
    assert cut_tail("Text\n== See also ==\nx\n", Wikipedia().tail_sections) == "Text\n"
    assert (
        cut_tail("Text\n==Notes== <!-- end -->\nx\n=no heading\n==\n== 次 ==\n文", Wikipedia().tail_sections)
        == "Text\n== 次 ==\n文"
    )


@pytest.mark.parametrize(
    "text",
    [
        "=" + " " * 300_000 + "x",
        "{{" + " " * 300_000,
        "#redirect" + " " * 300_000,
        "[[Category:" * 30_000,
        "== a " * 60_000,
        "{{a" * 100_000,
    ],
)
def test_text_made_to_stop_a_regular_expression_does_not(tmp_path, text):
    """What is matched outside the extractor's process has no deadline: it must take linear time."""
    (tmp_path / "a.xml").write_text("".join(dump([page("頁", text)])), encoding="utf-8")
    start = time.process_time()
    assert len(read(tmp_path / "a.xml")) == 1
    assert time.process_time() - start < 2


def stack_v1(**fields):
    value = {"content": "x = 1\n", "lang": "Python", "max_stars_repo_path": "a/b.py", "max_stars_repo_name": "me/repo", "max_stars_repo_licenses": ["MIT"], "hexsha": "0" * 40}  # fmt: skip
    return value | fields


CODE_CASES = [
    (stack_v1(), "x = 1\n"),
    (stack_v1(lang="Java"), "code_language"),
    (stack_v1(max_stars_repo_licenses=["GPL-3.0"]), "code_licence"),
    (stack_v1(max_stars_repo_licenses=["mit", "apache-2.0"]), "x = 1\n"),
    (stack_v1(max_stars_repo_licenses=["MIT", "AGPL-3.0"]), "code_licence"),
    (stack_v1(max_stars_repo_licenses=[]), "code_licence_unknown"),
    (stack_v1(max_stars_repo_path="node_modules/x/a.py"), "code_vendored"),
    (stack_v1(content="print 'Python 2'\n"), "code_syntax"),
    (stack_v1(content="x = (\n"), "code_syntax"),
    (stack_v1(content="x = 1  # " + "a" * 991), "x = 1  # " + "a" * 991),
    (stack_v1(content="x = 1  # " + "a" * 992), "code_line_length"),
    (stack_v1(content="y = 2\r\nif y:\r\n\tz = '\x00'\n"), "y = 2\nif y:\n\tz = ''\n"),
    (stack_v1(content="(" * 5000), "code_line_length"),
    (stack_v1(content="(\n" * 5000), "code_syntax"),
    (stack_v1(content=None), "blob"),
]


def test_stack_v1_as_jsonl_and_parquet(tmp_path):
    cases = CODE_CASES[:-1]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(value) + "\n" for value, _ in cases))
    pq.write_table(pa.Table.from_pylist([value for value, _ in cases]), tmp_path / "a.parquet")
    settings = Inputs(kind="code")
    items = read(tmp_path / "a.jsonl", settings)
    assert told(items) == [wanted for _, wanted in cases]
    assert told(read(tmp_path / "a.parquet", settings)) == told(items)
    first = items[0]
    assert (first.licence, first.lang, first.verbatim) == ("MIT", "code", True)
    assert first.url == "https://github.com/me/repo/blob/HEAD/a/b.py"
    assert first.meta == {"syntax": "parsed", "language": "Python", "path": "a/b.py", "package": "me/repo", "blob": "0" * 40}
    (tmp_path / "b.jsonl").write_text(json.dumps(stack_v1()) + "\n{bad")
    assert told(read(tmp_path / "b.jsonl", settings)) == ["x = 1\n", "bad_json_line"]
    unchecked = read(tmp_path / "a.jsonl", Inputs(kind="code", code=Code(languages=("Java",))))
    assert [i.meta["syntax"] for i in unchecked if isinstance(i, Record)] == ["unchecked"]


def test_stack_v2_joins_downloaded_contents(tmp_path):
    contents = tmp_path / "contents"
    contents.mkdir()
    texts = {"plain": "a = 'あ'\n".encode(), "packed": b"b = 2\n", "euc": "c = '日本'\n".encode("euc_jp"), "git": b"d = 4\n"}
    ids = {name: hashlib.sha1(data).hexdigest() for name, data in texts.items()}
    ids["git"] = hashlib.sha1(b"blob 6\0" + texts["git"]).hexdigest()
    ids["other"], ids["cut"] = "1" * 40, hashlib.sha1(b"x").hexdigest()
    (contents / ids["plain"]).write_bytes(texts["plain"])
    (contents / f"{ids['packed']}.gz").write_bytes(gzip.compress(texts["packed"]))
    (contents / ids["euc"][:2]).mkdir()
    (contents / ids["euc"][:2] / ids["euc"]).write_bytes(texts["euc"])
    (contents / ids["git"]).write_bytes(texts["git"])
    (contents / ids["other"]).write_bytes(b"e = 5\n")
    (contents / f"{ids['cut']}.gz").write_bytes(gzip.compress(b"x")[:-4])
    rows = [
        {"blob_id": ids[name], "language": "Python", "path": f"{name}.py", "repo_name": "me/repo", "detected_licenses": ["MIT"], "src_encoding": encoding, "is_vendor": False, "is_generated": name == "made"}
        for name, encoding in [("plain", "UTF-8"), ("packed", "UTF-8"), ("euc", "EUC-JP"), ("git", "UTF-8"), ("other", "UTF-8"), ("cut", "UTF-8")]
    ]  # fmt: skip
    rows += [
        rows[0] | {"blob_id": "2" * 40},
        rows[0] | {"blob_id": "../secret.py"},
        rows[0] | {"is_generated": True},
        rows[0] | {"is_vendor": True},
    ]
    rows += [rows[2] | {"src_encoding": "no-such-codec"}, rows[2] | {"src_encoding": "UTF-8"}]
    (tmp_path / "secret.py").write_text("no blob")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    items = read(tmp_path / "a.parquet", Inputs(kind="code", code=Code(contents=str(contents))))
    assert told(items) == [
        "a = 'あ'\n", "b = 2\n", "c = '日本'\n", "d = 4\n", "blob_damaged", "blob_damaged", "blob_missing", "blob_missing", "code_generated",
        "code_vendored", "text_not_utf8", "text_not_utf8",
    ]  # fmt: skip
    repositories = [
        {
            "repo_name": "me/repo",
            "visit_date": None,
            "files": [{k: v for k, v in row.items() if k != "repo_name"} for row in rows[:3]],
        }
    ]
    pq.write_table(pa.Table.from_pylist(repositories), tmp_path / "full.parquet")
    grouped = read(tmp_path / "full.parquet", Inputs(kind="code", code=Code(contents=str(contents))))
    assert told(grouped) == told(items)[:3] and [i.place for i in grouped] == [f"row 1 file {n}" for n in (1, 2, 3)]
    assert {i.meta["package"] for i in grouped} == {"me/repo"}
    with pytest.raises(JaLlmError, match="name blobs and hold no content; download the contents and name their folder"):
        read(tmp_path / "a.parquet", Inputs(kind="code"))
    (tmp_path / "b.jsonl").write_text('{"text_body": "x"}\n{broken')
    with pytest.raises(JaLlmError, match="these records are no source code"):
        read(tmp_path / "b.jsonl", Inputs(kind="code"))


@pytest.mark.parametrize(
    ("language", "text", "parses"),
    [
        ("Python", "x = " + "(" * 150 + "1" + ")" * 150, True),
        ("python", "x = " + "-" * 50_000 + "1", False),  # the parser gives up: MemoryError
        ("python", "x = " + "a." * 50_000 + "b", False),  # RecursionError
        ("python", "a\0b", False),
        ("JSON", '{"a": [1, 2.5e3]}', True),
        ("json", "{", False),
        ("json", "[" * 60_000, False),
        ("TOML", "a = 1", True),
        ("toml", "a =", False),
        ("COBOL", "(", True),
    ],
)
def test_syntax_checks(language, text, parses):
    assert (syntax.problem(language, text) == "") is parses


def test_plain_folder(tmp_path):
    files = {
        "a.py": "x = 1\n", "b/spdx.py": "# SPDX-License-Identifier: MIT\ny = 2\n", "b/gpl.py": "# SPDX-License-Identifier: GPL-3.0-only\n",
        "vendor/c.py": "z = 3\n", "d.py": "broken (\n", "e.java": "class E {}\n", "README": "text\n", ".git/f.py": "w = 4\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / "repo" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "repo" / name).write_text(text)
    (tmp_path / "repo/g.py").write_bytes(b"# \xff\xfe\n")
    (tmp_path / "repo/h.py").write_text("x = 1\n" * 1000)
    (tmp_path / "repo/link.py").symlink_to("a.py")
    items = read(tmp_path / "repo", Inputs(kind="code"), limit=5000)
    assert [(i.place, told([i])[0]) for i in items] == [
        ("a.py", "x = 1\n"), ("b/gpl.py", "code_licence"), ("b/spdx.py", files["b/spdx.py"]), ("d.py", "code_syntax"), ("g.py", "text_not_utf8"),
        ("h.py", "too_large"), ("vendor/c.py", "code_vendored"),
    ]  # fmt: skip
    assert [i.licence for i in items if isinstance(i, Record)] == ["", "MIT"]
    every = read(tmp_path / "repo", Inputs(kind="code", code=Code(languages=(), check_syntax=False)), limit=5000)
    assert "class E {}\n" in told(every)


def test_pylint_is_asked_for_or_scores(tmp_path, monkeypatch):
    """pylint is not among the test packages: its published interface is stood in for, its absence is real or simulated; the next test has the real one."""
    there = "pylint" in sys.modules
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs pylint, which is not installed; pip install"):
        syntax.require_pylint()

    def run(arguments, reporter, exit):
        text = Path(arguments[0]).read_text(encoding="utf-8")
        stats = types.SimpleNamespace(global_note=float(text.split("=")[1]), statement="=" in text and 1)
        return types.SimpleNamespace(linter=types.SimpleNamespace(stats=stats))

    monkeypatch.setattr(syntax, "_pylint", lambda: (run, object, lambda: None))
    scores = ["6.99", "7.0", "9"]
    rows = [stack_v1(content=f"x = {score}\n") for score in scores] + [stack_v1(lang="Java", content="int x = 1;")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = read(tmp_path / "a.jsonl", Inputs(kind="code", code=Code(languages=(), min_pylint_score=7.0)))
    assert told(items) == ["code_pylint", "x = 7.0\n", "x = 9\n", "int x = 1;"]
    assert items[1].meta["pylint"] == 7.0 and ("pylint" in sys.modules) == there


def test_the_real_pylint_scores():
    """By its formula: 10 - (5 errors + warnings + refactorings + conventions) / statements x 10."""
    pytest.importorskip("pylint", reason="pylint is no dependency; corpus.Code.min_pylint_score asks for it")
    assert syntax.pylint_score('"""A module."""\n\nLIMIT = 3\n') == 10
    assert syntax.pylint_score("import os\nimport absent_module\nx = 1\ny = x\n") < 7, (
        "no docstring, unused imports, of 4 statements"
    )
    assert syntax.pylint_score('"""A module."""\n\nimport absent_module\n\nprint(absent_module)\n') == 10
    assert syntax.pylint_score("") is None and syntax.pylint_score('"""A module."""\n\nprint(undefined)\n') <= 5


def test_another_pylint_makes_another_set(tmp_path, monkeypatch):
    """Its version is part of the identity where the score decides, and only there."""
    installed = {"pylint": ""}
    monkeypatch.setattr("importlib.metadata.version", lambda name: installed.get(name, "1"))
    monkeypatch.setattr(chain, "_run", lambda *arguments: 0)
    monkeypatch.setattr(Stage, "result", lambda self, unit: {"offsets": []})

    def key(version: str, **code) -> tuple[str, bool]:
        installed["pylint"] = version
        config = Corpus(inputs=Inputs(kind="code", code=Code(**code)))
        return chain.walk(config, [], tmp_path, Execution()).stages[0].key, "pylint" in chain.packages(config)

    scored = [key(version, min_pylint_score=7.0) for version in ("3.3.1", "4.0.0", "3.3.1")]
    assert scored[0] == scored[2] != scored[1] and scored[0][1]
    assert key("3.3.1") == key("4.0.0") and not key("3.3.1")[1]


EN, JA = "The weather is fine today, so let us go out.", "今日は天気がよいので出かけましょう。"


@pytest.mark.parametrize(
    ("one", "two", "score", "settings", "reason"),
    [
        (EN, JA, None, {}, ""),
        ("", JA, None, {}, "parallel_empty_side"),
        ("Linux 6.1", "linux  6.1", None, {}, "parallel_identical"),
        ("abcd", "日本語", None, {"min_characters": 4}, "parallel_length"),
        ("abcd", "日本語文", None, {"min_characters": 4}, ""),
        ("a" * 66, "語" * 10, None, {}, ""),  # 66 / (10 x 2.2) = 3
        ("a" * 67, "語" * 10, None, {}, "parallel_length_ratio"),
        ("a" * 22, "語" * 30, None, {}, ""),  # 22 / (30 x 2.2) = 1/3
        ("a" * 21, "語" * 30, None, {}, "parallel_length_ratio"),
        (EN, "The weather is fine.", None, {}, "parallel_script"),
        (JA, JA + "。", None, {"max_length_ratio": None}, "parallel_script"),
        (EN, JA, "0.49", {"min_score": 0.5}, "parallel_score"),
        (EN, JA, "0.5", {"min_score": 0.5}, ""),
        (EN, JA, "much", {"min_score": 0.5}, "parallel_score"),
    ],
)
def test_rules_of_pairs(one, two, score, settings, reason):
    assert broken_rule(one, two, score, Parallel(**settings)) == reason


def test_tsv_gives_both_directions(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(f"0.9\t{EN}\t{JA}\n0.1\t{EN}\t{JA}\nonly\n".encode() + b"0.9\t\xff\t\xfe\r\n" + f"1\t {EN}\t{JA}x".encode())
    settings = Parallel(columns=(2, 3), score_column=1, min_score=0.5)
    items = read(path, Inputs(parallel=settings))
    assert told(items) == [
        f"{EN}\n{JA}",
        f"{JA}\n{EN}",
        "parallel_score",
        "tsv_columns",
        "text_not_utf8",
        f"{EN}\n{JA}x",
        f"{JA}x\n{EN}",
    ]
    assert items[0].meta["pair"] == {"en": EN, "ja": JA} and items[0].meta["direction"] == "en-ja"
    assert items[0].meta["package"] == items[1].meta["package"] != items[-1].meta["package"]
    assert {i.lang for i in items if isinstance(i, Record)} == {"en-ja"}
    told_format = read(path, Inputs(parallel=Parallel(columns=(2, 3), format="ti", directions=("ja-en",))))
    assert told_format[0].text == f"Translate the following Japanese into English.\n{JA}\n{EN}"
    with pytest.raises(JaLlmError, match="none of its first 5 lines has 9 columns"):
        read(path, Inputs(parallel=Parallel(columns=(8, 9))))


def test_tmx_and_records_give_the_pairs_of_the_tsv(tmp_path):
    unit = '<tu><tuv xml:lang="en-US"><seg>{}</seg></tuv><tuv xml:lang="JA"><seg>{}</seg></tuv></tu>'
    inline = '<bpt i="1">&lt;b&gt;</bpt>The <hi>weather</hi><ept i="1">&lt;/b&gt;</ept> is fine today, so let us go out.'
    one_sided = '<tu><tuv xml:lang="en"><seg>x</seg></tuv></tu>'
    head = '<?xml version="1.0"?><!DOCTYPE tmx SYSTEM "tmx14.dtd"><tmx version="1.4"><header/><body>'
    (tmp_path / "a.tmx").write_text(
        f"{head}{unit.format(inline, JA)}{one_sided}{unit.format('Second side.', '二番目の側。')}</body></tmx>", encoding="utf-8"
    )
    forward = Inputs(kind="parallel", parallel=Parallel(directions=("en-ja",)))
    assert told(read(tmp_path / "a.tmx", forward)) == [f"{EN}\n{JA}", "tmx_language", "Second side.\n二番目の側。"]
    (tmp_path / "b.tmx").write_text(f"{head}{unit.format(EN, JA)}<tu>", encoding="utf-8")
    assert told(read(tmp_path / "b.tmx", forward)) == [f"{EN}\n{JA}", "xml_corrupt"]
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"translation": {"en": EN, "ja": JA}}) + "\n" + json.dumps({"translation": {"en": EN}}) + "\n"
    )
    nested = Inputs(kind="parallel", parallel=Parallel(fields=("translation.en", "translation.ja"), directions=("en-ja",)))
    assert told(read(tmp_path / "a.jsonl", nested)) == [f"{EN}\n{JA}", "parallel_empty_side"]
    pq.write_table(pa.table({"en": [EN], "ja": [JA]}), tmp_path / "a.parquet")
    assert told(read(tmp_path / "a.parquet", forward)) == [f"{EN}\n{JA}"]
    with pytest.raises(JaLlmError, match="has the field 'en'"):
        read(tmp_path / "a.jsonl", forward)


def test_a_parsers_memory_does_not_grow_with_the_dump(tmp_path):
    """Elements that were given out are let go: what is left at the end is some hundred KB for 20 MB."""
    import tracemalloc

    (tmp_path / "a.xml").write_text("".join(dump([page(f"頁{i}", "文" * 2000) for i in range(3000)])), encoding="utf-8")
    items = table.read(str(tmp_path / "a.xml"), Inputs(), LIMIT)
    next(items)
    tracemalloc.start()
    assert sum(isinstance(i, Rejected | Record) for i in items) == 2999
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
