"""Tables of docs/vocabulary.md (`vocab_expansion.py`, `vocab_rows.py`, `vocab_speed.py`)."""

from typing import Any

from benchmarks.cells import difference, interval

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
