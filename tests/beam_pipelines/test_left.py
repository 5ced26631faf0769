"""What a run leaves: the data card, samples, two runs side by side, copies in other formats. Sets are written by hand here."""

import collections
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from beam_pipelines import compare, formats, samples, stats
from beam_pipelines.card import HTML, MARKDOWN, published, write_card, write_counts
from beam_pipelines.card.blocks import Quotes, Table, Text
from beam_pipelines.card.sections import sections
from beam_pipelines.card.summary import COUNT_EDGES, SHARE_EDGES, Histograms, Summary, count_bin, share_bin, summarise
from beam_pipelines.config import load
from ja_llm import manifest
from ja_llm.documents import Document, document_id, to_example, write_record
from ja_llm.errors import UsageError


def document(n: int, lang: str = "ja", **more) -> Document:
    url = more.pop("url", f"https://site{n % 3}.example/{n}")
    text = more.pop("text", f"これは{n}番目の文書です。\n" * (n + 1))
    date = f"20{20 + n % 4}-05-01T00:00:00Z"
    return Document(document_id("web", url, date, text), text, "web", url, lang, date, more.pop("licence", "CC0-1.0"))


def counts(documents: int, characters: int = 0) -> dict[str, int]:
    return {"documents": documents, "characters": characters}


YIELDS = [
    {"stage": "extract", "in": counts(100), "kept": counts(90, 900), "kept_by": {}, "dropped": {"empty_text": counts(10)}},
    {
        "stage": "language", "in": counts(90, 900), "kept": counts(60, 600), "kept_by": {"ja": counts(40, 400), "en": counts(20, 200)},
        "dropped": {"language_de": counts(30, 300)},
    },
    {
        "stage": "dedup", "in": counts(60, 600), "kept": counts(30, 300), "kept_by": {"ja": counts(20, 200), "en": counts(10, 100)},
        "dropped": {"duplicate_near": counts(30, 300)},
    },
    {
        "stage": "filter", "in": counts(30, 300), "kept": counts(15, 150), "kept_by": {"ja": counts(5, 50), "en": counts(10, 100)},
        "dropped": {"ja_letters_low": counts(15, 150)},
    },
]  # fmt: skip


def write_set(folder: Path, documents: list[Document], config: dict | None = None, shards: int = 2) -> dict:
    """A document set as the corpus job leaves it."""
    entries = []
    for lang in sorted({d.lang for d in documents}):
        for number in range(shards):
            path = folder / lang / f"train-{number:05d}-of-{shards:05d}.tfrecord"
            path.parent.mkdir(parents=True, exist_ok=True)
            mine = sorted((d for d in documents if d.lang == lang and int(d.id, 16) % shards == number), key=lambda d: d.id)
            with open(path, "wb") as file:
                for d in mine:
                    write_record(file, to_example(d))
            sizes = {"documents": len(mine), "characters": sum(len(d.text) for d in mine), "lang": lang, "split": "train"}
            entries.append(manifest.file_entry(path, folder, **sizes))
    totals = {key: sum(e[key] for e in entries) for key in ("documents", "characters", "bytes")}
    for lang in sorted({d.lang for d in documents}):
        mine = [e for e in entries if e["lang"] == lang]
        totals[lang] = {"train": counts(sum(e["documents"] for e in mine), sum(e["characters"] for e in mine))}
    config = config or {"minhash": {"ngram": 5, "bands": 20, "rows": 10}, "japanese": {"min_letters": 400}}
    for kind, reason, entry in (
        ("dropped", "ja_letters_low", {"reason": "ja_letters_low", "url": "https://a.example/<b>", "text": "短い`文`。"}),
        ("modified", "footer", {"reason": "footer", "before": "本文。\nコピーライト", "after": "本文。"}),
    ):
        (folder / kind).mkdir(exist_ok=True)
        lines = "".join(json.dumps({**entry, "id": f"{i:032x}"}, ensure_ascii=False) + "\n" for i in range(5))
        (folder / kind / f"{reason}.jsonl").write_text(lines, encoding="utf-8")
    inputs = [{"name": "a.warc.gz", "bytes": 10, "sha256": "0" * 64}]
    return manifest.write(
        folder, schema=manifest.DOCUMENTS, job="corpus", config=config, inputs=inputs, shards=entries, totals=totals, yields=YIELDS,
        personal_data={"phone_ja": 31}, contaminated={"jcommonsenseqa": 32}, capped_hosts={"large.example": 33},
    )  # fmt: skip


@pytest.fixture
def made(tmp_path):
    documents = [*(document(n) for n in range(12)), *(document(n, "en", licence="", text="word " * 50) for n in range(20, 25))]
    return tmp_path / "set", documents, write_set(tmp_path / "set", documents)


class Balanced(HTMLParser):
    """Collects the text of a page and holds that every element is closed."""

    VOID = frozenset(("meta", "br", "hr", "link", "img"))

    def __init__(self, page: str):
        super().__init__()
        self.open, self.text, self.tags = [], "", collections.Counter()
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_card_counts_the_documents(made):
    folder, documents, _ = made
    summary = summarise(sorted(folder.glob("*/*.tfrecord")))
    for kind, of in (
        ("licences", lambda d: d.licence),
        ("years", lambda d: d.date[:4]),
        ("hosts", lambda d: d.url.split("/")[2]),
    ):
        for lang in ("ja", "en"):
            assert summary.tables[kind][lang] == collections.Counter(of(d) for d in documents if d.lang == lang)
    for name, size in (("characters", len), ("lines", lambda t: len(t.split("\n")))):
        for lang in ("ja", "en"):
            for place, n in summary.lengths.tables[lang][name].items():
                inside = [d for d in documents if d.lang == lang and COUNT_EDGES[place] <= size(d.text) < COUNT_EDGES[place + 1]]
                assert n == len(inside)
    assert summary.distinct("hosts") == 3 and [n for n, _ in summary.top("hosts", 2)] == ["site0.example", "site2.example"]


def test_sums_of_parts_are_the_sums_of_the_whole(made):
    folder, documents, _ = made
    whole, parts = Summary(), Summary()
    for d in documents:
        whole.add(d)
    for some in (documents[5:], documents[:5]):
        part = Summary()
        for d in some:
            part.add(d)
        parts.merge(json.loads(json.dumps(part.to_json())))
    assert parts.to_json() == whole.to_json()


@pytest.mark.parametrize("edges, place", [(COUNT_EDGES, count_bin), (SHARE_EDGES, share_bin)])
def test_bins_hold_their_lower_edge(edges, place):
    for i, edge in enumerate(edges[:-1]):
        assert place(edge) == i and place((edge + edges[i + 1]) / 2) == i
    assert place(edges[-1] * 10) == len(edges) - 2 and place(-1.0) == 0


def test_card_is_whole_and_says_what_stands_in_the_manifest(made):
    folder, _, value = made
    write_card(folder)
    page = Balanced((folder / HTML).read_text(encoding="utf-8"))
    told = (folder / MARKDOWN).read_text(encoding="utf-8")
    for text in (page.text, told):
        for wanted in (
            "phone_ja",
            "31",
            "jcommonsenseqa",
            "32",
            "large.example",
            "33",
            "changed by footer",
            "before:\n本文。\nコピーライト\nafter:\n本文。",
        ):
            assert wanted in text
        for wanted in ("ja_letters_low", "site2.example", "CC0-1.0", "2,686,080,919", "minhash.bands = 20", "not known"):
            assert wanted in text
        assert "Of 100 pages 17 documents were kept (17 %)" in text
    assert page.tags["svg"] >= 3 and "<script" not in (folder / HTML).read_text(encoding="utf-8")
    assert "<b>" not in told.replace("\\<b\\>", ""), "what comes from data is no markup"
    assert not re.search(r"/tmp|/root|20\d\d-\d\d-\d\d", page.text), "no clock, no path of this machine"


def test_equal_sets_give_equal_cards_whether_counted_by_the_job_or_read_again(made):
    folder, _, value = made
    scores = Histograms()
    write_card(folder)
    read = [(folder / name).read_bytes() for name in (HTML, MARKDOWN)]
    write_counts(folder, value["shards"], summarise(sorted(folder.glob("*/*.tfrecord"))), scores)
    write_card(folder)
    assert [(folder / name).read_bytes() for name in (HTML, MARKDOWN)] == read
    scores.add("ja", {"letters": 500, "hiragana_share": 0.4, "nothing": float("nan")})
    scores.add("ja", {"letters": 300, "hiragana_share": 0.5})
    write_counts(folder, value["shards"], summarise(sorted(folder.glob("*/*.tfrecord"))), scores)
    write_card(folder)
    page = (folder / HTML).read_text(encoding="utf-8")
    assert "min stands at 400" in page and ">min</text>" in page, "a threshold is drawn into its statistic's histogram"
    assert (
        page.index("Japanese: letters")
        < page.index("Without a threshold in this run: 1")
        < page.index("Japanese: hiragana share")
    )
    write_counts(folder, value["shards"][1:], Summary(), scores)
    write_card(folder)
    assert "site0.example" in (folder / MARKDOWN).read_text(), "the counts of other shards are not taken"


def test_v1_beside_ours():
    found = published.steps(YIELDS)
    assert found[published.JAPANESE] == (40, 400, 0.4)
    assert found[published.DEDUP] == (20, 200, 0.5) and found[published.QUALITY] == (5, 50, 0.25)
    assert list(found) == [published.CRAWL, published.JAPANESE, published.DEDUP, published.QUALITY], "in the run's order"
    shares = {step.name: published.v1_share(step.name) for step in published.V1[1:]}
    # The percentages that the paper prints beside its table.
    assert {name: round(100 * share, 1) for name, share in shares.items()} == {
        published.JAPANESE: 4.2, published.QUALITY: 24.1, published.DEDUP: 28.7, published.HOST: 93.3, published.MODIFY: 100.0,
    }  # fmt: skip
    said = " ".join(published.differences({"minhash": {"ngram": 5, "bands": 20, "rows": 10}}, YIELDS, 1))
    assert "Order: v1 went quality filter, deduplication" in said and "this run went deduplication, quality filter" in said
    assert "finds 21%" in said and "finds 90%" in said and "host filter" in said
    split = [*YIELDS[:2], {**YIELDS[2], "stage": "url_dedup"}, {**YIELDS[3], "stage": "exact_dedup"}]
    assert published.steps(split)[published.DEDUP] == (5, 50, 0.125), "stages of one step are taken together"


def differs(preset, bindings=(), yields=YIELDS):
    return published.differences(load(preset, bindings).to_json(), yields, 2)


def test_what_differs_names_every_value_that_v1_has_otherwise():
    said = " ".join(differs("swallow_v2"))
    for wanted in (
        "longest sentence 200, here none", "min japanese letters 400, here none", "max duplicate 5gram share 0.15, here none",
        "rapid check swallow_v1, here none", "method model, here rule", "astral kanji no, here yes", "finds 90%",
    ):  # fmt: skip
        assert wanted in said
    assert "footer" not in said, "a stage that the run lacks is named as lacking, without its values"
    assert "min letters 400, here 90" in " ".join(differs("swallow_v2", ["corpus.JapaneseFilter.min_letters = 90"]))
    said = " ".join(differs("swallow_v1"))
    assert "here" not in said.replace("pages; this run", "") and "40 bands of 20" in said, "the preset has v1's own values"


def test_the_comparison_is_left_out_where_there_is_nothing_to_compare(made):
    folder, _, value = made
    summary = summarise(sorted(folder.glob("*/*.tfrecord")))
    for preset, there in (("swallow_v2", True), ("parallel", False), ("wikipedia", False), ("code", False)):
        config = load(preset).to_json()
        keys = [key for key, _, _ in sections({**value, "config": config}, summary, {}, {})]
        assert ("published" in keys) == there, preset
    without = ["corpus.Corpus.stages = ['extract', 'language', 'exact_dedup', 'annotate', 'select', 'split']"]
    assert "bands" not in " ".join(differs("swallow_v2", without)), "no MinHash in the stages, none on the card"


def test_markdown_card_has_the_quantiles_beside_the_thresholds(made):
    folder, _, value = made
    scores = Histograms()
    for n in range(100):
        scores.add("ja", {"letters": 10 * n + 1, "hiragana_share": n / 100, "kanji": 5})
    config = {"japanese": {"min_letters": 400, "min_hiragana_share": 0.2, "max_hiragana_share": 0.9}}
    write_set(folder, [document(n) for n in range(4)], config)
    write_counts(
        folder, manifest.read(folder, manifest.DOCUMENTS)["shards"], summarise(sorted(folder.glob("*/*.tfrecord"))), scores
    )
    write_card(folder)
    told = (folder / MARKDOWN).read_text(encoding="utf-8")
    # A tenth of 0, .01, ... .99 is reached in the bin from .08 to .1, the half in that up to .5, nine tenths up to .9.
    assert "| hiragana share | Japanese | 0.2 | 0.9 | 0.10 | 0.50 | 0.90 |" in told
    # Letters 1, 11, ... 991: to the upper edge of bins of 10^(1/8): 91 -> 100, 491 -> 562, 891 -> 1,000.
    assert "| letters | Japanese | 400 |   | 100 | 562 | 1,000 |" in told and "| kanji |" not in told


def test_markdown_keeps_what_data_says_as_text():
    assert Text("a|b *c* _d_ e_f <g>").markdown() == r"a\|b \*c\* \_d\_ e_f \<g\>"
    assert Table("t", ("a", "b"), [["x|y", ""]]).markdown().splitlines()[-1] == r"| x\|y |   |"
    quoted = Quotes("s", [("n", "``` fence\n````")]).markdown()
    assert quoted.count("`````") == 2, "the fence is longer than any run in the text"


def test_samples_are_shown_by_reason(made):
    folder, documents, _ = made
    told = samples.sample(folder, ["ja_letters_low"], number=2)
    assert told.count("    短い`文`。") == 2 and "2 of 5 samples" in told
    assert "before:\n    本文。\n    コピーライト\nafter:\n    本文。" in samples.sample(folder)
    kept = samples.sample(folder, kept=4, seed=3)
    shown = set(re.findall(r"^id: (\w+)$", kept, re.MULTILINE))
    assert len(shown) == 4 and shown <= {d.id for d in documents} and "dropped" not in kept
    assert samples.sample(folder, kept=4, seed=3) == kept != samples.sample(folder, kept=4, seed=4)
    with pytest.raises(UsageError, match="near ones are: ja_letters_low"):
        samples.sample(folder, ["ja"])
    with pytest.raises(UsageError, match="can't be negative"):
        samples.sample(folder, number=-1)


def test_two_runs_side_by_side(made, tmp_path):
    folder, documents, _ = made
    other = [d for d in documents if d.lang == "ja"][1:] + [document(50), *(d for d in documents if d.lang == "en")]
    changed = next(d for d in other if d.lang == "en")
    other[other.index(changed)] = Document(changed.id, "another text", *list(changed.__dict__.values())[2:])
    write_set(
        tmp_path / "b", other, {"minhash": {"ngram": 5, "bands": 14, "rows": 10}, "japanese": {"min_letters": 400}}, shards=3
    )
    value = compare.compare(folder, tmp_path / "b")
    assert value["configuration"] == {"minhash.bands": [20, 14]} and not value["inputs"] and not value["yields"]
    found = value["documents"]
    ids = {d.id for d in documents}, {d.id for d in other}
    assert (found["only_first"], found["only_second"]) == (len(ids[0] - ids[1]), len(ids[1] - ids[0])) == (1, 1)
    assert (found["same"], found["changed"]) == (len(ids[0] & ids[1]) - 1, 1), "the number of shards is no difference"
    assert found["samples"]["only in B"] == [{"id": document(50).id, "url": document(50).url}]
    assert [e["id"] for e in found["samples"]["changed"]] == [changed.id]
    told = compare.format_comparison(value, "A", "B")
    assert "minhash.bands: 20 -> 14" in told and "1 in A only, 1 in B only" in told


def test_stats_tell_what_was_changed():
    table = {**YIELDS[3], "stage": "modify", "modified": {"footer": counts(3, 30), "personal_data": counts(7, 70)}}
    told = [line.split() for line in stats.format_yields({"yields": [*YIELDS, table]}).splitlines()]
    changed = [line for line in told if line[:1] == ["~"]]
    assert changed == [["~", "personal_data", "7", "70", "23.3%"], ["~", "footer", "3", "30", "10.0%"]]
    assert told.index(changed[1]) < told.index(["+", "ja", "5", "50", "16.7%"], told.index(changed[0])), (
        "between dropped and kept"
    )


def test_yields_that_differ_are_told_by_stage_and_reason():
    kept = {**YIELDS[3], "kept": counts(20), "dropped": {"ja_letters_low": counts(7), "ja_new": counts(3)}}
    found = compare._yields({"yields": YIELDS}, {"yields": [*YIELDS[:3], kept]})
    assert found == {"filter": {"kept": [15, 20], "ja_letters_low": [15, 7], "ja_new": [0, 3]}}


@pytest.mark.parametrize("name", list(formats.WRITERS))
def test_copies_hold_the_same_documents_in_the_same_bytes(made, name):
    folder, documents, value = made
    if name == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
    else:
        zstandard = pytest.importorskip("zstandard")
    before = {p: p.read_bytes() for p in folder.glob("*/*.tfrecord")}
    entries = formats.write_copies(folder, [name])
    assert {p: p.read_bytes() for p in folder.glob("*/*.tfrecord")} == before and len(entries) == len(before)
    assert manifest.read(folder, manifest.DOCUMENTS, verify=True) == value, "the set is what it was"
    found = []
    for entry in entries:
        data = (folder / entry["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])
        if name == "parquet":
            rows = parquet.read_table(io.BytesIO(data)).to_pylist()
        else:
            text = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read().decode()
            rows = [json.loads(line) for line in text.splitlines()]
        assert len(rows) == entry["documents"] and [r["id"] for r in rows] == sorted(r["id"] for r in rows)
        found += [Document(**row) for row in rows]
    assert sorted(found, key=lambda d: d.id) == sorted(documents, key=lambda d: d.id)
    written = (folder / entries[0]["name"]).stat().st_mtime_ns
    assert formats.write_copies(folder, [name]) == entries and (folder / entries[0]["name"]).stat().st_mtime_ns == written
    (folder / entries[0]["name"]).unlink()
    assert formats.write_copies(folder, [name]) == entries, "made again: the same bytes"
    assert formats.write_copies(folder, []) == entries, "those that there are"
    assert formats.write_copies(folder, ["tfrecord"]) == [] and not list(folder.glob(f"*/*.{name}"))
    assert formats.write_copies(folder, []) == []


def test_a_copy_of_a_changed_shard_is_made_again(made):
    folder, documents, _ = made
    first = formats.write_copies(folder, ["jsonl.zst"])
    write_set(folder, documents[1:])
    second = formats.write_copies(folder, [])
    assert sum(e["documents"] for e in second) == len(documents) - 1 == sum(e["documents"] for e in first) - 1
    assert sum(a["sha256"] != b["sha256"] for a, b in zip(first, second, strict=True)) == 1


def test_unknown_format_is_named():
    with pytest.raises(UsageError, match="--format csv: there are tfrecord, jsonl.zst, parquet"):
        formats.check(["tfrecord", "csv"])
