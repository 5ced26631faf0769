"""The embedded pages: what the quickstart relies on, checked with readers that nobody here wrote."""

import collections
import glob
import importlib.resources
import itertools
import re
import tomllib
from pathlib import Path

import py3langid
import pytest
import trafilatura
from warcio.archiveiterator import ArchiveIterator

from ja_llm.errors import JaLlmError
from ja_llm.quickstart import pages as pages_module
from ja_llm.quickstart import sites
from ja_llm.quickstart.pages import encode, load_pages, make_page, parse_source, render, summary, write_warc

PAGES = load_pages()
BY_KEY = {page.key: page for page in PAGES}
ARTICLES = [page for page in PAGES if page.kind == "article"]
KEYS = [page.key for page in PAGES]
READABLE = [page for page in PAGES if page.kind in ("article", "near_duplicate")]
BOUNDS = {"ja": (850, 1600), "en": (1500, 3700), "zh": (500, 900), "ko": (700, 1200), "de": (1500, 3200), "fr": (1500, 3200)}


def squeeze(text):
    return re.sub(r"\s+", "", text)


def by_key(keys_of):
    return pytest.mark.parametrize("page", keys_of, ids=lambda page: page.key)


def test_the_collection_has_what_the_quickstart_needs():
    count = collections.Counter((page.kind, page.lang) for page in PAGES)
    assert count["article", "ja"] >= 80 and count["article", "en"] >= 40
    assert min(count["article", lang] for lang in ("zh", "ko", "de", "fr")) >= 2
    assert sum(count["article", lang] for lang in ("zh", "ko", "de", "fr")) >= 12
    assert count["near_duplicate", "ja"] >= 5 and count["near_duplicate", "en"] >= 2
    assert count["spam", "ja"] >= 4 and count["spam", "en"] >= 1 and count["symbols", "zxx"] >= 1
    assert {"UTF-8", "Shift_JIS", "EUC-JP", "ISO-2022-JP"} <= {page.charset for page in PAGES if page.kind == "article"}
    assert {page.site for page in PAGES} == set(sites.SITES)
    assert len({page.url for page in PAGES}) == len(PAGES)
    assert all(re.match(r"https://[a-z]+\.example/", page.url) for page in PAGES)  # reserved by RFC 2606


@by_key(ARTICLES)
def test_length_and_sentences(page):
    low, high = BOUNDS[page.lang]
    assert low <= len(page.text) <= high
    if page.lang == "ja":
        sentences = [s for s in re.split(r"[。！？\n]", page.text) if s]
        assert 20 <= sum(map(len, sentences)) / len(sentences) <= 80
        assert max(map(len, sentences)) <= 80


@by_key(READABLE)
def test_declared_language_is_the_script_and_what_a_language_identifier_says(page):
    latin = r"[A-Za-zÀ-ÿœŒ]"
    kinds = {"ja": r"[ぁ-ゖァ-ヺー一-鿿々]", "en": latin, "de": latin, "fr": latin, "zh": r"[一-鿿]", "ko": r"[가-힣]"}
    letters = [c for c in page.text if c.isalpha()]
    assert sum(bool(re.match(kinds[page.lang], c)) for c in letters) >= 0.97 * len(letters)
    if page.lang == "ja":
        assert sum("ぁ" <= c <= "ゖ" for c in letters) >= 0.5 * len(letters)
    assert py3langid.classify(page.text)[0] == page.lang


@by_key(PAGES)
def test_the_charset_loses_nothing(page):
    data = encode(page)
    assert data.decode(page.charset) == render(page)
    if page.charset == "Shift_JIS":  # browsers read this label as Windows-31J
        assert data.decode("cp932") == render(page)
    if page.charset == "ISO-2022-JP":
        assert b"\x1b$B" in data and max(data) < 128
    in_header = f"charset={page.charset}" in sites.SITES[page.site].content_type(page)
    in_page = f"charset={page.charset}" in render(page).replace('"', "")
    assert in_header or in_page


def test_no_sentence_stands_in_two_articles():
    where = collections.defaultdict(set)
    for page in ARTICLES:
        for sentence in re.split(r"[。！？\n]|(?<=[.!?]) ", page.text):
            if len(sentence) >= 12:
                where[sentence].add(page.key)
    assert {s: keys for s, keys in where.items() if len(keys) > 1} == {}


def test_near_duplicates_are_near_and_nothing_else_is():
    grams = {page.key: {page.text[i : i + 5] for i in range(len(page.text) - 4)} for page in PAGES}
    declared = {frozenset((page.key, page.edit_of)) for page in PAGES if page.kind == "near_duplicate"}
    for a, b in itertools.combinations(KEYS, 2):
        jaccard = len(grams[a] & grams[b]) / len(grams[a] | grams[b])
        if {a, b} in declared:
            assert 0.8 <= jaccard < 1.0, (a, b, jaccard)
        else:
            assert jaccard <= 0.3, (a, b, jaccard)


def test_near_duplicates_stand_on_another_site_under_a_later_date():
    for page in PAGES:
        if page.kind == "near_duplicate":
            original = BY_KEY[page.edit_of]
            assert page.site != original.site and page.date > original.date and page.title != original.title


def test_spam_repeats_itself():
    for page in PAGES:
        if page.kind == "spam":
            lines = page.text.split("\n")
            assert len(set(lines)) <= 0.7 * len(lines)


def test_translations_run_block_by_block():
    pairs = [(page, BY_KEY[page.translation_of]) for page in PAGES if page.translation_of]
    assert len(pairs) >= 2 and {(a.lang, b.lang) for a, b in pairs} == {("en", "ja")}
    for page, original in pairs:
        assert [block.kind for block in page.blocks] == [block.kind for block in original.blocks]


@by_key(READABLE)
def test_an_extractor_finds_the_writing_and_drops_the_furniture(page):
    found = squeeze(trafilatura.extract(encode(page).decode(page.charset), include_comments=False) or "")
    lines = [squeeze(line) for line in page.text.split("\n")]
    assert sum(len(line) for line in lines if line in found) >= 0.85 * sum(map(len, lines))
    words = [squeeze(w) for w in vars(sites.furniture(page.lang)).values() if isinstance(w, str)]
    rest = found.replace(squeeze(page.title), "")
    for line in sorted(lines, key=len, reverse=True):
        rest = rest.replace(line, "", 1)
    assert len(rest) < 0.1 * len(found)
    # There is furniture to drop: it is in the page, and most of it is gone afterwards.
    assert sum(w in squeeze(render(page)) for w in words) >= 3
    assert not any(w in found for w in words if len(w) > 15)


def test_the_warc_reads_back_as_it_was_written(tmp_path):
    path = tmp_path / "pages.warc.gz"
    told = write_warc(path)
    responses, metadata, statuses = {}, {}, collections.Counter()
    with open(path, "rb") as file:
        for record in ArchiveIterator(file, check_digests="raise"):
            url = record.rec_headers.get_header("WARC-Target-URI")
            if record.rec_type == "response":
                identity = record.rec_headers.get_header("WARC-Record-ID")
                statuses[record.http_headers.get_statuscode()] += 1
                responses[url] = (
                    identity,
                    record.http_headers,
                    record.rec_headers.get_header("WARC-Date"),
                    record.content_stream().read(),
                )
            elif record.rec_type == "metadata":
                metadata[url] = (record.rec_headers.get_header("WARC-Concurrent-To"), record.content_stream().read().decode())
    for page in PAGES:
        identity, headers, date, body = responses[page.url]
        assert body == encode(page) and date.startswith(page.date)
        assert headers.get_header("Content-Type") == sites.SITES[page.site].content_type(page)
        concurrent, fields = metadata[page.url]
        assert concurrent == identity
        assert "source: quickstart\r\n" in fields and "licence: CC0-1.0\r\n" in fields
    assert statuses == {"200": len(PAGES) + 1, "301": 1, "404": 1}
    moved = next(value for value in responses.values() if value[1].get_statuscode() == "301")
    assert moved[1].get_header("Location") in {page.url for page in PAGES}
    image = [body for _, headers, _, body in responses.values() if headers.get_header("Content-Type") == "image/png"]
    assert len(image) == 1 and image[0].startswith(b"\x89PNG\r\n\x1a\n")
    assert told["responses"] == len(responses) and told["bytes"] == path.stat().st_size
    assert {key: told[key] for key in summary()} == summary()


def test_the_warc_is_the_same_each_time(tmp_path):
    one = write_warc(tmp_path / "a" / "pages.warc.gz")
    load_pages.cache_clear()
    two = write_warc(tmp_path / "b" / "pages.warc.gz")
    assert (tmp_path / "a" / "pages.warc.gz").read_bytes() == (tmp_path / "b" / "pages.warc.gz").read_bytes()
    assert one == two


def test_the_png_is_one():
    image = pytest.importorskip("PIL.Image")
    import io

    with image.open(io.BytesIO(pages_module._png())) as picture:
        picture.load()
        assert picture.size == (32, 32)


def test_the_pages_are_package_data():
    folder = importlib.resources.files("ja_llm.quickstart") / "pages"
    assert {page.key for page in PAGES} == {f"{d.name}/{f.name[:-4]}" for d in folder.iterdir() for f in d.iterdir()}
    root = Path(__file__).parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["ja_llm"]
    packed = {name for pattern in patterns for name in glob.glob(pattern, root_dir=root / "ja_llm", recursive=True)}
    assert {f"quickstart/pages/{key}.txt" for key in KEYS} <= packed


GOOD = "title: t\nsite: kobo\ndate: 2024-01-01\n---\nあいう\n"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (GOOD.replace("---", ""), "complete the file"),
        (GOOD.replace("title: t\n", ""), "lacks title"),
        (GOOD.replace("site: kobo", "site: nowhere"), "site must be one of"),
        (GOOD.replace("title: t", "titel: t"), "'titel: t'"),
        (GOOD.replace("date:", "kind: poem\ndate:"), "kind one of"),
        (GOOD.replace("あいう\n", "\n"), "complete the file"),
    ],
)
def test_a_broken_page_file_is_refused_by_name(source, says):
    with pytest.raises(JaLlmError, match="page ja/x: .*" + re.escape(says)):
        parse_source("ja/x", source)


@pytest.mark.parametrize(
    ("body", "says"),
    [("< え\n> お", "not found exactly once"), ("< い", "each followed by"), ("> い\n< う", "each followed by")],
)
def test_an_edit_that_does_not_fit_is_refused(body, says):
    sources = {
        "ja/a": parse_source("ja/a", GOOD),
        "ja/b": parse_source("ja/b", GOOD.replace("date", "edit_of: ja/a\ndate").replace("あいう", body)),
    }
    with pytest.raises(JaLlmError, match="page ja/b: .*" + says):
        make_page("ja/b", sources)
    sources.pop("ja/a")
    with pytest.raises(JaLlmError, match="edit_of names 'ja/a'"):
        make_page("ja/b", sources)


def test_a_character_that_the_charset_lacks_is_refused():
    page = make_page("ja/a", {"ja/a": parse_source("ja/a", GOOD.replace("date", "charset: Shift_JIS\ndate").replace("あ", "한"))})
    with pytest.raises(JaLlmError, match="page ja/a: it can't be stored in Shift_JIS"):
        encode(page)
