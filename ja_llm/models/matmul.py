"""Products of activations with weights, with the gradient written in the order that memory likes."""

import functools

import jax


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def product(x: jax.Array, kernel: jax.Array, contract: int = 1, dtype: str | None = None) -> jax.Array:
    """Contract the last `contract` dimensions of `x` with the first ones of `kernel`.

    The derivative for the kernel is x^T dy. JAX's own is (dy^T x)^T: XLA then fuses dy's elementwise producers (softmax, the
    gate of SwiGLU) into a transposed copy of dy and computes exponentials in strides. On a CPU that
    was the slowest part of the step.

    Args:
      x: [..., inputs...].
      kernel: [inputs..., outputs...].
      contract: number of input dimensions.
      dtype: of the result; x's own when None.

    Returns:
      [..., outputs...].
    """
    last = tuple(range(x.ndim - contract, x.ndim))
    return jax.lax.dot_general(x, kernel, ((last, tuple(range(contract))), ((), ())), preferred_element_type=dtype or x.dtype)


def _save(x: jax.Array, kernel: jax.Array, contract: int, dtype: str | None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(x, kernel, contract, dtype), (x, kernel)


def _backward(contract: int, dtype: str | None, saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    dy = dy.astype(x.dtype)  # float32 logits of a bfloat16 model: its products stay bfloat16
    batch = x.ndim - contract
    outputs = tuple(range(batch, dy.ndim))
    dx = jax.lax.dot_general(dy, kernel, ((outputs, tuple(range(contract, kernel.ndim))), ((), ())))
    rows = tuple(range(batch))
    dkernel = jax.lax.dot_general(x, dy, ((rows, rows), ((), ())))
    return dx, dkernel.astype(kernel.dtype)


product.defvjp(_save, _backward)
