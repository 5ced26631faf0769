"""Low-rank adapters at a parameter: where the collection "lora" holds two factors for it, their product is added.

Within a scanned layer only that layer's sum exists, so a frozen model is never held a second time.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

LORA = "lora"


def adapted(module: nn.Module, name: str, value: jax.Array) -> jax.Array:
    """`value`, or value + a b where the module's variables have factors for the parameter `name` (`NAME_a`, `NAME_b`)."""
    if not module.has_variable(LORA, f"{name}_a"):
        return value
    return add_product(value, module.get_variable(LORA, f"{name}_a"), module.get_variable(LORA, f"{name}_b"))


def add_product(value: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """value + a b in `value`'s dtype: value [stack..., inputs..., outputs...], a [stack..., inputs..., r], b [stack..., r, outputs...].

    How many dimensions the stack has (layers, experts) follows from the shapes: a and b have stack + 1 dimensions more than value.
    """
    stack = a.ndim + b.ndim - 2 - value.ndim
    rank = a.shape[-1]
    ins, outs = a.shape[stack:-1], b.shape[stack + 1 :]
    left = a.reshape(*a.shape[:stack], -1, rank)
    right = b.reshape(*b.shape[:stack], rank, -1)
    product = jnp.matmul(left, right).reshape(*a.shape[:stack], *ins, *outs)
    return (value + product.astype(value.dtype)).astype(value.dtype)
