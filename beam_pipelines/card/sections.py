"""The sections of a data card, from a document set's manifest, its summary and its samples."""

from collections.abc import Mapping, Sequence
from typing import Any

from beam_pipelines.card import published
from beam_pipelines.card.blocks import Block, Code, Plots, Points, Quotes, Section, Table, Text
from beam_pipelines.card.summary import COUNT_EDGES, SHARE_EDGES, Summary, is_share
from ja_llm.pages.charts import funnel, histogram, percent, size
from ja_llm.pages.html import cut

HOSTS, LICENCES, SHOWN = 30, 30, 3  # rows of the tables, samples of a reason
_QUANTILES = (0.1, 0.5, 0.9)
_NAMES = {"ja": "Japanese", "en": "English"}

Samples = Mapping[str, Sequence[Mapping[str, Any]]]


def sections(
    manifest: Mapping[str, Any], summary: Summary, scores: Mapping[str, Any], samples: Mapping[str, Samples]
) -> list[Section]:
    """All of them, in order; one that has nothing to tell says so or is absent.

    Args:
      manifest: of the set.
      summary: of its documents.
      scores: {lang: {statistic: {bin: documents}}} of the documents that were measured (`summary.Histograms`), {} if unknown.
      samples: {"dropped" | "modified": {reason: samples}}.
    """
    parts: list[tuple[str, str, Sequence[Block]]] = [
        ("short", "In short", _short(manifest, summary)),
        ("yields", "What became of the pages", _yields(manifest)),
        ("published", "Beside Swallow Corpus v1", _published(manifest)),
        ("lengths", "Lengths", _lengths(summary)),
        ("scores", "Statistics and their thresholds", _scores(scores, manifest.get("config", {}))),
        ("hosts", "Hosts", _hosts(summary, manifest.get("capped_hosts", {}))),
        ("licences", "Licences and sources", _licences(summary)),
        ("contaminated", "Evaluation sets that were found", _contaminated(manifest.get("contaminated", {}))),
        ("personal", "Changed texts and personal data", _modified(manifest, samples.get("modified", {}))),
        ("dropped", "Samples of what was dropped", _dropped(samples.get("dropped", {}))),
        ("again", "How it was made", _made(manifest)),
    ]
    return [(key, name, blocks) for key, name, blocks in parts if blocks]


def title(summary: Summary) -> str:
    """The card's heading: the names of the collections that the documents are of."""
    names = [name for name, _ in summary.top("sources", 3) if name]
    more = summary.distinct("sources") - len(names)
    return "Data card: " + (", ".join(names) or "documents") + (f" and {more} more" if names and more > 0 else "")


def _short(manifest: Mapping[str, Any], summary: Summary) -> list[Block]:
    totals, yields = manifest["totals"], manifest.get("yields", [])
    blocks: list[Block] = []
    if yields:
        came = yields[0]["in"]["documents"]
        kept = totals.get("documents", 0)
        blocks.append(Text(f"Of {came:,} pages {kept:,} documents were kept ({percent(kept / came) if came else '0 %'})."))
    blocks += [Text(f"{notice[0].upper()}{notice[1:]}.") for notice in manifest.get("notices", [])]
    rows = []
    for lang, parts in sorted(totals.items()):
        if isinstance(parts, Mapping):
            rows += [
                [_lang(lang), split, f"{count['documents']:,}", f"{count['characters']:,}", _mean(count)]
                for split, count in sorted(parts.items())
            ]
    rows.append(["all", "", f"{totals.get('documents', 0):,}", f"{totals.get('characters', 0):,}", _mean(totals)])
    head = ("language", "split", "documents", "characters", "characters a document")
    blocks.append(Table("Documents by language and split", head, rows, numbers=2))
    years = [(year, count) for year, count in summary.top("years", 1000) if year.isdigit()]
    if years:
        first, last = min(year for year, _ in years), max(year for year, _ in years)
        told = first if first == last else f"{first} to {last}"
        blocks.append(Text(f"Captured in {told}, as the input's records say."))
    damaged = len(manifest.get("damaged", []))
    if damaged:
        blocks.append(Text(f"{damaged:,} damaged place{'s' if damaged > 1 else ''} in the input; manifest.json names each."))
    return blocks


def _mean(count: Mapping[str, Any]) -> str:
    return f"{count['characters'] / count['documents']:,.0f}" if count.get("documents") else ""


def _yields(manifest: Mapping[str, Any]) -> list[Block]:
    tables = manifest.get("yields", [])
    if not tables:
        return [Text("The manifest holds no yields: this set was not made by the corpus job.")]
    rows, shares, reasons = [], [], []
    for table in tables:
        came, kept = table["in"], table["kept"]
        share = kept["documents"] / came["documents"] if came["documents"] else None
        by = ", ".join(f"{name} {count['documents']:,}" for name, count in table["kept_by"].items())
        rows.append([table["stage"], by, *_both(came), *_both(kept), _bytes(kept), percent(share) if share is not None else ""])
        shares.append(share)
        for reason, count in sorted(table["dropped"].items(), key=lambda pair: (-pair[1]["documents"], pair[0])):
            part = percent(count["documents"] / came["documents"])
            reasons.append([reason, table["stage"], f"{count['documents']:,}", part, f"{count['characters']:,}", _bytes(count)])
    first = [("pages", tables[0]["in"]["documents"]), *((table["stage"], table["kept"]["documents"]) for table in tables)]
    head = ("stage", "kept by", "documents in", "characters in", "documents kept", "characters kept", "bytes kept", "kept")
    return [
        Plots([funnel("Documents left after each stage", first, "documents", "Shares of the pages that were read.")]),
        Table("Documents and characters in and out of each stage", head, rows, numbers=2, shares=shares),
        Table(
            "Dropped, by reason", ("reason", "stage", "documents", "of what came in", "characters", "bytes"), reasons, numbers=2
        ),
        Text("A page is counted under the first rule that it breaks; manifest.json has how many broke each rule (broken_rules)."),
    ]


def _bytes(count: Mapping[str, Any]) -> str:
    return size(count["bytes"]) if "bytes" in count else ""


def _both(count: Mapping[str, Any]) -> list[str]:
    return [f"{count['documents']:,}", f"{count['characters']:,}"]


def _published(manifest: Mapping[str, Any]) -> list[Block]:
    yields = manifest.get("yields", [])
    if not yields:
        return []
    ours = published.steps(yields)
    if published.JAPANESE not in ours or not published.comparable(manifest.get("config", {})):
        return []
    rows = []
    for step in published.V1:
        share, mine = published.v1_share(step.name), ours.get(step.name)
        rows.append(
            [
                step.name,
                f"{step.pages:,}",
                f"{step.characters:,}" if step.characters else "",
                percent(share) if share is not None else "",
                f"{mine[0]:,}" if mine else "no such stage",
                f"{mine[1]:,}" if mine else "",
                percent(mine[2]) if mine and mine[2] is not None else "",
            ]
        )
    head = ("after", "v1: pages", "v1: characters", "v1: kept", "here: documents", "here: characters", "here: kept")
    return [
        Text("The yields of Swallow Corpus v1 (NLP2024) and of the Japanese documents of this run, in v1's order of steps."),
        Table("Yields of Swallow Corpus v1 and of this run", head, rows),
        Text("What differs:"),
        Points(published.differences(manifest.get("config", {}), yields, len(manifest.get("inputs", [])))),
    ]


def _lengths(summary: Summary) -> list[Block]:
    tables = summary.lengths.tables
    rows = []
    for lang, statistics in sorted(tables.items()):
        bins: Mapping[int, int] = statistics.get("characters", {})
        total = sum(bins.values())
        if total:
            rows.append([_lang(lang), f"{total:,}", *(f"{_quantile(bins, share):,.0f}" for share in _QUANTILES)])
    if not rows:
        return []
    plots = [
        histogram(f"Length in {name}", {_lang(lang): t[name] for lang, t in sorted(tables.items())}, COUNT_EDGES, name, log=True)
        for name in ("characters", "lines")
    ]
    head = ("language", "documents", "a tenth are shorter than", "half are", "nine tenths are")
    note = Text("Characters a document; to the edge of a bin, of which there are eight a decade.")
    return [Plots(plots), Table("Characters a document", head, rows), note]


def _quantile(bins: Mapping[int, int], share: float, edges: Sequence[float] = COUNT_EDGES) -> float:
    """The upper edge of the bin in which this share of the documents is reached."""
    total, seen = sum(bins.values()), 0
    for place in sorted(bins):
        seen += bins[place]
        if seen >= share * total:
            return edges[place + 1]
    return edges[-1]


def _scores(scores: Mapping[str, Any], config: Mapping[str, Any]) -> list[Block]:
    """One plot a statistic and language, those first that the run has thresholds on, and their quantiles beside the thresholds."""
    thresholds = {"ja": config.get("japanese", {}), "en": config.get("english", {})}
    decided: list[str] = []
    others: list[str] = []
    rows: list[list[str]] = []
    for lang, statistics in sorted(scores.items(), key=lambda pair: (pair[0] != "ja", pair[0])):
        limits = thresholds.get(lang) or {}
        for name, bins in statistics.items():
            levels = [(side, limits[f"{side}_{name}"]) for side in ("min", "max") if limits.get(f"{side}_{name}") is not None]
            counts, told = {int(place): n for place, n in bins.items()}, name.replace("_", " ")
            share = is_share(name)
            edges = SHARE_EDGES if share else COUNT_EDGES
            if levels:
                limits_of = {side: f"{level:g}" for side, level in levels}
                tenths = (_number(_quantile(counts, part, edges), share) for part in _QUANTILES)
                rows.append([told, _lang(lang), limits_of.get("min", ""), limits_of.get("max", ""), *tenths])
            plot = histogram(
                f"{_lang(lang)}: {told}",
                {_lang(lang): counts},
                edges,
                told,
                levels,
                log=not share,
            )
            (decided if levels else others).append(plot)
    if not decided and not others:
        return []
    note = "All documents that reached this stage, those too that were dropped by it. Quantiles are to the upper edge of a bin: of fifty for a share, of eight a decade for a count."
    head = ("statistic", "language", "min", "max", "a tenth is below", "half is", "nine tenths are")
    table = Table("Thresholds, and the quantiles of what they are on", head, rows, numbers=2)
    return [
        Text(note),
        *([table] if rows else []),
        Plots(decided),
        Plots(others, f"Without a threshold in this run: {len(others)}"),
    ]


def _number(value: float, share: bool) -> str:
    return f"{value:.2f}" if share else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _hosts(summary: Summary, capped: Mapping[str, int]) -> list[Block]:
    top = summary.top("hosts", HOSTS)
    total = sum(summary.lengths.tables[lang]["characters"].total() for lang in summary.lengths.tables) or 1
    langs = sorted(summary.tables["hosts"])
    rows = [
        [name or "(no host)", *(f"{counts.get(lang, 0):,}" for lang in langs), percent(sum(counts.values()) / total)]
        for name, counts in top
    ]
    shares = [sum(counts.values()) / total for _, counts in top]
    distinct = summary.distinct("hosts")
    more = f"; the {len(rows)} with the most are shown" if distinct > len(rows) else ""
    head = ("host", *(f"documents, {_lang(lang)}" for lang in langs), "of all")
    blocks: list[Block] = [
        Text(f"{distinct:,} different hosts{more}."),
        Table("Hosts with the most documents", head, rows, shares=shares),
    ]
    if capped:
        lost = sorted(capped.items(), key=lambda pair: (-pair[1], pair[0]))[:HOSTS]
        blocks += [
            Text(f"{len(capped):,} sites had more pages than the cap allows; what the largest lost:"),
            Table("Sites above the cap", ("site", "pages dropped"), [[name or "(no host)", f"{n:,}"] for name, n in lost]),
        ]
    return blocks


def _licences(summary: Summary) -> list[Block]:
    blocks: list[Block] = []
    for kind, name in (("licences", "licence"), ("sources", "source")):
        top = summary.top(kind, LICENCES)
        rows = [[cut(value, 160) or "not known", f"{sum(counts.values()):,}"] for value, counts in top]
        if rest := summary.distinct(kind) - len(top):
            rows.append([f"{rest} more", ""])
        blocks.append(Table(f"Documents by {name}", (name, "documents"), rows))
    blocks.append(Text("Licences are what the input says of each page; they are no legal advice."))
    return blocks


def _contaminated(tasks: Mapping[str, int]) -> list[Block]:
    """How many documents held items of which evaluation task."""
    rows = [[task, f"{n:,}"] for task, n in sorted(tasks.items(), key=lambda pair: (-pair[1], pair[0]))]
    return [Table("Documents that held items of an evaluation set", ("evaluation set", "documents"), rows)] if rows else []


def _modified(manifest: Mapping[str, Any], samples: Samples) -> list[Block]:
    rows = [
        [table["stage"], kind, f"{count['documents']:,}"]
        for table in manifest.get("yields", [])
        for kind, count in sorted(table.get("modified", {}).items(), key=lambda pair: (-pair[1]["documents"], pair[0]))
    ]
    found = [[kind, f"{count:,}"] for kind, count in sorted(manifest.get("personal_data", {}).items())]
    if not rows and not found:
        return [Text("No stage of this run changed a text, so personal data were neither looked for nor replaced.")]
    blocks: list[Block] = []
    if rows:
        blocks.append(Table("Documents that were changed, by what was done", ("stage", "what", "documents"), rows, numbers=2))
    if found:
        blocks += [
            Table("Personal data replaced by placeholders, by kind", ("kind", "places"), found),
            Text("Found by patterns and check digits: what has another form stays. This table has counts only."),
        ]
    return [*blocks, *_samples(samples, "changed by")]


def _dropped(samples: Samples) -> list[Block]:
    warning = Text(
        "These are texts as they were crawled and may hold personal data: look through them before you publish this card."
    )
    return [warning, *_samples(samples, "dropped as")] if samples else []


def _samples(samples: Samples, how: str) -> list[Block]:
    blocks: list[Block] = []
    for reason, found in samples.items():
        entries = [_quote(sample) for sample in list(found)[:SHOWN]]
        blocks.append(Quotes(f"{how} {reason}: {len(entries)} of {len(found)} samples", entries))
    return blocks


_NOT_TOLD = ("text", "before", "after", "id", "reason", "statistics")


def _quote(sample: Mapping[str, Any]) -> tuple[str, str]:
    """(what is known of a sample, its text: of a changed one before and after)."""
    about = ((key, value) for key, value in sample.items() if key not in _NOT_TOLD and value not in (None, "", {}))
    texts = [f"{key}:\n{cut(str(sample[key]), 140)}" for key in ("before", "after") if sample.get(key)]
    return " · ".join(f"{key}: {cut(str(value), 120)}" for key, value in about), str(sample.get("text") or "\n".join(texts))


def _made(manifest: Mapping[str, Any]) -> list[Block]:
    inputs = manifest["inputs"]
    size = sum(entry["bytes"] for entry in inputs)
    versions = ", ".join(f"{name} {version}" for name, version in sorted(manifest["software"].items()))
    return [
        Text(
            f"Read {len(inputs):,} file{'s' if len(inputs) != 1 else ''} of {size / 1e6:,.1f} MB; manifest.json has the checksum of each."
        ),
        Text("Every value that decides the content:"),
        Code(_flat(manifest["config"])),
        Text(f"Software: {versions}. Configuration {manifest['config_hash'][:16]}."),
        Text(
            "Samples are drawn by a seeded hash of the document's id. A set made again from the same files by the same versions has the same bytes."
        ),
    ]


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    lines: list[str] = []
    for name, value in sorted(config.items()):
        lines += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else [f"{prefix}{name} = {value!r}"]
    return lines


def _lang(lang: str) -> str:
    return _NAMES.get(lang, lang or "unknown")
