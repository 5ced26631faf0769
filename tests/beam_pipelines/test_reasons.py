"""One hand-checked page for every reason that the code can give. A new reason without a page here fails."""

import ast
import dataclasses
import gzip
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import beam_pipelines
from beam_pipelines import (
    annotate,
    decontaminate,
    dedup,
    expressions,
    extract,
    host_cap,
    hosts,
    language,
    minhash,
    modify,
    rules,
    split,
    top_share,
)
from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus, EnglishFilter, JapaneseFilter, Split
from beam_pipelines.extractor import Extractor
from beam_pipelines.settings.classify import TopShare
from beam_pipelines.settings.decontaminate import Decontaminate
from beam_pipelines.settings.host_cap import HostCap
from beam_pipelines.settings.hosts import Expressions, HostFilter
from beam_pipelines.settings.modify import Modify
from beam_pipelines.stage_files import remaining, write_annotations
from beam_pipelines.tally import Tally
from ja_llm.documents import Document

# --- the reasons, from the code itself ---

_CALLS = {
    "Dropped": 0,
    "BodyProblem": 0,
    "ExtractionProblem": 0,
    "Rejected": 0,
    "Damage": 1,
    "drop": 0,
    "drop_document": 2,
}  # which argument it is
UNKNOWN = "?"
_NAME = re.compile(r"[a-z]+(_[a-z0-9]+)*")


def reasons_in(path: Path) -> set[str]:
    """Constants that can be the reason of a drop in a module; what a variable adds to one is "*"."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assigned: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        for target in node.targets if isinstance(node, ast.Assign) else ():
            pairs = zip(target.elts, node.value.elts, strict=True) if _both_tuples(target, node.value) else [(target, node.value)]
            for name, value in pairs:
                if isinstance(name, ast.Name):
                    assigned.setdefault(name.id, []).append(value)

    def values(node: ast.expr | None, depth: int = 0) -> set[str]:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return {node.value}
        if isinstance(node, ast.JoinedStr):
            return {"".join(part.value if isinstance(part, ast.Constant) else "*" for part in node.values)}
        if isinstance(node, ast.IfExp):
            return values(node.body, depth) | values(node.orelse, depth)
        if isinstance(node, ast.Name) and depth < 3:
            return set().union(*(values(value, depth + 1) for value in assigned.get(node.id, ()))) or {UNKNOWN}
        return {UNKNOWN}

    found: set[str] = set()
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            place = _CALLS.get(name)
            if place is None or len(call.args) <= place:
                continue
            reasons = values(call.args[place])
            found |= reasons - {UNKNOWN}
            if name == "drop_document" and UNKNOWN in reasons:  # it comes out of a function: all public constants of the module
                public = {key: v for key, v in assigned.items() if key.isupper() and not key.startswith("_")}
                found |= {text for v in public.values() for one in v for text in values(one) if _NAME.fullmatch(text)}
    return found


def _both_tuples(target: ast.expr, value: ast.expr) -> bool:
    return isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts)


IN_CODE = set().union(*(reasons_in(path) for path in Path(beam_pipelines.__file__).parent.rglob("*.py")))

# --- pages of extraction: a WARC file with this one thing in it, by the maker's arguments ---


def page(**fields):
    return {"url": "http://a.example/1", "body": "<html><body><p>静かな朝の話です。</p></body></html>", **fields}


GZIPPED = gzip.compress("静かな朝の話です。".encode() * 99)
BINARY = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20
PAGES = {
    "http_status_*": (page(status="404 Not Found"), "http_status_404"),
    "too_large": (page(body="長い話。" * 9000),),
    "body_truncated": (page(body=GZIPPED[:-20], headers=[("Content-Encoding", "gzip")]),),
    "content_encoding": (page(body=GZIPPED, headers=[("Content-Encoding", "compress")]),),
    "empty_body": (page(body=" \n\t "),),
    "content_type": (page(body="{}", type="application/json"),),
    "binary_payload": (page(body=BINARY),),
    "no_main_text": (page(body="<html><head><title>t</title></head><body></body></html>"),),
    "empty_text": (page(body="\u200b\ufeff \u200b", type="text/plain"),),
}
# The whole file's bytes from those of a sound one.
FILES = {
    "warc_empty": lambda sound: b"",
    "warc_unreadable": lambda sound: b"this is no archive\n" * 9,
    "warc_truncated": lambda sound: sound[:-40],
    "warc_corrupt": lambda sound: _plain(sound) + _plain(sound).replace(b"WARC/1.", b"XARC/1.") + _plain(sound),
    "not_http": lambda sound: _plain(sound).replace(b"HTTP/1.1 200 OK", b"GOPHER/9 200 OK"),
}


def _plain(sound):
    return gzip.decompress(sound)


@pytest.fixture
def extracted(web, tmp_path):
    """Reasons that the stage `extract` gives for a file's bytes."""
    from beam_pipelines.workspace import Stage, Unit

    def run(data, **settings):
        (tmp_path / "a.warc.gz").write_bytes(data)
        config = Corpus(extraction=dataclasses.replace(Corpus().extraction, max_bytes=30_000, **settings))
        this = Stage("extract", "0", tmp_path / "extract")
        this.folder.mkdir(exist_ok=True)
        result = extract.run(Unit("u", "a.warc.gz", str(tmp_path / "a.warc.gz")), this, [], config)
        return {reason: counts[0] for reason, counts in result["dropped"].items()}

    yield run
    extract.close_extractor(Corpus().extraction)


@pytest.mark.parametrize("reason", PAGES)
def test_a_page_that_extraction_drops(reason, web, extracted):
    what, *told = PAGES[reason]
    assert extracted(b"".join(web.warc_bytes([what]))) == {(told or [reason])[0]: 1}


@pytest.mark.parametrize("reason", FILES)
def test_a_file_with_a_lost_record(reason, web, extracted):
    sound = b"".join(web.warc_bytes([page()]))
    assert extracted(sound) == {}
    dropped = extracted(FILES[reason](sound))
    # Of an empty file and of no WARC file no record is lost: they are listed as damaged input (test_warc.py) and drop nothing.
    assert dropped == ({} if reason in ("warc_empty", "warc_unreadable") else {reason: 1})


def test_a_page_that_the_rapid_check_drops(web, extracted):
    english = b"".join(
        web.warc_bytes([page(body='<html lang="en"><title>Tea</title><body><p>Boil the water first.</p></body></html>')])
    )
    assert extracted(english) == {} and extracted(english, rapid_check="swallow_v1") == {"rapid_check": 1}


def answer(status, text):
    return lambda self, html: (_ for _ in ()).throw(status(*text))


@pytest.mark.parametrize("reason", ["extract_deadline", "extract_crashed", "extract_failed"])
def test_a_page_on_which_the_extractor_ends(reason, web, extracted, monkeypatch):
    """Pages that do this are in test_page.py (a slow one, a killed child); here the reason reaches the counts."""
    from beam_pipelines.extractor import ExtractionProblem

    monkeypatch.setattr(Extractor, "extract", answer(ExtractionProblem, (reason, "why")))
    assert extracted(b"".join(web.warc_bytes([page()]))) == {reason: 1}


# --- documents behind extraction: (configuration, stages, documents, numbers that go) ---

TEXT = "静かな朝の話です。小さな鳥が枝の上で休んでいます。川の水は冷たく、山の影が長く伸びていました。"
ITEM = "富士山の標高は三千七百七十六メートルである。"


def documents(*texts, hosts=()):
    return [
        Document(id=f"{k:032x}", text=text, url=f"http://{hosts[k] if hosts else 'a.example'}/{k}", lang="ja", date="2024-01-01")
        for k, text in enumerate(texts)
    ]


def scored(unit, this, before, config):
    """In place of a classifier: the first document is good, others are not."""
    tally = Tally.of(config)
    write_annotations(this, unit, ((n, {"education": 0.1 if n else 0.9}) for n, *_ in remaining(unit, before)))
    return tally.to_json()


SCORED = SimpleNamespace(STAGE=StageSpec("classify", 1, lambda config: None, scored, drops=False))


def of_stages(reason, tmp_path):
    (tmp_path / "items.jsonl").write_text(json.dumps({"task": "t", "item": "1", "texts": [ITEM]}))
    (tmp_path / "ng.txt").write_text("腐った卵\n")
    (tmp_path / "ut1" / "adult").mkdir(parents=True)
    (tmp_path / "ut1" / "adult" / "domains").write_text("bad.example\n")
    ng = Expressions(lists=[str(tmp_path / "ng.txt")], names=[str(tmp_path / "ng.txt")])
    both = documents(TEXT, TEXT + "腐った卵", TEXT + "腐った卵", hosts=["fine.example", "bad.example", "bad.example"])
    near = TEXT * 6
    two = documents(TEXT, TEXT + "二", hosts=["a.example.co.jp", "b.example.co.jp"])
    return {
        "below_top_share": (Corpus(top_share=TopShare(share=0.5)), [SCORED, top_share], two, [1]),
        "host_cap": (Corpus(host_cap=HostCap(max_documents=1)), [host_cap], two, [0]),  # the larger hash of the two ids
        "language_*": (Corpus(), [language], documents(TEXT, "Diese Anleitung erklärt, wie man das Programm einrichtet. " * 3), [1]),
        # Japanese in UTF-8, read as Shift_JIS.
        "garbled": (Corpus(), [language], documents(TEXT, TEXT.encode().decode("cp932", "replace")), [1]),
        "duplicate_exact": (Corpus(), [minhash, dedup], documents(TEXT, TEXT, TEXT[::-1]), [1]),
        "duplicate_near": (Corpus(), [minhash, dedup], documents(near, near + "終", near[::-1]), [1]),
        "empty_when_modified": (Corpus(modify=Modify(footer_lines=3)), [modify], documents(TEXT, "利用規約\n会社概要"), [1]),
        "host_listed": (
            Corpus(host_filter=HostFilter(blocklist=str(tmp_path / "ut1"), categories=["adult"])), [hosts], both, [1, 2],
        ),
        "host_pattern": (Corpus(host_filter=HostFilter(patterns=["bad.*"])), [hosts], both, [1, 2]),
        "host_named_pages": (Corpus(expressions=ng, host_filter=HostFilter(max_named_page_share=0.5)), [annotate, hosts], both, [1, 2]),
        "host_ng_characters": (
            Corpus(expressions=ng, host_filter=HostFilter(max_ng_character_share=0.05)), [annotate, hosts], both, [1, 2],
        ),
        "contaminated": (
            Corpus(decontaminate=Decontaminate(items=[str(tmp_path / "items.jsonl")])), [decontaminate], documents(TEXT, TEXT + ITEM), [1],
        ),
        # Of these hosts "h1" falls to the held-out side; its text stands in the long page of the other.
        "heldout_contained": (
            Corpus(split=Split(heldout_share=0.5, split_by="group")), [split], documents(TEXT + ITEM, TEXT, hosts=["h0", "h1"]), [1],
        ),
    }[reason]  # fmt: skip


BEHIND = [
    "below_top_share",
    "host_cap",
    "language_*", "garbled", "duplicate_exact", "duplicate_near", "empty_when_modified", "host_listed", "host_pattern", "host_named_pages",
    "host_ng_characters", "contaminated", "heldout_contained",
]  # fmt: skip


@pytest.mark.parametrize("reason", BEHIND)
def test_a_document_that_a_stage_drops_and_one_that_stays(reason, tmp_path, run_stages):
    config, modules, given, gone = of_stages(reason, tmp_path)
    found = given
    if reason == "heldout_contained":
        assert [split.side(d, config.split) for d in given] == ["train", "heldout"], "choose other hosts"
    for_dedup = run_stages(found, [module.STAGE for module in modules], config)
    (result,) = for_dedup.results[modules[-1].STAGE.name]
    pattern = re.compile(reason.replace("*", ".+"))
    assert [number for number, *_ in sorted(result["drops"])] == gone
    assert all(pattern.fullmatch(entry[1]) for entry in result["drops"])
    assert [d.id for d in for_dedup.left] == [d.id for k, d in enumerate(given) if k not in gone]


# --- rules: by the only rule that is bound, a page that breaks it, and one that does not ---

REPEATED = "吾輩は猫である、名前はまだ無い。" * 4
LINES = "\n".join(["同じ行がまた出てきます。"] * 3 + ["違う行です。"])
PROSE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所でニャーニャー泣いていた事だけは記憶している。"
RULES = {
    "ja": {
        "min_letters": (400, "短い文です。", PROSE * 7),
        "min_japanese_letters": (400, "日本語です。" + "abc " * 200, PROSE * 7),
        "min_japanese_share": (0.5, "This page is in English. 日本語は少し。", PROSE),
        "min_hiragana_share": (0.2, "東京都千代田区霞関一丁目合同庁舎第四号館。", PROSE),
        "max_katakana_share": (0.5, "コンピュータプログラミングサービスです。", PROSE),
        "max_kanji_share": (0.5, "東京都千代田区霞関一丁目合同庁舎。", PROSE),
        "min_mean_sentence_length": (20, "はい。いいえ。そうです。", "吾輩は猫である、名前はまだ無い、どこで生れたかも知らぬ。"),
        "max_mean_sentence_length": (90, "とても長い文" * 20 + "。", PROSE),
        "max_longest_sentence": (200, "とても長い文" * 34 + "。はい。", PROSE),
        "max_ellipsis_share": (0.2, "続きを読む…\n本文です。", PROSE),
        **{f"max_duplicate_{part}_share": (0.3, LINES, PROSE) for part in ("line", "sentence")},
        **{f"max_duplicate_{part}_char_share": (0.2, LINES, PROSE) for part in ("line", "sentence")},
        **{f"max_top_{n}gram_share": (limit, "ああああああ。", PROSE) for n, limit in ((2, 0.2), (3, 0.18), (4, 0.16))},
        **{f"max_top_{n}gram_char_share": (limit, "ああああああ。", PROSE) for n, limit in ((2, 0.2), (3, 0.18), (4, 0.16))},
        **{f"max_duplicate_{n}gram_share": (0.2 - n / 100, REPEATED, PROSE) for n in range(5, 11)},
        **{f"max_duplicate_{n}gram_char_share": (0.2 - n / 100, REPEATED, PROSE) for n in range(5, 11)},
        "min_terminal_line_share": (0.167, "見出し\n一覧\n項目\n番号\n名前\n場所\n本文です。", PROSE),
        "max_newline_share": (0.162, "あ\nい\nう\nえ", PROSE),
    },
    "en": {
        "min_words": (50, "too short to be kept", "the cat of the house is not a dog and has slept well " * 5),
        "max_words": (100_000, "a " * 100_001, "a cat sleeps"),
        "min_mean_word_length": (3, "a b c d of", "the small cat sleeps"),
        "max_mean_word_length": (10, "internationalization characteristically", "the small cat sleeps"),
        "max_symbol_word_ratio": (0.1, "see # this # page # now", "see this page now"),
        "max_bullet_line_share": (0.9, "- one\n- two\n- three", "one\ntwo\n- three"),
        "max_ellipsis_line_share": (0.3, "read on...\nthe end", "read on\nthe end"),
        "min_alphabetic_word_share": (0.8, "12 34 56 cat", "the small cat sleeps"),
        "min_stop_words": (2, "small cats sleep quietly", "the cat and the dog sleep with me"),
        "max_foreign_letter_share": (0.02, "the cat 静かな朝の話", "the small cat sleeps"),
        "max_duplicate_line_share": (0.3, "same\nsame\nsame\nother", "one\ntwo\nthree"),
        "max_duplicate_line_char_share": (0.2, "same\nsame\nsame\nother", "one\ntwo\nthree"),
        **{
            f"max_top_{n}gram_char_share": (limit, "we go on and " * 9, "the small cat sleeps while seven other animals run far away")
            for n, limit in ((2, 0.2), (3, 0.18), (4, 0.16))
        },
    },
}  # fmt: skip
FILTERS = {"ja": JapaneseFilter, "en": EnglishFilter}


@pytest.mark.parametrize(("lang", "rule"), [(lang, name) for lang in FILTERS for name, *_ in rules.rule_names(FILTERS[lang])])
def test_a_page_that_each_rule_drops_and_one_that_it_keeps(lang, rule):
    limit, bad, good = RULES[lang][rule]
    none = {name: None for name, *_ in rules.rule_names(FILTERS[lang])}
    only = FILTERS[lang](**{**none, rule: limit})
    side, _, statistic = rule.partition("_")
    reason = f"{lang}_{statistic}_{'low' if side == 'min' else 'high'}"
    assert rules.failures(annotate.measure(bad, lang, Corpus()), only, lang) == [reason]
    assert rules.failures(annotate.measure(good, lang, Corpus()), only, lang) == []


def test_a_page_with_ng_expressions(tmp_path):
    (tmp_path / "ng.txt").write_text("腐った卵\n")
    how = Expressions(lists=[str(tmp_path / "ng.txt")])
    assert expressions.failures(expressions.measure("腐った卵の話。", how), how, "ja") == ["ja_ng_share_high"]
    assert expressions.failures(expressions.measure(PROSE, how), how, "ja") == []


# Reasons whose page stands with the tests of what gives them.
ELSEWHERE = {
    "extract_deadline": "test_page.py",
    "extract_crashed": "test_page.py",
    "warc_unreadable": "test_warc.py",
    "duplicate_url": "test_dedup_stages.py",
    "duplicate_earlier_run": "test_dedup_stages.py",
    "only_duplicate_lines": "test_dedup_stages.py",
    **dict.fromkeys(
        ("bad_json_line", "duplicate_document", "duplicate_id", "text_missing", "wiki_namespace"), "inputs/test_job.py"
    ),
    **dict.fromkeys(
        ("parquet_corrupt", "parquet_unreadable", "text_not_string", "text_not_utf8", "input_*"), "inputs/test_formats.py"
    ),
    **dict.fromkeys(("tmx_language", "tsv_columns", "xml_corrupt"), "inputs/test_kinds.py"),
    **dict.fromkeys(("wiki_disambiguation", "wiki_model", "wiki_redirect"), "inputs/test_kinds.py"),
}


@pytest.mark.parametrize("reason", ELSEWHERE)
def test_a_page_that_stands_elsewhere(reason):
    tree = ast.parse((Path(__file__).parent / ELSEWHERE[reason]).read_text(encoding="utf-8"))
    pattern = re.compile(reason.replace("*", ".+"))
    assert any(isinstance(node, ast.Constant) and pattern.fullmatch(str(node.value)) for node in ast.walk(tree))


def test_no_reason_is_without_a_page():
    checked = {*PAGES, *FILES, *BEHIND, *ELSEWHERE, "rapid_check", "extract_failed"}
    assert IN_CODE - checked == set(), "add a page for these to this file"
    assert checked - IN_CODE == set(), "the code can't give these"
    for lang, filter_ in FILTERS.items():
        assert set(RULES[lang]) == {name for name, *_ in rules.rule_names(filter_)}
