"""Mixtures of pretraining tasks; rates are shares of training tokens. What a mixture holds is said here and nowhere else.

The published ones are written as their sources have them, in billions of tokens or in per cent, and scaled to 1. Where such
amounts come from and what of them is uncertain stands in the recipe that learns the mixture (gin_configs/recipes/).
"""

from collections.abc import Mapping

import tasks.pretraining  # noqa: F401  the tasks that are mixed here
from ja_llm.data.registry import add_mixture


def shares(amounts: Mapping[str, float]) -> dict[str, float]:
    """Amounts of any one unit as shares of their sum."""
    total = sum(amounts.values())
    return {name: amount / total for name, amount in amounts.items()}


# Fujii et al. 2024 (arXiv:2404.17790): continual pre-training of Llama 2 on 90 % Japanese and 10 % English text by tokens
# (theirs was 5 % RefinedWeb, 5 % arXiv papers); the English is replayed so that it is not forgotten.
add_mixture("swallow_ja90_en10", {"web_ja": 0.9, "web_en": 0.1})

# Llama 3.1 Swallow 8B v0.2, billions of tokens as in its authors' script (200.0 in all).
SWALLOW_LLAMA31_8B_V02 = {
    "web_ja_education_llm": 93.1,
    "web_ja_education_wiki": 40.6,
    "wikipedia_ja": 3.4,
    "stack_python": 32.0,
    "cosmopedia": 14.9,
    "dclm": 10.6,
    "wikipedia_en": 4.4,
    "parallel_ntp": 0.88,
}
add_mixture("swallow_llama31_8b_v02", shares(SWALLOW_LLAMA31_8B_V02))
