"""Tables of docs/attention.md (`attention.py`, `attention_picture.py`, `attention_aot.py`, `linear_cross_entropy.py`)."""

from typing import Any


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
            reached = "not measured" if goal["value"] is None else f"{goal['value']:.2f}"
            parts.append(
                f"Goal: {goal['goal']}, at least {goal['least']}: {reached}, {'reached' if goal['met'] else '**not reached**'}."
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
