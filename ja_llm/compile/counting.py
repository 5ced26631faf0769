"""Matrix-product FLOPs of a step as it is traced, to hold the closed form of `ja_llm.train.flops` against."""

import dataclasses
import math
from typing import Any

import jax

from ja_llm.compile.settings import Settings
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, abstract_params
from ja_llm.models.grouped import expected_rounds
from ja_llm.train.loop import abstract_batch
from ja_llm.train.step import loss_sums


def counted_flops(settings: Settings) -> float:
    """Of loss and gradient over the whole batch: every dot_general, scans times their length, nothing computed again (no remat).

    Attention is traced as the plain product of all queries with all keys, so this compares with `flops_per_token(causal=False)`.
    """
    return traced_flops(dataclasses.replace(settings.model, remat_policy="none"), settings)


def traced_flops(model: DecoderConfig, settings: Settings) -> float:
    """The same with the model's own remat policy: what it computes again is counted again, attention's part as the plain product's."""
    model = dataclasses.replace(model, attention="reference")
    options, rows = settings.options, min(settings.batch_size, 2)

    def loss(params: Any, batch: Any) -> Any:
        return loss_sums(Decoder(model), params, batch, options.z_loss, options.balance_loss, options.loss)[0]

    traced = jax.make_jaxpr(jax.grad(loss))(abstract_params(model), abstract_batch(rows, settings.length))
    return _count(traced.jaxpr) * settings.batch_size / rows


def _count(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        inner = [_count(body) for body in _bodies(equation.params)]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)
        elif equation.primitive.name == "cond":
            total += max(inner, default=0.0)
        else:
            total += sum(inner) * _times(equation)
    return total


def _times(equation: Any) -> float:
    """How often the bodies of an equation run; a loop over experts' tokens without what its last tiles lack."""
    if equation.primitive.name == "scan":
        return float(equation.params["length"])
    found = expected_rounds(str(equation.source_info.name_stack)) if equation.primitive.name == "while" else None
    return 1.0 if found is None else found.full


def _bodies(params: Any) -> list[Any]:
    found = []
    for value in params.values():
        for entry in value if isinstance(value, (tuple, list)) else (value,):
            body = getattr(entry, "jaxpr", entry)  # a closed jaxpr holds one
            if hasattr(body, "eqns"):
                found.append(body)
    return found
