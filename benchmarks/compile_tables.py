"""Tables of docs/compile.md (`compile_table.py`, `scaling.py`)."""

from typing import Any


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
