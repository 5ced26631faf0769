"""Tables of docs/training.md (`batches.py`, `checkpoint_overhead.py`), docs/forgetting.md (`stability_gap.py`, `false_alarms.py`) docs/t5x.md (`t5x.py`) and docs/families.md (`experts.py`)."""

import statistics
from typing import Any


def batches(value: dict[str, Any]) -> str:
    """Batches from a token store on one core."""
    lines = ["| packing, documents | tokens/s on one core |", "|---|---|"]
    lines += [f"| {name} | {found['tokens_per_second'] / 1e6:.1f}M |" for name, found in value["batches"].items()]
    ratio = value["first_batch_seconds"]["ratio"]
    return "\n".join([*lines, f"| first batch at step 1,000,000 beside that at step 0 | {ratio:.2f} times the time |"])


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
        *(_spread(name, found) for name, found in value.get("spread", {}).items()),
        f"| `pretrain.gin`, stopped and run again | {', '.join(f'`{name}`' for name in trained['pretrain_checkpoints'])} |",
        f"| our run's weights and moments in t5x (`finetune.gin`) | {_bits(trained['export_exact'])} |",
        f"| what t5x trained from them, in ours | {_bits(trained['import_exact'])} |",
        f"| `eval.gin`, {judged['scored']}, accuracy | t5x {accuracy['t5x']:.4f}, ours {accuracy['ours']:.4f} |",
        f"| `infer.gin`, {judged['generated']}, greedy answers | {judged['equal_answers']} of {judged['answers']} equal ({judged['characters_compared']} characters) |",
    ]
    return "\n".join(lines)


def _spread(name: str, found: dict[str, Any]) -> str:
    ours = " x ".join(f"{axis} {size}" for axis, size in found["mesh"]["ours"].items())
    share = ", ".join(f"{who} {part:.0%}" for who, part in found["share_on_a_device"].items())
    return (
        f"| {found['steps']} losses on 8 simulated devices: t5x {name}, ours {ours} (of the parameters a device holds: {share}) | "
        f"largest relative difference {found['largest_difference']:.1e} |"
    )


def _bits(exact: bool) -> str:
    return "bit for bit" if exact else "different"


def experts(value: dict[str, Any]) -> str:
    """The feed-forward block of a mixture of experts."""
    shape, ours = value["shape"], value["median"]["ours"]
    lines = [
        f"| {shape['experts']} experts, {shape['each']} a token, {shape['embed']} x {shape['mlp']}, {shape['tokens']} tokens, float32, forward and backward on "
        f"{value['machine']['cpus']} CPU cores | tokens/s | our speed beside it |",
        "|---|---|---|",
    ]
    for name, median in value["median"].items():
        lines.append(f"| {name} | {shape['tokens'] / median:,.0f} | {'' if name == 'ours' else f'{median / ours:.2f}'} |")
    return "\n".join(lines)
