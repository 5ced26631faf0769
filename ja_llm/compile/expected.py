"""What a step may take on real chips: the schedule of a compiled step at speeds that others have published.

Nothing here was measured by us. A step's seconds are three sums:

  products    executed FLOPs of the matrix products / (peak * `Achieved.products`)
  attention   FLOPs of the kernels at the speed that tokamax's records give the forward pass (`Achieved.attention`); the backward kernels'
              records count 5 products where two deterministic kernels do 7
  links       what the schedule leaves exposed when the products run at that pace; links at their nominal bandwidth

`Achieved.products` holds all the rest, too: whatever is bound by memory, and gaps. It is set by one published run of each generation
(`PUBLISHED`, `sets`), whose own links are taken as hidden; the others of that generation are predicted with it, and their error says how
far such a prediction may be off.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ja_llm.compile.hardware import CHIPS


@dataclasses.dataclass(frozen=True)
class Achieved:
    """Speeds of a generation.

    Attributes:
      peak: bfloat16 FLOP/s of a chip; `ja_llm.train.flops.PEAK_TFLOPS`.
      products: share of the peak that a step's matrix products reach, all that is neither attention nor links included.
      attention: row length -> FLOP/s of the causal forward kernel, head dimension 128. tokamax 0.0.17's records for v5p and v6e (bf16, 16k
        tokens a device); of v5e there are none, so it is given v5p's share of the peak.
    """

    peak: float
    products: float
    attention: Mapping[int, float]

    def attention_flops(self, length: int) -> float:
        """FLOP/s at a row length, between the records by the logarithm of the length, beyond them as the nearest."""
        known = sorted(self.attention)
        return float(np.interp(np.log2(length), np.log2(known), [self.attention[n] for n in known]))


_V5P = {2048: 163e12, 4096: 222e12, 8192: 286e12, 16384: 343e12}
ACHIEVED = {
    "v5e": Achieved(197e12, 0.777, {length: speed * 197 / 459 for length, speed in _V5P.items()}),
    "v5p": Achieved(459e12, 0.795, _V5P),
    "v6e": Achieved(918e12, 0.596, {2048: 120e12, 4096: 174e12, 8192: 226e12, 16384: 276e12}),
}

_GATE, _OUT, _ALL = ("gate", "up"), ("gate", "up", "o"), ("q", "k", "v", "o", "gate", "up")


@dataclasses.dataclass(frozen=True)
class Published:
    """A run that someone has published, and what its executed FLOPs follow from.

    Attributes:
      name: of the run.
      chip: generation.
      chips: in each slice.
      slices: how many.
      tokens_per_second: of a chip.
      rows: of a chip, in a step.
      length: tokens in each.
      shape: embed, layers, heads, key/value heads, feed-forward width, vocabulary; heads have 128 dimensions.
      recomputed: projections whose product the backward pass repeats.
      forwards: how often attention's forward kernel runs for a row.
      sets: whether `Achieved.products` of its generation comes from it.
      source: where.
    """

    name: str
    chip: str
    chips: int
    slices: int
    tokens_per_second: float
    rows: int
    length: int
    shape: tuple[int, int, int, int, int, int]
    recomputed: tuple[str, ...]
    forwards: int
    sets: bool
    source: str

    def products(self) -> float:
        """Executed FLOPs of the matrix products for a token."""
        embed, layers, _, _, _, vocab = self.shape
        again = sum(self._weights()[name] for name in self.recomputed)
        return layers * (6.0 * sum(self._weights().values()) + 2.0 * again) + 6.0 * embed * vocab

    def attention(self) -> float:
        """FLOPs of the attention kernels for a token, as their records count them: backward 2.5 times the forward pass."""
        _, layers, heads, *_ = self.shape
        return layers * 2.0 * heads * 128 * self.length * (self.forwards + 2.5)

    def parameters(self) -> float:
        """Of the whole model, norms aside."""
        embed, layers, _, _, _, vocab = self.shape
        return layers * sum(self._weights().values()) + 2.0 * embed * vocab

    def model_flops(self, causal: bool) -> float:
        """Of a token, as `ja_llm.train.flops.flops_per_token`."""
        embed, layers, heads, _, _, vocab = self.shape
        attention = 12.0 * layers * heads * 128 * self.length / (2 if causal else 1)
        return 6.0 * (layers * sum(self._weights().values()) + embed * vocab) + attention

    def _weights(self) -> dict[str, float]:
        embed, _, heads, groups, width, _ = self.shape
        q, kv = 128.0 * embed * heads, 128.0 * embed * groups
        return {"q": q, "k": kv, "v": kv, "o": q, **dict.fromkeys(("gate", "up", "down"), float(embed * width))}

    def predicted(self, products: float | None = None) -> float:
        """Tokens a second of a chip; links inside a slice hidden, the gradient's sum between slices (float32, once a step) not."""
        speeds = ACHIEVED[self.chip]
        share = speeds.products if products is None else products
        seconds = self.products() / (speeds.peak * share) + self.attention() / speeds.attention_flops(self.length)
        if self.slices > 1:
            seconds += between_slices(self.parameters() / self.chips, self.slices, self.chip) / (self.rows * self.length)
        return 1.0 / seconds

    def share(self) -> float:
        """`Achieved.products` that would give what was published."""
        speeds = ACHIEVED[self.chip]
        rest = 1.0 / self.tokens_per_second - self.attention() / speeds.attention_flops(self.length)
        return self.products() / speeds.peak / rest


_MAXTEXT = "MaxText, docs/reference/models/tiering.md"
_TRILLIUM = f"{_MAXTEXT}; recomputation by its benchmarks/maxtext_trillium_model_configs.py"
_BIG, _LLAMA2 = (8192, 80, 64, 8, 28672, 128256), (8192, 80, 64, 8, 28672, 32000)


def _published() -> tuple[Published, ...]:
    eight, huge = (4096, 32, 32, 8, 14336, 128256), (16384, 126, 128, 8, 53248, 128256)
    sixteen, thirty = (4096, 32, 64, 64, 28672, 32000), (8192, 32, 64, 64, 28672, 32000)
    old = "MaxText, MaxText/configs/{}, TFLOP/s with all of attention"
    return (
        Published("Llama 3.1 8B", "v6e", 256, 1, 7207, 4, 8192, eight, _GATE, 2, True, _TRILLIUM),
        Published("Llama 3.1 70B", "v6e", 256, 1, 960, 4, 8192, _BIG, _OUT, 2, False, _TRILLIUM),
        Published("Llama 2 70B", "v6e", 256, 1, 900, 4, 4096, _LLAMA2, _ALL, 2, False, _TRILLIUM),
        Published("Llama 3.1 405B", "v6e", 256, 1, 123, 1, 8192, huge, _ALL, 2, False, _TRILLIUM),
        Published(
            "Llama 2 70B",
            "v5p",
            256,
            1,
            692,
            4,
            4096,
            _LLAMA2,
            _GATE,
            2,
            True,
            f"{_MAXTEXT}; its maxtext_v5p_model_configs.py",
        ),
        _by_tflops("MaxText 32B, tensor 4", "v5p", 64, 1, 328e12, 7, thirty, (), old.format("v5p/32b.sh")),
        _by_tflops("MaxText 16B", "v5e", 256, 1, 120e12, 6, sixteen, _ALL, old.format("v5e/16b.sh"), sets=True),
        _by_tflops("MaxText 16B", "v5e", 256, 32, 108e12, 6, sixteen, _ALL, old.format("v5e/16b.sh")),
    )


def _by_tflops(
    name: str,
    chip: str,
    chips: int,
    slices: int,
    flops: float,
    rows: int,
    shape: tuple[int, int, int, int, int, int],
    again: tuple[str, ...],
    source: str,
    sets: bool = False,
) -> Published:
    """Of rows of 2048 tokens, whose speed is published as FLOP/s with attention counted whole."""
    run = Published(name, chip, chips, slices, 1.0, rows, 2048, shape, again, 2, sets, source)
    return dataclasses.replace(run, tokens_per_second=flops / run.model_flops(causal=False))


def between_slices(parameters: float, slices: int, chip: str) -> float:
    """Seconds of summing a chip's part of the gradient over slices: float32, rings over the data-center network.

    Args:
      parameters: whose gradient one chip holds.
      slices: how many.
      chip: generation.
    """
    return 2.0 * (slices - 1) / slices * 4.0 * parameters / CHIPS[chip].dcn_bytes_per_second


def step_seconds(chip: str, length: int, product_flops: float, kernel_seconds: float, exposed: float) -> dict[str, float]:
    """The three sums of a step on one chip, and theirs.

    Args:
      chip: generation.
      length: tokens in a row.
      product_flops: executed on a chip, without the kernels'.
      kernel_seconds: of the attention kernels at `Achieved.attention`.
      exposed: seconds.
    """
    speeds = ACHIEVED[chip]
    products = product_flops / (speeds.peak * speeds.products)
    return {
        "products_seconds": products,
        "attention_seconds": kernel_seconds,
        "exposed_seconds": exposed,
        "step_seconds": products + kernel_seconds + exposed,
    }


PUBLISHED = _published()


def check() -> list[dict[str, Any]]:
    """Each published run beside what is predicted for it; "error" is predicted / published - 1, 0 by construction where `sets`."""
    return [
        {
            "run": run.name,
            "chip": run.chip,
            "chips": run.chips * run.slices,
            "slices": run.slices,
            "length": run.length,
            "published_tokens_per_second": run.tokens_per_second,
            "published_mfu_causal": run.tokens_per_second * run.model_flops(causal=True) / ACHIEVED[run.chip].peak,
            "published_mfu_full": run.tokens_per_second * run.model_flops(causal=False) / ACHIEVED[run.chip].peak,
            "predicted_tokens_per_second": run.predicted(),
            "error": run.predicted() / run.tokens_per_second - 1,
            "sets": run.sets,
            "source": run.source,
        }
        for run in PUBLISHED
    ]
