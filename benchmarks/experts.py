"""The feed-forward block of a mixture of experts, forward and backward: sorted by expert, beside what else computes the same.

    python -m benchmarks.experts [--tokens 2048] [--repeats 7]

Mixtral's shape at an eighth of its width: 8 experts, 2 a token, chosen as evenly as a fresh router's. Beside ours: all experts for all
tokens, the same sorting with `jax.lax.ragged_dot`, and transformers' MixtralExperts in PyTorch, all with the same float32 arrays and
threads. Results and gradients must agree before anything is timed. The ways run in turns, so that another load on the machine
hits them alike. (What the TPU's compiler makes of it: tests/compile/test_tpu.py and the Mixtral recipe in docs/recipes.md.)
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ja_llm.files import write_json
from ja_llm.manifest import software
from ja_llm.models.dispatch import Kernels, expert_sums

RESULTS = Path(__file__).resolve().parent / "results" / "experts.json"
EMBED, MLP, EXPERTS, EACH = 512, 1792, 8, 2
OURS, ALL, RAGGED = "ours", "all experts for all tokens", "jax.lax.ragged_dot"
TORCH = ("eager", "grouped_mm")  # transformers' own ways
Result = tuple[np.ndarray, ...]  # the sums, and the gradients of tokens, gate, up and back


def arrays(tokens: int) -> dict[str, np.ndarray]:
    """x and what the sums are weighted with [tokens, embed], the chosen experts and their weights [tokens, K], kernels."""
    rng = np.random.default_rng(0)
    chosen = rng.permuted(np.broadcast_to(np.arange(EXPERTS), (tokens, EXPERTS)), axis=-1)[:, :EACH]
    into, back = (EXPERTS, EMBED, MLP), (EXPERTS, MLP, EMBED)
    drawn = {
        "x": rng.normal(size=(tokens, EMBED)),
        "target": rng.normal(size=(tokens, EMBED)),
        "share": rng.dirichlet(np.ones(EACH), tokens),
        "gate": rng.normal(size=into) * EMBED**-0.5,
        "up": rng.normal(size=into) * EMBED**-0.5,
        "back": rng.normal(size=back) * MLP**-0.5,
    }
    return {"chosen": np.ascontiguousarray(chosen), **{name: value.astype(np.float32) for name, value in drawn.items()}}


def sorted_by_expert(x: Any, chosen: Any, share: Any, kernels: Kernels) -> Any:
    """Ours."""
    return expert_sums(x[None], chosen[None], share[None], kernels, "silu")[0]


def all_by_all(x: Any, chosen: Any, share: Any, kernels: Kernels) -> Any:
    """Every expert computes every token; unchosen ones weigh 0."""
    weight = (jax.nn.one_hot(chosen, EXPERTS) * share[..., None]).sum(axis=-2)
    gate, up = (jnp.einsum("td,edf->tef", x, kernel) for kernel in (kernels.gate, kernels.up))
    return jnp.einsum("te,tef,efd->td", weight, jax.nn.silu(gate) * up, kernels.back, optimize="optimal")


def with_ragged_dot(x: Any, chosen: Any, share: Any, kernels: Kernels) -> Any:
    """Sorted as ours, multiplied by JAX's own grouped product."""
    order = jnp.argsort(chosen.reshape(-1), stable=True)
    sizes, rows = jnp.bincount(chosen.reshape(-1), length=EXPERTS), x[order // EACH]
    gate, up = (jax.lax.ragged_dot(rows, kernel, sizes) for kernel in (kernels.gate, kernels.up))
    parts = jax.lax.ragged_dot(jax.nn.silu(gate) * up * share.reshape(-1)[order, None], kernels.back, sizes)
    return parts[jnp.argsort(order)].reshape(-1, EACH, EMBED).sum(axis=1)


def in_jax(way: Callable[..., Any], given: dict[str, np.ndarray]) -> Callable[[], Result]:
    """Sums and gradients, compiled."""
    value = {name: jnp.asarray(array) for name, array in given.items()}

    def loss(x: Any, kernels: Kernels) -> Any:
        out = way(x, value["chosen"], value["share"], kernels)
        return (out * value["target"]).sum(), out

    step = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    kernels = Kernels(value["gate"], value["up"], value["back"])

    def run() -> Result:
        gradients, out = jax.block_until_ready(step(value["x"], kernels))
        return (out, *jax.tree.leaves(gradients))

    return run


def in_torch(way: str, given: dict[str, np.ndarray]) -> Callable[[], Result]:
    """Transformers' block, its experts computed in one of its ways, which has gate and up in one array of [experts, outputs, inputs]."""
    import torch
    from transformers.models.mixtral.configuration_mixtral import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    config = MixtralConfig(hidden_size=EMBED, intermediate_size=MLP, num_local_experts=EXPERTS, num_experts_per_tok=EACH)
    config._experts_implementation = way
    block = MixtralExperts(config)
    value = {name: torch.from_numpy(array) for name, array in given.items()}
    with torch.no_grad():
        block.gate_up_proj.copy_(torch.cat([value["gate"], value["up"]], dim=2).transpose(1, 2))
        block.down_proj.copy_(value["back"].transpose(1, 2))
    x = value["x"].requires_grad_()

    def run() -> Result:
        for leaf in (x, block.gate_up_proj, block.down_proj):
            leaf.grad = None
        out = block(x, value["chosen"], value["share"])
        (out * value["target"]).sum().backward()
        assert x.grad is not None and block.gate_up_proj.grad is not None and block.down_proj.grad is not None
        gate, up = block.gate_up_proj.grad.transpose(1, 2).split(MLP, dim=2)
        return tuple(leaf.detach().numpy() for leaf in (out, x.grad, gate, up, block.down_proj.grad.transpose(1, 2)))

    return run


def differences(runs: dict[str, Callable[[], Result]]) -> dict[str, float]:
    """Of each way to all experts for all tokens: the largest relative difference (2-norm) of the sums and gradients.

    Raises:
      SystemExit: one does not compute the same.
    """
    expected, found = runs[ALL](), {}
    for name, run in runs.items():
        pairs = zip(run(), expected, strict=True)
        found[name] = max(float(np.linalg.norm(np.asarray(a) - b) / np.linalg.norm(b)) for a, b in pairs)
        if not found[name] < 1e-5:
            raise SystemExit(f"{name} is off by {found[name]:.1e}.")
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    given = arrays(args.tokens)
    ways = {OURS: sorted_by_expert, ALL: all_by_all, RAGGED: with_ragged_dot}
    runs = {name: in_jax(way, given) for name, way in ways.items()}
    runs |= {f"transformers in PyTorch, {way}": in_torch(way, given) for way in TORCH}
    found, seconds = differences(runs), {name: list[float]() for name in runs}
    for _ in range(args.repeats):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(
            f"{name}: {args.tokens / median:,.0f} tokens/s, {median / medians[OURS]:.2f} times our time, off by {found[name]:.0e}"
        )
    where = {"platform": platform.platform(), "cpus": os.cpu_count(), "device": jax.devices()[0].device_kind}
    packages = software("jax", "jaxlib", "numpy", "torch", "transformers")
    shape = {"tokens": args.tokens, "embed": EMBED, "mlp": MLP, "experts": EXPERTS, "each": EACH}
    result = {"shape": shape, "difference": found, "seconds": seconds, "median": medians}
    write_json(RESULTS, {"machine": where, "software": packages, **result})


if __name__ == "__main__":
    main()
