"""Block lists, patterns, shares over a host's pages, and the expressions that are counted for them."""

import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipelines import annotate, chain, config, expressions, hosts, select
from beam_pipelines.config import Corpus
from beam_pipelines.expressions import Matcher
from beam_pipelines.hosts import BlockList, bad_hosts, host_of
from beam_pipelines.settings.hosts import Expressions, HostFilter
from ja_llm.documents import Document
from ja_llm.errors import UsageError


@given(st.sets(st.text("あいう", min_size=1, max_size=4), min_size=1, max_size=6), st.text("あいうえ", max_size=30))
@settings(deadline=None)
def test_longest_match_from_the_left_is_that_of_a_regular_expression(words, text):
    pattern = re.compile("|".join(sorted(words, key=len, reverse=True)))
    matcher = Matcher(sorted(words))
    assert matcher.characters(text) == sum(len(found) for found in pattern.findall(text))
    assert matcher.any(text) == bool(pattern.search(text))


@pytest.fixture
def lists(tmp_path):
    (tmp_path / "ng.txt").write_text("\ufeff腐った卵\n\n卵\n", encoding="utf-8")
    (tmp_path / "names.txt").write_text("卵の出会い\n", encoding="utf-8")
    for category, names in {
        "dating": "bad.example\nWWW.Worse.example\n",
        "blog": "fine.example\n",
        "adult": "bad.example\n1.2.3.4\n",
    }.items():
        (tmp_path / "ut1" / category).mkdir(parents=True)
        (tmp_path / "ut1" / category / "domains").write_text(names)
    return tmp_path


def test_ng_share_at_its_threshold(lists, run_stages):
    """Swallow v1 keeps a page whose NG characters are less than .05 of its Japanese letters."""
    how = Expressions(lists=[str(lists / "ng.txt")])
    assert expressions.measure("腐った卵と卵。ABC", how) == {"ng_characters": 5, "ng_share": 5 / 7, "japanese_letters": 7}
    below, at = "卵" + "あ" * 20, "卵" + "あ" * 19
    for text, broken in ((below, []), (at, ["ja_ng_share_high"])):
        assert expressions.failures(expressions.measure(text, how), how, "ja") == broken
    assert expressions.measure("ABC卵" + "x" * 99, how)["ng_share"] == 1.0 and expressions.measure("ABC", how)["ng_share"] == 0
    assert expressions.failures({"ng_share": 1.0}, Expressions(ng_share_from=None), "ja") == []


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://Bad.Example:8080/a", "bad.example"),
        ("https://user:pw@bad.example./", "bad.example"),
        ("http://日本語.jp/", "xn--wgv71a119e.jp"),
        ("mailto:a@b.c", ""),
        ("not a url", ""),
        ("http://[broken/", ""),
        ("", ""),
        ("http:///path", ""),
        ("http://" + "あ" * 70 + ".jp/", ""),
    ],
)
def test_hosts_of_urls(url, host):
    assert host_of(url) == host


def test_exact_and_suffix_matches(lists):
    exact, suffix = (BlockList(lists / "ut1", ["dating", "adult"], match) for match in ("exact", "suffix"))
    assert len(exact) == 3
    asked = [
        "bad.example",
        "www.bad.example",
        "notbad.example",
        "www.worse.example",
        "worse.example",
        "1.2.3.4",
        "fine.example",
        "example",
        "",
    ]
    assert [exact.category(h) for h in asked] == ["dating", None, None, "dating", None, "adult", None, None, None]
    assert [suffix.category(h) for h in asked] == ["dating", "dating", None, "dating", None, "adult", None, None, None]


def document(number, host, text="これは静かな朝の話です。"):
    return Document(id=f"{number:032x}", text=text, url=f"http://{host}/{number}", lang="ja")


def test_listed_hosts_and_patterns_are_dropped(lists, run_stages):
    names = ["bad.example", "www.bad.example", "fine.example", "ja.wikipedia.org", "egg.5ch.net", "5ch.net", "x.org"]
    documents = [document(k, name) for k, name in enumerate(names)]
    how = HostFilter(blocklist=str(lists / "ut1"), categories=["adult", "dating"], patterns=["*wikipedia.org", "*.5CH.net"])
    done = run_stages(documents, [hosts.STAGE], Corpus(host_filter=how))
    assert [d.url.split("/")[2] for d in done.left] == ["www.bad.example", "fine.example", "5ch.net", "x.org"]
    assert done.results["host_filter"][0]["drops"] == [
        [0, "host_listed", "bad.example: adult"],
        [3, "host_pattern", "ja.wikipedia.org: *wikipedia.org"],
        [4, "host_pattern", "egg.5ch.net: *.5CH.net"],
    ]


def test_shares_are_of_all_pages_of_a_host_and_at_their_thresholds():
    how = HostFilter(max_named_page_share=0.25, max_ng_character_share=0.1, spared=["museum"])
    rows = [
        ("at.example", [3, 1, 5, 60]), ("at.example", [1, 0, 5, 40]),  # 1 of 4 pages, 10 of 100 characters: both exactly
        ("named.example", [3, 1, 0, 99]),
        ("ng.example", [9, 0, 1, 50]), ("ng.example", [9, 0, 10, 50]),
        ("museum.example", [1, 1, 9, 9]),
        ("", [1, 1, 9, 9]),
        ("latin.example", [1, 0, 0, 0]),
    ]  # fmt: skip
    bad = bad_hosts(rows, how)
    assert {host: reason for host, (reason, _) in bad.items()} == {
        "named.example": "host_named_pages",
        "ng.example": "host_ng_characters",
    }
    assert bad["ng.example"][1] == pytest.approx(0.11)
    assert bad_hosts(reversed(rows), how) == bad, "the order of the units does not count"


def test_a_host_is_judged_over_all_units(lists, run_stages):
    settings_ = Corpus(
        expressions=Expressions(lists=[str(lists / "ng.txt")], names=[str(lists / "names.txt")]),
        host_filter=HostFilter(max_named_page_share=0.3, max_ng_character_share=0.02),
    )
    plain, one, named = (
        "静かな朝の話です。" * 5,
        "静かな卵の話です。" + "静かな朝の話です。" * 4,
        "卵の出会い。" + "静かな朝の話です。" * 30,
    )
    texts = [
        ("a", plain),
        ("b", one),
        ("a", plain),
        ("b", one),
        ("a", one),
        ("c", named),
        ("c", plain),
        ("d", named),
        ("d", plain),
    ]
    texts += [("d", plain), ("d", plain)]
    documents = [document(k, f"{host}.example", text) for k, (host, text) in enumerate(texts)]
    for units in (1, 3):
        done = run_stages(documents, [annotate.STAGE, hosts.STAGE], settings_, units)
        assert {d.url[7] for d in done.left} == {"a", "d"}
        reasons = {r for result in done.results["host_filter"] for _, r, _ in result["drops"]}
        assert reasons == {"host_named_pages", "host_ng_characters"}


def test_the_rule_drops_pages_in_the_chain(lists, run_stages):
    text = "静かな朝の話です。小さな鳥が枝の上で休んでいます。" * 2
    filters = {field.name: None for field in dataclasses.fields(config.JapaneseFilter)}
    how = Corpus(expressions=Expressions(lists=[str(lists / "ng.txt")]), japanese=config.JapaneseFilter(**filters))
    documents = [document(0, "a.example", text), document(1, "a.example", text + "腐った卵、卵、卵。")]
    done = run_stages(documents, [annotate.STAGE, select.STAGE], how)
    assert [d.id for d in done.left] == [documents[0].id]
    assert done.results["select"][0]["drops"] == [[1, "ja_ng_share_high"]]


@pytest.mark.parametrize(
    ("bindings", "sentence"),
    [
        (["corpus.HostFilter.blocklist = '/nowhere'"], "/nowhere: there is no such folder of block lists"),
        (
            ["corpus.HostFilter.blocklist = 'UT1'"],
            r"ut1/shopping/domains: this category has no list \(there are: adult, blog, dating\)",
        ),
        (["corpus.HostFilter.match = 'part'"], "match = 'part': it must be 'exact' or 'suffix'"),
        (["corpus.HostFilter.max_ng_character_share = 0.1"], "max_ng_character_share needs a list of expressions"),
        (["corpus.HostFilter.max_named_page_share = 0.1"], "max_named_page_share needs a list of expressions"),
        (["corpus.Expressions.lists = ('/nowhere.txt',)"], "/nowhere.txt: there is no such file"),
        (["corpus.Expressions.lists = ('SJIS',)"], "this list of expressions is not UTF-8"),
        (["corpus.Expressions.lists = ('EMPTY',)"], "this list holds no expression"),
    ],
)
def test_wrong_lists_are_told_before_anything_runs(bindings, sentence, lists):
    (lists / "sjis").write_bytes("卵\n".encode("cp932"))
    (lists / "empty").write_text("\n \n")
    stages = "corpus.Corpus.stages = ('extract', 'language', 'annotate', 'select', 'host_filter', 'split')"
    names = {"UT1": "ut1", "SJIS": "sjis", "EMPTY": "empty"}
    given_ = [re.sub("'(UT1|SJIS|EMPTY)'", lambda m: repr(str(lists / names[m[1]])), b) for b in bindings]
    with pytest.raises(UsageError, match=sentence):
        chain.side_files(config.load("swallow_v2", [stages, *given_]))


def test_lists_count_by_content(lists):
    stages = "corpus.Corpus.stages = ('extract', 'language', 'annotate', 'select', 'split')"

    def digest():
        return chain.side_files(config.load("swallow_v2", [stages, f"corpus.Expressions.lists = ({str(lists / 'ng.txt')!r},)"]))

    before = digest()
    assert list(before) == [str(lists / "ng.txt")] and digest() == before
    (lists / "ng.txt").write_text("卵\n魚\n", encoding="utf-8")
    assert digest() != before
    assert expressions.measure("魚", Expressions(lists=[str(lists / "ng.txt")]))["ng_characters"] == 1
