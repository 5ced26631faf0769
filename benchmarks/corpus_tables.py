"""Tables of docs/deduplication.md, duplicates (`minhash.py`) and languages (`language.py`), and of docs/corpus.md, speed (`corpus_speed.py`)."""

import statistics
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# Of the precise model on held-out text of its own kind: what Swallow v1's paper says of its detector.
LANGUAGE_GOALS = {"precision": 0.999, "recall": 0.979}
_PEERS = {"datatrove": "datatrove", "text_dedup": "text-dedup"}


def minhash(value: dict[str, Any]) -> str:
    """Time and memory by size, peers, found pairs beside theory."""
    config, goals = value["config"], value["goals"]
    sizes = sorted(value["sizes"].items(), key=lambda item: int(item[0]))
    lines = [
        f"{config['bands']} x {config['rows']} over character {config['ngram']}-grams, documents of about 1,000 characters, "
        f"{config['workers']} worker{'s' if config['workers'] > 1 else ''}, {value['hardware']['cpu']}. CPU seconds of all processes; peers by the clock, in the same call.",
        "",
        "| documents | CPU microseconds a document | beside a tenth of them | peak memory of a process | peers' time / ours |",
        "|---|---|---|---|---|",
    ]
    for size, found in sizes:
        count = int(size)
        grown = value["growth_a_decade"].get(f"{count // 10} to {count}")
        peers = []
        for name, peer in found.get("peers", {}).items():
            if "seconds" in peer:
                peers.append(f"{_PEERS[name]} {peer['seconds'] / sum(found['seconds'].values()):.1f}")
        growth = f"{grown['cpu']:.2f} times" if grown else ""
        lines.append(
            f"| {count:,} | {found['cpu_microseconds_a_document']:,.0f} | {growth} | "
            f"{found['peak_gib']:.2f} GiB | {', '.join(peers)} |"
        )
    lines += [
        "",
        f"Goals: at most {goals['growth_a_decade']} times a decade, {goals['peak_gib_at_1m']} GiB at 1,000,000, "
        f"{goals['times_faster_than_peers_at_100k']} times the peers' speed at 100,000. Planted pairs that were found, and theory's share:",
        "",
    ]
    note = ["", f"{value['note'][0].upper()}{value['note'][1:]}."] if "note" in value else []
    return "\n".join([*lines, *_found(sizes), *note])


def _found(sizes: list[tuple[str, Any]]) -> list[str]:
    """Shares of the planted pairs by level of similarity; the peers' where they ran."""
    levels = list(sizes[0][1]["found_pairs"])
    lines = ["| documents | " + " | ".join(f"Jaccard near {level}" for level in levels) + " |", "|---" * (1 + len(levels)) + "|"]
    for size, found in sizes:
        cells = []
        for level in levels:
            pairs = found["found_pairs"][level]
            outside = "" if pairs["within_3_standard_errors"] else " **outside 3 standard errors**"
            cells.append(f"{pairs['found']:.1%} of {pairs['pairs']:,} (theory {pairs['theory']:.1%}){outside}")
        lines.append(f"| {int(size):,} | " + " | ".join(cells) + " |")
        for name, peer in found.get("peers", {}).items():
            if "found_pairs" in peer:
                cells = [f"{peer['found_pairs'][level]:.1%}" for level in levels]
                lines.append(f"| {int(size):,}, {_PEERS[name]} | " + " | ".join(cells) + " |")
    return lines


def language(value: dict[str, Any]) -> str:
    """Precision and recall of model, rule and rapid check; the check's speed."""
    lines = ["| texts | method | texts, Japanese among them | precision | recall |", "|---|---|---|---|---|"]

    def cell(name: str, share: float | None, goals: Mapping[str, float]) -> str:
        if share is None or name not in goals:
            return "" if share is None else f"{share:.4f}"
        told = f"{share:.4f} (goal {goals[name]})"
        return told if share >= goals[name] else f"**{told}**"

    def row(what: str, method: str, table: dict[str, Any], goals: Mapping[str, float] = MappingProxyType({})) -> str:
        shares = " | ".join(cell(name, table[name], goals) for name in ("precision", "recall"))
        return f"| {what} | {method} | {table['texts']:,}, {table['japanese']:,} | {shares} |"

    heldout = value["heldout"]["by_characters"]
    lines += [
        row(f"held out, {length} characters", "model", heldout[length], LANGUAGE_GOALS)
        for length in ("all", "1-9", "10 or more")
        if length in heldout
    ]
    for method, found in value.get("labelled_text", {}).items():
        lines += [row(f"labelled pages, {name}", method, table) for name, table in found["by_characters"].items()]
    for rule, found in value.get("labelled_pages_rapid_check", {}).items():
        lines.append(row("labelled pages, raw bytes", f"rapid check, {rule}", found))
    goals = ", ".join(f"{name} {goal}" for name, goal in LANGUAGE_GOALS.items())
    lines += ["", f"Goals of the model are Swallow's figures for its own detector ({goals}); bold figures miss theirs."]
    if speed := value.get("speed"):
        median = {name: statistics.median(seconds) for name, seconds in speed["cpu_seconds"].items()}
        kana = ""
        if "rapid_check_kana" in median:
            kana = f", by rule kana {1000 * median['rapid_check_kana']:.0f} ms: {speed['times_faster_than_extraction_kana']:.0f} times"
        lines += [
            "",
            f"The rapid check (swallow_v1) of {speed['pages']:,} pages took {1000 * median['rapid_check']:.0f} ms, their extraction {median['extract']:.0f} s: {speed['times_faster_than_extraction']:.0f} times "
            f"(goal {speed['goal']}){kana}. The model reads {speed['model_characters_per_second'] / 1e6:.1f}M characters/s. One core.",
        ]
    return "\n".join(lines)


def corpus_speed(value: dict[str, Any]) -> str:
    """The corpus job beside datatrove, its rules beside HojiChar's too, on one core."""
    repeats = len(value["japanese"]["ours"]["cpu_seconds"])
    of = f"medians of {repeats} repeats" if repeats > 1 else "one run"
    lines = [
        f"| CPU time of one core, {of} | ours | peer | ratio | goal | ratio without the start |",
        "|---|---|---|---|---|---|",
    ]
    names = {"japanese": "Japanese manuals, end to end", "mix": "4 % of them Japanese, end to end"}
    for part, name in names.items():
        found, goal = value[part], value["goals"][part]["goal"]
        rates = " | ".join(f"{found[who]['pages_per_cpu_second_with_start_up']:.1f} pages/s" for who in ("ours", "datatrove"))
        ratio = _beside_goal(found["ratio_of_cpu_with_start_up"], goal)
        lines.append(
            f"| {found['pages']:,} pages, {name} | {rates} (datatrove) | {ratio} | {goal} | {found['ratio_of_cpu']:.2f} |"
        )
    found, goal = value["filters"], value["goals"]["filters"]["goal"]
    median = {name: statistics.median(rates) for name, rates in found["documents_per_second"].items()}
    for name, ratio in found["ratio"].items():
        rates = f"{median['ours']:,.0f} documents/s | {median[name]:,.0f} documents/s ({name})"
        lines.append(f"| rules alone, {found['documents']:,} documents | {rates} | {_beside_goal(ratio, goal)} | {goal} | |")
    lines += ["", "| seconds by stage, as each system times itself | ours | datatrove |", "|---|---|---|"]
    for part, name in names.items():
        cells = [
            ", ".join(f"{_plain(stage)} {seconds:.1f}" for stage, seconds in value[part]["stage_seconds"][who].items())
            for who in ("ours", "datatrove")
        ]
        lines.append(f"| {value[part]['pages']:,} pages, {name} | {' | '.join(cells)} |")
    left = value["mix"]["japanese"]
    lost = f"Texts of the mix that the language rule called Japanese: ours {left['ours']}, which looks at the raw bytes first ({', '.join(value['rapid_check'])})"
    return "\n".join([*lines, "", f"{lost}, datatrove {left['datatrove']}, which extracts every page."])


def _beside_goal(ratio: float, goal: float) -> str:
    return f"{ratio:.2f}" if ratio >= goal else f"**{ratio:.2f}** (missed)"


def _plain(stage: str) -> str:
    """datatrove's names are a kind, pictures and a class."""
    return "".join(c for c in stage.rpartition(":")[2] if c.isascii()).strip()
