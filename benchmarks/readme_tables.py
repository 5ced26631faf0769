"""Writes the tables of README.md and docs/quickstart.md from the result files: no figure there without its file.

python -m benchmarks.readme_tables
"""

import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import corpus_quality_table, corpus_tables
from benchmarks.step_speed import OURS, PEER
from ja_llm.files import atomic_write, read_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NAMES = {
    "base": "English base",
    "expanded": "after expansion, untrained",
    "trained": "after continual pre-training",
    "scratch": "control: the same run from random weights",
}


def main() -> None:
    """Replace what stands between each table's markers."""
    for name, (page, make) in tables().items():
        path, document = RESULTS / f"{name}.json", ROOT / page
        if path.exists():
            text = replace(document.read_text(encoding="utf-8"), name, make(read_json(path)))
            with atomic_write(document) as file:
                file.write(text.encode())
    recipes()


def recipes() -> None:
    """docs/recipes.md: the recipes as their gin files resolve."""
    from ja_llm.recipes import catalogue, estimate
    from ja_llm.recipes.tables import markdown

    page = ROOT / "docs" / "recipes.md"
    text = replace(page.read_text(encoding="utf-8"), "recipes", markdown(catalogue.catalogue(), estimate.MFU))
    with atomic_write(page) as file:
        file.write(text.encode())


def tables() -> dict[str, tuple[str, Callable[[dict[str, Any]], str]]]:
    """Result file -> page, and what makes the table; of files that are there: what was not measured has no table."""
    known = {
        "debian_docs": ("README.md", debian_docs),
        "quickstart": ("docs/quickstart.md", quickstart),
        "quickstart_rate": ("docs/quickstart.md", quickstart_rate),
        "vocab_expansion": ("docs/vocabulary.md", vocab_expansion),
        "vocab_rows": ("docs/vocabulary.md", vocab_rows),
        "vocab_speed": ("docs/vocabulary.md", vocab_speed),
        "attention": ("docs/attention.md", attention),
        "attention_tiles": ("docs/attention.md", attention_tiles),
        "attention_aot": ("docs/attention.md", attention_aot),
        "linear_cross_entropy": ("docs/attention.md", linear_cross_entropy),
        "decode_speed": ("docs/generation.md", decode_speed),
        "eval_speed": ("docs/evaluation.md", eval_speed),
        "interchange_speed": ("docs/interchange.md", interchange_speed),
        "batches": ("docs/training.md", batches),
        "checkpoint_overhead": ("docs/training.md", checkpoint_overhead),
        "stability_gap": ("docs/forgetting.md", stability_gap),
        "false_alarms": ("docs/forgetting.md", false_alarms),
        "t5x": ("docs/t5x.md", t5x),
        "corpus_speed": ("docs/corpus.md", corpus_speed),
        "corpus_quality": ("docs/corpus.md", corpus_quality_table.table),
        "minhash": ("docs/deduplication.md", corpus_tables.minhash),
        "language": ("docs/deduplication.md", corpus_tables.language),
        "compile_table": ("docs/compile.md", compile_table),
        "scaling": ("docs/compile.md", scaling),
    }
    return {name: entry for name, entry in known.items() if (RESULTS / f"{name}.json").exists()}


def replace(text: str, name: str, table: str) -> str:
    """Put `table` between the markers of `name`."""
    pattern = rf"(<!-- {name}: begin[^>]*-->\n).*?(<!-- {name}: end -->)"
    if not re.search(pattern, text, re.DOTALL):
        raise SystemExit(f"the page has no markers for {name}")
    return re.sub(pattern, lambda m: f"{m[1]}\n{table}\n{m[2]}", text, flags=re.DOTALL)


def compile_table(value: dict[str, Any]) -> str:
    """What the compiler said of each slice."""
    lines = [
        "| case | remat, microbatches | GiB a chip (parameters, optimizer, activations, temporaries) of usable | FLOPs counted / closed form | executed / model | sent GiB a chip and step | exposed s of step s, at best |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, case in value["cases"].items():
        found = case["tried"][-1]
        memory = found["gib_per_chip"]
        parts = ", ".join(f"{memory.get(kind, 0):.2f}" for kind in ("parameters", "optimizer", "activations", "temporaries"))
        head = f"| {name} ({found['topology']}) | {found['remat_policy']}, {found['microbatches']} | {memory['total']:.2f} ({parts}) of {memory['usable']:.2f}"
        if not found["fits"]:
            lines.append(f"{head}: **{-found['spare_gib']:.2f} too much** | | | | |")
            continue
        flops, time = found["flops"], found["time"]
        sent = sum(c["wire_bytes"] for c in found["collectives"]) / 2**30
        lines.append(
            f"{head} | {flops['counted_over_closed_form']:.4f} | {flops['executed_over_model']:.2f} | {sent:.0f} | {time['exposed_seconds']:.2f} of {time['step_seconds']:.2f} |"
        )
    return "\n".join(lines)


def scaling(value: dict[str, Any]) -> str:
    """Expected steps of each model and slice, and the published runs that the expectation is held against."""
    lines = [
        "| row | chips | remat, microbatches | GiB a chip of usable | expected step s (products, attention, exposed links) | tokens/s a chip | MFU causal / full | retention |",
        "|---|---|---|---|---|---|---|---|",
    ]
    first: dict[str, float] = {}  # model and generation -> tokens/s a chip of the smallest
    for name, row in sorted(value["rows"].items(), key=lambda r: (r[0].rpartition("-")[0], r[1]["closed_form"]["chips"])):
        found = row["tried"][-1] if row["tried"] else row["closed_form"]
        kind, slices = name.rpartition("-")[0], f"{row['slices']} x " if row["slices"] > 1 else ""
        head = f"| {name} ({slices}{found['topology']}) | {found['chips']} | {found['remat_policy']}, {found['microbatches']}"
        time = found.get("expected", {})
        if (memory := found.get("gib_per_chip")) is None:
            memory = {"total": time["least_gib"], "usable": found["usable_gib"]}
            found = {"fits": memory["total"] <= memory["usable"], **found}
            head += f" | not compiled; at least {memory['total']:.1f} of {memory['usable']:.1f}"
        else:
            head += f" | {memory['total']:.1f} of {memory['usable']:.1f}"
        if not found["fits"]:
            lines.append(f"{head}: **{memory['total'] - memory['usable']:.1f} too much** | | | | |")
            continue
        speed = time["tokens_per_second_per_chip"]
        parts = ", ".join(f"{time[f'{part}_seconds']:.2f}" for part in ("products", "attention", "exposed"))
        lines.append(
            f"{head} | {time['step_seconds']:.2f} ({parts}) | {speed:,.0f} | {time['mfu_causal']:.1%} / {time['mfu_full']:.1%} | {speed / first.setdefault(kind, speed):.1%} |"
        )
    lines += [
        "",
        "| published run | chips | tokens/s a chip published | MFU causal / full | predicted | error |",
        "|---|---|---|---|---|---|",
    ]
    for run in value["published"]:
        error = "0 (sets the pace)" if run["sets"] else f"{run['error']:+.1%}"
        lines.append(
            f"| {run['run']}, {run['length']} tokens, {run['chip']} | {run['chips']} | {run['published_tokens_per_second']:,.0f} | "
            f"{run['published_mfu_causal']:.1%} / {run['published_mfu_full']:.1%} | {run['predicted_tokens_per_second']:,.0f} | {error} |"
        )
    return "\n".join(lines)


def t5x(value: dict[str, Any]) -> str:
    """What the comparison with t5x found."""
    losses, trained, judged = value["losses"], value["training"], value["evaluation"]
    accuracy = judged["accuracy"]
    lines = [
        f"On {value['date']}, with " + ", ".join(f"{name} `{commit[:7]}`" for name, commit in value["commits"].items()) + ":",
        "",
        "| what | found |",
        "|---|---|",
        f"| {losses['steps']} losses from the same weights, batches and optax chain, float32 | largest relative difference {losses['largest_difference']:.1e} |",
        f"| `pretrain.gin`, stopped and run again | {', '.join(f'`{name}`' for name in trained['pretrain_checkpoints'])} |",
        f"| our run's weights and moments in t5x (`finetune.gin`) | {_bits(trained['export_exact'])} |",
        f"| what t5x trained from them, in ours | {_bits(trained['import_exact'])} |",
        f"| `eval.gin`, {judged['scored']}, accuracy | t5x {accuracy['t5x']:.4f}, ours {accuracy['ours']:.4f} |",
        f"| `infer.gin`, {judged['generated']}, greedy answers | {judged['equal_answers']} of {judged['answers']} equal ({judged['characters_compared']} characters) |",
    ]
    return "\n".join(lines)


WAYS = {
    "plain": "plain: 90 % Japanese, one pass, re-warmed",
    "subset": "a random quarter, four times",
    "best_first": "the clean quarter first",
    "near_original": "half English",
    "replay": "a quarter English",
    "jump": "no warm-up",
    "not_rewarmed": "not re-warmed",
}


def stability_gap(value: dict[str, Any]) -> str:
    """What each way of going on does to the toy's English."""
    settings = value["settings"]
    lines = [
        f"{settings['seeds']} seeds of {settings['parameters']:,} parameters and {settings['steps']} steps; means, and the 95 % interval of the pairs' "
        f"differences from plain ({value['cpu_seconds']} s of processor time in all):",
        "",
        "| way | depth | area of English | against plain | is it smaller? | English at the end | Japanese at the end |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, label in WAYS.items():
        found = value["results"][name]
        against = "| | "
        if name != "plain":
            area = found["against_plain"]["area"]
            verdict = {"smaller": "**yes**", "larger": "**no, larger**"}.get(area["verdict"], "no clear difference")
            against = f"| {area['relative']:+.0%}, {area['mean']:+.1f} [{area['low']:.1f}, {area['high']:.1f}] | {verdict} "
        lines.append(
            f"| {label} | {found['depth']:.2f} | {found['area']:.1f} {against}| {found['final']:+.3f} | {found['japanese']:.3f} |"
        )
    return "\n".join(lines)


def false_alarms(value: dict[str, Any]) -> str:
    """How often an alarm goes off by the true rise."""
    lines = [
        f"| true rise of the domain (the bound is {value['bound']:.0%}) | runs of {value['runs']:,} with an alarm |",
        "|---|---|",
    ]
    for row in value["rows"]:
        lines.append(f"| {100 * row['rise']:g} % | {row['after'] + row['before']:.1%} |")
    return "\n".join(lines)


def _bits(exact: bool) -> str:
    return "bit for bit" if exact else "different"


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


BASES = {"smollm2": "SmolLM2-135M (byte-level BPE)", "llama2_like": "like Llama 2 (SentencePiece BPE)"}


def vocab_expansion(value: dict[str, Any]) -> str:
    """What 8,000 pieces do to two real vocabularies."""
    head = "| base | pieces | English and code lines with equal ids | new pieces reached | tokens per character, mostly Japanese lines | largest error of a row |"
    lines = [head, "|---|---|---|---|---|---|"]
    for name, label in BASES.items():
        found = value["bases"][name]
        same = sum(found[kind]["lines_identical"] for kind in ("heldout_english", "code"))
        total = sum(found[kind]["lines"] for kind in ("heldout_english", "code"))
        tokens, pieces = found["mostly_japanese_lines"], found["pieces"]
        size = found["base_size"]
        lines.append(
            f"| {label} | {size:,} → {size + pieces['added']:,} | {same:,} of {total:,} | {pieces['added'] - pieces['dead']:,} of {pieces['added']:,} "
            f"| {tokens['before']:.3f} → {tokens['after']:.3f} (−{tokens['saved']:.1%}) | {max(found['row_errors'].values()):.1e} |"
        )
    note = "SmolLM2's embedding has 4 bits in its file. The tables of the base like Llama 2's are random ones of width 64: they prove how rows are made."
    return "\n".join([*lines, "", note])


def vocab_rows(value: dict[str, Any]) -> str:
    """Rows by mean against random ones, before and after training."""
    lines = ["| base | rows | bits per byte of Japanese |", "|---|---|---|"]
    if smol := value.get("smollm2"):
        label = "SmolLM2-135M-Instruct (4 bits), untrained"
        lines.append(f"| {label} | (base, without new pieces) | {interval(smol['base'], 'bits_per_byte')} |")
        lines += [f"| | {name} | {interval(smol[name], 'bits_per_byte')} |" for name in ("mean", "random")]
        lines.append(f"| | mean − random | {difference(smol['mean_minus_random'])} |")
    if tiny := value.get("tiny"):
        pairs = tiny["pairs"].values()
        for step in ("step_0", f"step_{tiny['steps']}"):
            for name in ("mean", "random"):
                middle = sum(pair[name][step] for pair in pairs) / len(pairs)
                lines.append(f"| 2.7M base, {step.replace('_', ' ')}, {len(pairs)} seeds | {name} | {middle:.3f} |")
            lines.append(f"| | mean − random | {difference(tiny['mean_minus_random'][step])} |")
        lines += ["", f"{tiny['steps']} steps are {tiny['steps'] * tiny['batch'] * tiny['length']:,} tokens."]
    return "\n".join([*lines, "", "Intervals are of 95 %: over documents for SmolLM2, Student's over pairs for the 2.7M base."])


def difference(found: dict[str, Any]) -> str:
    """`value [low, high]` with its sign."""
    low, high = found["interval"]
    return f"{found['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"


def vocab_speed(value: dict[str, Any]) -> str:
    """Ratios to the libraries, and what training and a large expansion take."""
    parts = []
    if "encode" in value:
        lines = ["| encoding held-out documents | " + " | ".join(BASES.values()) + " |", "|---|---|---|"]
        ways = ("ours", "tf.data, batches", "tf.data, text by text")
        speeds = [f"{value['encode'][name]['characters_per_second']['library'] / 1e6:.2f}M characters/s" for name in BASES]
        lines.append(f"| the library itself | {' | '.join(speeds)} |")
        for way in ways:
            lines.append(
                f"| {way} | " + " | ".join(f"{value['encode'][name]['ratio_to_library'][way]:.2f}x" for name in BASES) + " |"
            )
        parts.append("\n".join(lines))
    rows = [(f"train {name}", found) for name, found in value.get("train", {}).items()]
    if "expand" in value:
        rows.append((f"expand a byte-level BPE of {value['expand']['base']:,} by 16,000", value["expand"]))
    lines = ["| on Debian's documentation | pieces | seconds | peak memory |", "|---|---|---|---|"]
    lines += [f"| {name} | {found['pieces']:,} | {found['seconds']:.0f} | {found['peak_gib']:.1f} GiB |" for name, found in rows]
    return "\n\n".join([*parts, *(["\n".join(lines)] if rows else [])])


def interval(task: Any, key: str) -> str:
    """`value [low, high]`."""
    low, high = task["interval"]
    return f"{task[key]:.3f} [{low:.3f}, {high:.3f}]"


def percent(task: dict[str, Any]) -> str:
    """Accuracy with its standard error."""
    return f"{100 * task['accuracy']:.1f} ± {100 * task['accuracy_standard_error']:.1f} %"


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
            f"| {stage['stage']} | {stage['in']['documents']} | {stage['kept']['documents']}{f' ({kept})' if kept else ''} | {reasons}{more} |"
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


def attention(value: dict[str, Any]) -> str:
    """Implementations x shapes of each device that was measured."""
    parts = []
    for device, entry in value.items():
        parts.append(
            f"Measured on {device} ({entry['machine']['cpus']} CPUs, {entry['repeats']} repeats, medians; `make bench-attention`). Visited: share of "
            "a causal row's tiles; visible: of its pairs. TFLOP/s count visible pairs only."
        )
        lines = [
            "| shape | implementation | visited forward / backward / visible | forward ms | with backward ms | TFLOP/s | of the roofline | MiB | error, gradients |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in (r for r in entry["results"] if "both" in r):
            both, tiles = row["both"], row["tiles_visited"]
            visited = "?" if tiles is None else f"{tiles['forward']:.0%} / {tiles['backward']:.0%}"
            shares = f"{visited} / {row['pairs_visible']:.0%}"
            memory = "?" if row["temp_bytes"] is None else f"{row['temp_bytes'] / 2**20:.0f}"
            lines.append(
                f"| {row['shape']} | {row['implementation']} | {shares} | {row['forward']['median_ms']:.1f} | {both['median_ms']:.1f} | "
                f"{both['tflops_visible']:.3f} | {both['share_of_roofline']:.0%} | {memory} | {row['error']:.0e}, {row['error_gradients']:.0e} |"
            )
        parts.append("\n".join(lines))
        for goal in entry.get("goals", []):
            value = "not measured" if goal["value"] is None else f"{goal['value']:.2f}"
            parts.append(
                f"Goal: {goal['goal']}, at least {goal['least']}: {value}, {'reached' if goal['met'] else '**not reached**'}."
            )
    return "\n\n".join(parts)


def attention_tiles(value: dict[str, Any]) -> str:
    """Share of a causal row's tiles that simulated rows of documents need."""
    head = "| row | mean document | visible pairs | " + " | ".join(f"tiles of {t}" for t in value["tiles"]) + " |"
    lines = [head, "|" + "---|" * (3 + len(value["tiles"]))]
    for row in value["shares"]:
        cells = " | ".join(f"{row[str(t)]:.0%}" for t in value["tiles"])
        lines.append(f"| {row['length']} | {row['mean']} | {row['exact']:.0%} | {cells} |")
    return "\n".join(lines)


def attention_aot(value: dict[str, Any]) -> str:
    """What the TPU's compiler says of kernels and loss."""
    versions, rows = value["software"], value["results"]
    lines = [
        f"Compiled ahead of time, jax {versions['jax']}, libtpu {versions.get('libtpu', '?')} (`python -m benchmarks.attention_aot`): forward and both "
        "backward kernels, 8 query heads on 2, bfloat16; MiB beside arguments and results.",
        "",
        "| TPU | length | head dimension | compiles | MiB |",
        "|---|---|---|---|---|",
    ]
    for row in (r for r in rows if r["what"] == "attention"):
        cells = f"yes | {row['temp_bytes'] / 2**20:.0f}" if row["ok"] else f"no: {row['error'][:80]} | "
        lines.append(f"| {row['device']} | {row['length']} | {row['width']} | {cells} |")
    losses = [r for r in rows if r["what"] == "loss" and r["ok"]]
    if losses:
        size = f"{losses[0]['tokens']} tokens x {losses[0]['embed']} x {losses[0]['vocab']}"
        figures = ", ".join(f"{r['device']} {r['temp_bytes'] / 1e9:.2f} GB" for r in losses)
        lines += ["", f"The loss of {size} in bfloat16, with its gradients, beside arguments and results: {figures}."]
    return "\n".join(lines)


def linear_cross_entropy(value: dict[str, Any]) -> str:
    """Memory, error, speed of the loss without logits."""
    n, e, v = value["shape_of_memory"]
    lines = [
        f"| loss of {n} tokens x {e} x {v} ids, bfloat16 | GB beside arguments and gradients | error of the mean loss | seconds, {' x '.join(map(str, value['speed']['shape']))} on {value['machine']['device']} |",
        "|---|---|---|---|",
    ]
    for key, name in {"linear": "`linear_cross_entropy`", "logits": "logits held in float32"}.items():
        memory, error = value["memory"][key]["temp_bytes"] / 1e9, abs(value["error_of_mean_loss"][key])
        lines.append(f"| {name} | {memory:.2f} | {error:.0e} | {value['speed']['median'][key]:.2f} |")
    return "\n".join(lines)


def decode_speed(value: dict[str, Any]) -> str:
    """Tokens per second beside transformers."""
    lines = ["| greedy, float32 | ours | transformers | ratio | same tokens |", "|---|---|---|---|---|"]
    for name, found in value["results"].items():
        ours, theirs = (f"{found['tokens_per_second'][who]:,.0f} tokens/s" for who in ("ours", "transformers"))
        lines.append(f"| {name} | {ours} | {theirs} | {found['ratio']:.2f}x | {'yes' if found['same_tokens'] else 'no'} |")
    return "\n".join(lines)


def eval_speed(value: dict[str, Any]) -> str:
    """Likelihood tasks beside the harness's own backend."""
    lines = ["| requests | tokens shared | transformers | ours | ratio | largest difference |", "|---|---|---|---|---|---|"]
    for name, found in rows_of(value["loads"]):
        seconds = " | ".join(f"{statistics.median(found['seconds'][who]):.2f} s" for who in ("peer", "ours"))
        shared, worst = f"{found['share_saved']:.0%}", f"{found['largest_difference_nats']:.1e} nats"
        ratio = statistics.median(found["seconds"]["peer"]) / statistics.median(found["seconds"]["ours"])
        lines.append(f"| {found['requests']}, {name} | {shared} | {seconds} | {ratio:.2f}x | {worst} |")
    if "documents_a_task" in value:
        lines += ["", f"{value['documents_a_task']} generated documents a task; medians of {value['repeats']} whole evaluations."]
    return "\n".join(lines)


def rows_of(loads: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Each load, then its tasks where it has several."""
    found = []
    for name, load in loads.items():
        tasks = load.get("tasks", {})
        found += [(name, load), *((f"{task}, {of['shots']} shots", of) for task, of in tasks.items() if len(tasks) > 1)]
    return found


def interchange_speed(value: dict[str, Any]) -> str:
    """Time and memory of an import and an export beside safetensors."""
    cold = value.get("cold", {})
    columns = [
        "median seconds",
        "times `read`",
        *(["cold seconds", "times cold `read`"] if cold else []),
        "memory beyond the parameters",
    ]
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in value["median_seconds"]:
        cells = [name]
        for found in (value, *([cold] if cold else [])):
            median = found["median_seconds"]
            cells += [f"{median[name]:.1f}", f"{median[name] / median['read']:.1f}"] if name in median else ["", ""]
        lines.append(f"| {' | '.join(cells)} | {value['memory_beyond_arrays_bytes'][name] / 2**20:,.0f} MiB |")
    verdicts = [
        f"{where} {task} {found['over_read'][task]:.1f} ({'met' if goal['met'] else 'missed'})"
        for where, found in (("warm", value), ("cold", cold))
        for task, goal in found.get("goal", {}).items()
    ]
    return "\n".join([*lines, *(["", f"Goal, at most twice the time of `read`: {', '.join(verdicts)}."] if verdicts else [])])


def batches(value: dict[str, Any]) -> str:
    """Batches from a token store on one core."""
    lines = ["| packing, documents | tokens/s on one core |", "|---|---|"]
    lines += [f"| {name} | {found['tokens_per_second'] / 1e6:.1f}M |" for name, found in value["batches"].items()]
    ratio = value["first_batch_seconds"]["ratio"]
    return "\n".join([*lines, f"| first batch at step 1,000,000 beside that at step 0 | {ratio:.2f} times the time |"])


def corpus_speed(value: dict[str, Any]) -> str:
    """The corpus job beside datatrove, its rules beside HojiChar's too, on one core."""
    repeats = len(value["japanese"]["ours"]["cpu_seconds"])
    of = f"medians of {repeats} repeats" if repeats > 1 else "one run"
    lines = [f"| CPU time of one core, {of} | ours | peer | ratio | goal |", "|---|---|---|---|---|"]
    names = {"japanese": "Japanese manuals, end to end", "mix": "4 % of them Japanese, end to end"}
    for part, name in names.items():
        found = value[part]
        rates = " | ".join(f"{found[who]['pages_per_cpu_second']:.1f} pages/s" for who in ("ours", "datatrove"))
        lines.append(
            f"| {found['pages']:,} pages, {name} | {rates} (datatrove) | {found['ratio_of_cpu']:.2f} | {value['goals'][part]['goal']} |"
        )
    found = value["filters"]
    median = {name: statistics.median(rates) for name, rates in found["documents_per_second"].items()}
    for name, ratio in found["ratio"].items():
        rates = f"{median['ours']:,.0f} documents/s | {median[name]:,.0f} documents/s ({name})"
        lines.append(
            f"| rules alone, {found['documents']:,} documents | {rates} | {ratio:.2f} | {value['goals']['filters']['goal'] if found['about'][name]['of_the_goal'] else ''} |"
        )
    left = value["mix"]["japanese"]
    lost = f"Texts of the mix that the language rule called Japanese: ours {left['ours']}, which looks at the raw bytes first ({', '.join(value['rapid_check'])})"
    return "\n".join([*lines, "", f"{lost}, datatrove {left['datatrove']}, which extracts every page."])


def checkpoint_overhead(value: dict[str, Any]) -> str:
    """What checkpoints cost and restoring takes."""
    lines = ["| | | |", "|---|---|---|"]
    if found := value.get("overhead"):
        settings = found["settings"]
        lines.append(
            f"| {found['parameters'] / 1e6:.0f}M parameters, asynchronous checkpoints every {settings['period']} of {settings['steps']} steps | "
            f"{found['overhead']:+.1%} time | {statistics.median(found['seconds_blocked_a_save']):.1f} s blocked a save |"
        )
    if found := value.get("restore"):
        for name in ("restore, 1 device", "restore, 8 devices"):
            seconds = statistics.median(run["seconds"] for run in found[name])
            peak, state = found[name][0]["peak_memory_mib"] / 1024, found[name][0]["state_mib"] / 1024
            lines.append(
                f"| {found['parameters'] / 1e6:.0f}M parameters with AdamW's moments ({state:.1f} GiB), {name} | {seconds:.0f} s | peak {peak:.1f} GiB |"
            )
    return "\n".join(lines)


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


if __name__ == "__main__":
    main()
