"""A compilation in words."""

from typing import Any


def text(result: dict[str, Any]) -> str:
    """Of what `ja_llm.compile.aot.compile_step` found: lines for a terminal."""
    memory = result["gib_per_chip"]
    mesh = " x ".join(f"{name} {size}" for name, size in result["mesh"].items())
    kinds = ", ".join(f"{name.replace('_', ' ')} {size:.2f}" for name, size in memory.items() if name not in ("total", "usable"))
    lines = [
        f"{result['parameters'] / 1e9:.3f}B parameters on {result['topology']} ({result['chips']} x {result['device']}), mesh {mesh}, "
        f"{result['batch_size']} x {result['length']} tokens a step in {result['microbatches']} microbatches, remat {result['remat_policy']}",
        _verdict(result),
        f"  GiB a chip: {kinds}",
    ]
    if "kernels" in result:
        lines[-1] = (
            f"  GiB a GPU, exactly, by their shardings: {kinds}; activations, gradients and other temporaries are not known, for they are the "
            "compiler's"
        )
        lines += [_flops(result), f"attention {result['attention']}: {result['kernels']} kernels in the lowered program"]
        return "\n".join([*lines, f"lowered in {result['lower_seconds']:.0f} s, not compiled: that needs a GPU"])
    if "flops" in result:
        lines += _costs(result)
    return "\n".join([*lines, f"compiled in {result['compile_seconds']:.0f} s"])


def _verdict(result: dict[str, Any]) -> str:
    memory, spare = result["gib_per_chip"], result["spare_gib"]
    if result["fits"]:
        return f"fits: {memory['total']:.2f} of {memory['usable']:.2f} GiB a chip, {spare:.2f} to spare"
    if result["fits"] is None:
        return f"lowers; whether it fits is not known: state and batch leave {spare:.2f} of {memory['usable']:.2f} GiB a GPU for all the rest"
    if "time" in result:  # the compiler had no objection
        return (
            f"probably does not fit: the compiler took it, but it uses {memory['total']:.2f} GiB a chip of {memory['usable']:.2f} that we take for usable "
            f"there; {-spare:.2f} GiB too much"
        )
    return f"does not fit: {memory['total']:.2f} GiB a chip, it has {memory['usable']:.2f}; {-spare:.2f} GiB too much"


def _flops(result: dict[str, Any]) -> str:
    flops = result["flops"]
    return (
        f"FLOPs a step: model {flops['model_causal']:.4g} (causal attention counted half) or {flops['model_full']:.4g} (whole); counted in the traced "
        f"step {flops['counted_over_closed_form']:.4f} of the closed form (whole)"
    )


def _costs(result: dict[str, Any]) -> list[str]:
    flops, time = result["flops"], result["time"]
    lines = [
        f"{_flops(result)}; executed {flops['executed_over_model']:.3f} x the causal model's",
        "collectives a step, on each chip:",
    ]
    for c in result["collectives"]:
        lines.append(
            f"  {c['kind']:<20} {c['axes']:<12} {c['count']:>8.0f} x, arrays of {c['bytes'] / 2**30:>9.2f} GiB, sends {c['wire_bytes'] / 2**30:>9.2f} GiB: "
            f"{c['seconds']:.3f} s, exposed {c['exposed_seconds']:.3f} s"
        )
    return [
        *lines,
        f"at best (every operation at the roofline): step {time['step_seconds']:.3f} s, of which waiting for links {time['exposed_seconds']:.3f} s; "
        f"{time['tokens_per_second_per_chip']:.0f} tokens/s a chip; MFU {time['mfu_causal']:.1%} (causal half) or {time['mfu_full']:.1%} (whole)",
    ]
