"""What is known of a step before a compiler sees it: its settings, its state's bytes on one device, its FLOPs."""

import math
from typing import Any

import jax

from ja_llm.compile.counting import counted_flops
from ja_llm.compile.settings import Settings
from ja_llm.models.decoder import abstract_params
from ja_llm.train import flops, loop
from ja_llm.train.state import StatePlan

GIB = 2**30


def described(settings: Settings, mesh: Any, topology: str, device: str) -> dict[str, Any]:
    """What is compiled, and for what."""
    return {
        "topology": topology,
        "device": device,
        "chips": mesh.size,
        "mesh": {name: size for name, size in mesh.shape.items() if size > 1} or {"data": 1},
        "remat_policy": settings.model.remat_policy,
        "microbatches": settings.options.microbatches,
        "batch_size": settings.batch_size,
        "length": settings.length,
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(settings.model))),
    }


def state_bytes(plan: StatePlan, rows: Any, batch: tuple[int, int]) -> dict[str, int]:
    """Bytes on one chip, by the shardings: parameters, optimizer, the batch, and with LoRA the frozen model."""

    def size(abstract: Any, layout: Any) -> int:
        parts = jax.tree.map(lambda a, s: math.prod(s.shard_shape(a.shape)) * a.dtype.itemsize, abstract, layout)
        return sum(jax.tree.leaves(parts))

    arrays = loop.abstract_batch(*batch)
    found = {
        "parameters": size(plan.abstract.params, plan.shardings.params),
        "optimizer": size(plan.abstract.optimizer, plan.shardings.optimizer),
        "batch": size(arrays, dict.fromkeys(arrays, rows)),
    }
    if plan.lora is not None:
        found["frozen_model"] = size(plan.model, jax.tree.map(lambda x: x.sharding, plan.model))
    return found


def model_flops(settings: Settings) -> dict[str, float]:
    """FLOPs of a step by the closed form of `ja_llm.train.flops`, in both conventions, and as its trace has them."""
    tokens = settings.batch_size * settings.length
    causal, full = (flops.flops_per_token(settings.model, settings.length, causal=way) * tokens for way in (True, False))
    counted = counted_flops(settings)
    return {
        "model_causal": causal,
        "model_full": full,
        "counted_full": counted,
        "counted_over_closed_form": counted / full,
    }


def rates(settings: Settings, seconds: float, chips: int, peak: float) -> dict[str, float]:
    """Speed and MFU, in both conventions, of a step that takes so long on so many chips with so many FLOP/s each."""
    tokens = settings.batch_size * settings.length
    causal, full = (flops.flops_per_token(settings.model, settings.length, causal=way) * tokens for way in (True, False))
    return {
        "tokens_per_second_per_chip": tokens / seconds / chips,
        "mfu_causal": causal / seconds / chips / peak,
        "mfu_full": full / seconds / chips / peak,
    }
