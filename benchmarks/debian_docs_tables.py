"""Tables of README.md (`debian_docs.py`) and docs/quickstart.md (`quickstart.py`, `quickstart_rate.py`)."""

from pathlib import Path
from typing import Any

from benchmarks.cells import interval, percent
from benchmarks.step_speed import OURS, PEER
from ja_llm.files import read_json

RESULTS = Path(__file__).resolve().parent / "results"
RENAMED = {"filter": "select"}  # stages that had another name when they were measured
NAMES = {
    "base": "English base",
    "expanded": "after expansion, untrained",
    "trained": "after continual pre-training",
    "scratch": "control: the same run from random weights",
}


def debian_docs(value: dict[str, Any]) -> str:
    """Quality, yield and speed of the main job."""
    return "\n\n".join([quality(value), yields(value), speed(value)])


def quality(value: dict[str, Any]) -> str:
    """Bits per byte and tasks for each model."""
    lines = [
        "| model | Japanese bits/byte | English bits/byte | continuation choice ja (chance 25 %) | en | UI strings en→ja chrF |",
        "|---|---|---|---|---|---|",
    ]
    for key, name in NAMES.items():
        tasks = value["evaluation"][key]["tasks"]
        cells = [interval(tasks["bits_per_byte_ja"], "bits_per_byte"), interval(tasks["bits_per_byte_en"], "bits_per_byte")]
        cells += [percent(tasks[f"continuation_choice_{lang}"]) for lang in ("ja", "en")]
        cells.append(f"{tasks['translate_ui_en_ja']['chrf']:.1f}" if "translate_ui_en_ja" in tasks else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    ngram = value["character_5gram"]
    lines.append(
        f"| control: character 5-gram | {interval(ngram['bits_per_byte_ja'], 'bits_per_byte')} | {interval(ngram['bits_per_byte_en'], 'bits_per_byte')} | | | |"
    )
    return "\n".join(lines)


def yields(value: dict[str, Any]) -> str:
    """Pages that each stage took in, kept and dropped, by reason."""
    lines = ["| stage | in | kept | dropped, by reason |", "|---|---|---|---|"]
    for stage in value["corpus"]["yields"]:
        dropped = sorted(stage["dropped"].items(), key=lambda item: -item[1]["documents"])
        reasons = ", ".join(f"{reason} {count['documents']}" for reason, count in dropped[:8])
        rest = sum(count["documents"] for _, count in dropped[8:])
        more = f", {len(dropped) - 8} more reasons {rest}" if rest else ""
        kept = "; ".join(f"{name} {count['documents']}" for name, count in stage["kept_by"].items())
        lines.append(
            f"| {RENAMED.get(stage['stage'], stage['stage'])} | {stage['in']['documents']} | {stage['kept']['documents']}{f' ({kept})' if kept else ''} | {reasons}{more} |"
        )
    return "\n".join(lines)


def speed(value: dict[str, Any]) -> str:
    """Speeds, vocabulary, repeatability, export."""
    tokens, training = value["certificate"]["checks"]["tokens_per_japanese_character"], value["training"]
    extract = value["corpus_speed"].get("stages", {}).get("extract", {})
    worst = max(value["export"][lang]["relative_l2"] for lang in ("ja", "en"))
    pages = value["corpus"]["yields"][0]["in"]["documents"]
    seconds = sum(stage["seconds"] for stage in value["corpus_speed"]["stages"].values())
    rows = [
        ("tokens per Japanese character, before and after expansion", f"{tokens['before']:.2f}, {tokens['after']:.2f}"),
        (
            "continual pre-training",
            f"{training['ja']['target_tokens'] / 1e6:.2f}M tokens in {training['ja']['minutes']:.1f} minutes",
        ),
        (
            "training speed, median of steps",
            f"{training['ja']['median_tokens_per_second']:.0f} tokens/s on {value['hardware']['cores']} cores",
        ),
        ("extraction", f"{extract.get('documents_per_second', 0):.1f} pages/s for each worker"),
        ("all stages of the corpus job", f"{pages / seconds:.1f} pages/s for each worker"),
        ("our logits and transformers' on the export", f"relative L2 {worst:.1e}"),
    ]
    steps = read_json(RESULTS / "step_speed.json")["results"]
    if PEER in steps:
        ratio = steps[OURS]["tokens_per_second"] / steps[PEER]["tokens_per_second"]
        rows.append(("a training step beside transformers in PyTorch, same shape and batch", f"{ratio:.2f} times its tokens/s"))
    if "repeat" in value:
        same = (
            "every loss and held-out figure equal"
            if value["repeat"]["identical"]
            else f"losses differ by at most {value['repeat']['largest_loss_difference']:.1e}"
        )
        rows.append((f"the run repeated ({value['repeat']['steps']} steps)", same))
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {cell} |" for name, cell in rows)


def quickstart(value: dict[str, Any]) -> str:
    """The closing table as printed, and what the runs took."""
    lines = [f"```\n{value['table'].strip()}\n```", "", "| run | seconds | memory |", "|---|---|---|"]
    runs = sorted(value["runs"].items(), key=lambda item: -item[1]["seconds"])
    lines += [f"| {name} | {run['seconds']:.0f} | {run['peak_gib']:.1f} GiB |" for name, run in runs]
    same = "The closing table was the same text each time." if value["same_table"] else "The closing tables differed."
    return "\n".join([*lines, "", f"On {value['hardware']['cores']} cores ({value['hardware']['cpu']}). {same}"])


def quickstart_rate(value: dict[str, Any]) -> str:
    """Bits per byte by learning rate, of the run and of its twin."""
    figures = value["bits_per_byte"]
    base = figures["base"]
    lines = [
        "| peak learning rate | Japanese | English | English beside the base | twin, Japanese | twin, English |",
        "|---|---|---|---|---|---|",
    ]
    for rate, ours in figures["continued"].items():
        twin = figures["twin"][rate]
        change = ours["bits_per_byte_en"] / base["bits_per_byte_en"] - 1
        cells = [ours["bits_per_byte_ja"], ours["bits_per_byte_en"]]
        lines.append(
            f"| {rate} | {cells[0]:.3f} | {cells[1]:.3f} | {change:+.1%} | {twin['bits_per_byte_ja']:.3f} | {twin['bits_per_byte_en']:.3f} |"
        )
    return "\n".join(lines)
