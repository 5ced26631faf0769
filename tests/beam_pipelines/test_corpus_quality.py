"""The labelled damage that `benchmarks/corpus_quality.py` measures the corpus job by: labels are true, nothing is lost unseen."""

import gzip
import html
import itertools
import random

import numpy as np
import pytest

from benchmarks import corpus_quality, damaged_twin, page_truth
from benchmarks.corpus_quality import Near, Outcome, losses, measure, met, verdict
from benchmarks.drawn_bandings import drawn_bandings
from ja_llm.fetch.warc_writer import WarcWriter

PAGES = {"ja": 100, "en": 24}


def grams(text):
    dense = "".join(text.split())
    return {dense[i : i + 5] for i in range(max(1, len(dense) - 4))}


def brute_force(a, b):
    return len(grams(a) & grams(b)) / len(grams(a) | grams(b))


@pytest.fixture(scope="module")
def collection(tmp_path_factory, web):
    """(WARC files of undamaged pages, their labels, the twin's folder, its labels)."""
    folder = tmp_path_factory.mktemp("collection")
    for lang, count in PAGES.items():
        with WarcWriter(folder / f"{lang}.warc.gz") as writer:
            for i in range(count):
                html = web.html((web.ja_text if lang == "ja" else web.en_text)(i)).replace(
                    "<head>", '<head><meta charset="utf-8">'
                )
                body, url = html.encode(), f"https://{lang}.example/{i}"
                writer.response(url, body, "text/html; charset=utf-8", "2024-01-01T00:00:00Z", metadata={"language": lang})
    warcs = sorted(folder.glob("*.warc.gz"))
    originals = damaged_twin.label_originals(warcs, folder / "truth" / "originals.jsonl.gz")
    return warcs, originals, folder / "twin", damaged_twin.make(warcs, originals, folder / "twin", each=2)


def test_labels_of_sound_pages_are_what_was_written(collection, web):
    _, originals, _, _ = collection
    assert {page.url: page.content for page in originals} == {
        f"https://{lang}.example/{i}": "ja" if lang == "ja" else "other" for lang, count in PAGES.items() for i in range(count)
    }
    first = next(page for page in originals if page.url == "https://ja.example/0")
    assert page_truth.squeeze(first.text) == page_truth.squeeze(web.ja_text(0))


def test_near_pairs_are_all_pairs_by_brute_force(web):
    rng = random.Random(5)
    texts = [web.ja_text(i, 30) for i in range(6)] + ["", "短い", "短い文。", "短い文。"]
    texts += [
        damaged_twin.replaced(t.replace("\n", ""), "花鳥風月" * 99, level, rng) for t in texts[:6] for level in (0.45, 0.55, 0.97)
    ]
    expected = {
        (i, j): brute_force(a, b) for i, a in enumerate(texts) for j, b in enumerate(texts) if i < j and brute_force(a, b) >= 0.5
    }
    assert page_truth.near_pairs([page_truth.ngrams(t) for t in texts], 0.5, sketch=64) == pytest.approx(expected)
    assert len(expected) > 12


def test_sharing_pairs_are_all_pairs_by_brute_force(web):
    texts = [web.ja_text(i, 12) for i in range(5)] + [web.en_text(i) for i in range(5)] + ["", "短い", "短い文。", "短い文。"]
    texts += [damaged_twin.replaced(t.replace("\n", ""), "花鳥風月" * 99, 0.3, random.Random(1)) for t in texts[:5]]
    expected = {
        (i, j): brute_force(a, b) for i, a in enumerate(texts) for j, b in enumerate(texts) if i < j and grams(a) & grams(b)
    }
    blocks = page_truth.sharing_pairs([page_truth.ngrams(t) for t in texts], block=4)
    found = {(int(i), int(j)): float(v) for block in blocks for i, j, v in zip(*block, strict=True)}
    assert found == pytest.approx({pair: v for pair, v in expected.items() if texts[pair[0]] or not texts[pair[1]]})
    assert 20 < len(found) < len(texts) * (len(texts) - 1) / 2


def test_references_are_written_out_as_a_parser_reads_them(web):
    import lxml.html

    page = (
        web.html("日本語 ½ é 😀 &lt;b&gt; &#60;i&#62; &#128; &#xFFFE; &#0; &nbsp;").encode("ascii", "xmlcharrefreplace").decode()
    )
    out = damaged_twin.written_out(page)
    assert "日本語 ½ é 😀 &lt;b&gt; &#60;i&#62;" in out
    assert lxml.html.fromstring(out).text_content() == lxml.html.fromstring(page).text_content()


@pytest.mark.parametrize("level", damaged_twin.LEVELS)
@pytest.mark.parametrize("edit", [damaged_twin.replaced, damaged_twin.scattered])
def test_an_edit_comes_near_its_level(web, edit, level):
    text, donor = (page_truth.squeeze(web.ja_text(i, 60)) for i in (1, 2))
    assert brute_force(text, edit(text, donor, level, random.Random(3))) == pytest.approx(level, abs=0.06)


def test_the_twin_is_the_same_again(collection, tmp_path):
    warcs, originals, twin, pages = collection
    assert damaged_twin.make(warcs, originals, tmp_path, each=2) == pages == damaged_twin.read_truth(twin / "truth.jsonl.gz")
    for path in twin.glob("*.warc.gz"):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()
    assert damaged_twin.make(warcs, originals, tmp_path, seed=2, each=2) != pages


def gzip_text(data):
    return html.unescape(gzip.zlib.decompressobj(31).decompress(data).decode("utf-8", "replace"))


def test_every_kind_is_there_and_is_what_it_says(collection):
    _, originals, twin, pages = collection
    by_key, labels = {page.key: page for page in originals}, {page.label for page in pages}
    kinds = {*damaged_twin.CHARSETS, damaged_twin.BAD_BYTES, *damaged_twin.MOJIBAKE, *damaged_twin.CUTS, *damaged_twin.COPIES}
    kinds |= set(damaged_twin.MEMBERS)
    assert labels == kinds | {
        f"{style}, {level}" for style in ("scattered edits", "a stretch replaced") for level in damaged_twin.LEVELS
    }
    for page in pages:
        data = (twin / page.file).read_bytes()[page.offset :]
        if page.label in (*damaged_twin.MEMBERS[:3], damaged_twin.MEMBERS[5]):
            assert page.lost and not page.text
            with pytest.raises((OSError, EOFError, gzip.zlib.error)):
                gzip.decompress(data[: data.find(b"\x1f\x8b\x08", 10)] if page.label == damaged_twin.MEMBERS[1] else data)
        elif page.label in damaged_twin.MOJIBAKE:
            assert page.content == "other" and not page.text
            assert page_truth.squeeze(by_key[page.of].text)[:40] not in page_truth.squeeze(gzip_text(data))
        elif page.label in damaged_twin.CHARSETS:
            assert page.text == by_key[page.of].text and page.content == "ja"


@pytest.fixture(scope="module")
def built(collection, tmp_path_factory):
    warcs, originals, twin, pages = collection
    everything, inputs = [*originals, *pages], [str(warcs[0].parent / "*.warc.gz"), str(twin / "*.warc.gz")]
    output = tmp_path_factory.mktemp("built") / "set"
    return everything, measure("swallow_v2", everything, inputs, output, 1, Near(everything)), corpus_quality.outcomes(output)


def test_a_small_twin_is_within_the_bounds(built):
    _, part, _ = built
    assert all(met(verdict(part)).values()), verdict(part)
    assert part["losses"]["lost_by_design_but_a_document"] == []
    assert part["duplicates"]["of_pages"]["pairs_alike"] > 30 and part["duplicates"]["planted"]["unlike_documents"] >= 5
    for label in damaged_twin.CHARSETS:
        assert part["text"][f"{label} [ja]"]["same_as_undamaged"] == 1, label


def test_pairs_share_a_band_as_often_as_brute_force_says(built):
    pages, part, found = built
    keys = sorted(key for key, outcome in found.items() if outcome.compared)
    sets, table = [grams(found[key].text) for key in keys], part["duplicates"]["pairs_by_similarity"]
    similarities = [len(a & b) / len(a | b) for a, b in itertools.combinations(sets, 2)]
    counts = [sum(int(v * 10) == i or (v == 1 and i == 9) for v in similarities if v) for i in range(10)]
    assert [bin["pairs"] for bin in table.values()] == counts
    assert table["0.9"]["joined"] == counts[9] and sum(bin["joined"] for bin in table.values()) < sum(counts)
    went = sum(found[key].stage == "dedup" for key in keys)
    assert went == part["duplicates"]["dropped"] > 0


def test_bandings_are_drawn_around_the_theory_with_the_spread_of_independent_pairs():
    rng, draws, bands, rows = np.random.default_rng(0), 40, 5, 3
    sets, expected, variance = [], 0.0, 0.0
    for similarity in np.linspace(0.3, 0.7, 200):  # 200 pairs with nothing in common with each other
        both = round(300 * 2 * similarity / (1 + similarity))
        a, b = rng.integers(0, 1 << 63, (2, 300), np.uint64)
        b[:both] = a[:both]
        sets += [np.unique(a), np.unique(b)]
        chance = 1 - (1 - (both / (600 - both)) ** rows) ** bands
        expected, variance = expected + chance, variance + chance * (1 - chance)
    found = list(drawn_bandings(sets, bands, rows, draws))
    assert all((code // 400) % 2 == 0 and code % 400 == code // 400 + 1 for codes in found for code in codes.tolist())
    counts = np.array([len(codes) for codes in found])
    assert abs(counts.mean() - expected) < 4 * (variance / draws) ** 0.5
    assert 0.6 < counts.std(ddof=1) / variance**0.5 < 1.5  # 40 draws know it within 11 %
    # Ten copies of each second document are joined with the first together or not at all: ten times the count, ten times the spread.
    family = [document for i in range(0, 400, 2) for document in (sets[i], *[sets[i + 1]] * 10)]
    across = [
        sum(code % 2200 % 11 > 0 == code // 2200 % 11 for code in codes.tolist())
        for codes in drawn_bandings(family, bands, rows, 10)
    ]
    assert np.std(across, ddof=1) > 4 * variance**0.5


def test_mojibake_is_dropped_by_its_own_name(built):
    _, part, _ = built
    places = {label: part["losses"]["by_label"][label] for label in damaged_twin.MOJIBAKE}
    assert places["mojibake, utf-8 read as shift_jis"] == {"language: garbled": 1}
    # Others may look like French or Chinese. These keep their kana, and are told by the long mark, which a page may lack.
    kept = {"mojibake, euc_jp read as gb18030: other taken for ja"}
    assert {label for label in part["language"]["wrong"] if label.startswith("mojibake")} <= kept


def test_a_record_that_is_nowhere_and_a_wrong_language_are_seen(built):
    pages, part, found = built
    value = {"damaged": [], "yields": [{"stage": "extract", "in": {"documents": 3}, "kept": {"documents": 2}, "dropped": {}}]}
    one = pages[0]
    seen = losses(pages, {key: outcome for key, outcome in found.items() if key != one.key}, value)
    assert one.url in seen["some_unaccounted"] and seen["stages_that_do_not_add_up"] == ["extract"]
    wrong = {**found, one.key: Outcome(id="0", text=one.text, lang="en" if one.content == "ja" else "ja")}
    before, after = part["language"], corpus_quality.language(pages, wrong)
    assert after["precision"] + after["recall"] < before["precision"] + before["recall"]
