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

# Half of what a mostly English base was trained on is replayed: a mixture near the original one, against the stability gap
# (Guo et al. 2024, arXiv:2406.14833; gin_configs/runs/near_original.gin).
add_mixture("near_original_ja50_en50", {"web_ja": 0.5, "web_en": 0.5})
# Swallow on Llama 2 and Mistral: 90 billion tokens of Japanese with 1.67 of Wikipedia among them, 5 of each English part.
SWALLOW_LLAMA2 = {"web_ja": 88.33, "wikipedia_ja": 1.67, "refinedweb": 5.0, "arxiv": 5.0}
add_mixture("swallow_llama2", shares(SWALLOW_LLAMA2))

# The same with parallel text in it, in either of two formats. How much it was is not known here: Llama 3.1 Swallow has 0.44 to 0.9 %.
add_mixture("swallow_llama2_parallel_ntp", shares({**SWALLOW_LLAMA2, "parallel_ntp": 0.9}))
add_mixture("swallow_llama2_parallel_ti", shares({**SWALLOW_LLAMA2, "parallel_ti": 0.9}))

# Swallow on Mixtral, billions of tokens as in its authors' script (the last of several versions), 100.0 in all.
SWALLOW_MIXTRAL = {
    "web_ja": 62.136,
    "wikipedia_ja": 2.245,
    "arxiv": 14.316,
    "refinedweb": 11.303,
    "algebraic_stack": 5.0,
    "vault": 5.0,
}
add_mixture("swallow_mixtral", shares(SWALLOW_MIXTRAL))

# Llama 3.1 Swallow, billions of tokens as in its authors' scripts: both of the 8B have 200.0 in all, the 70B 100.0.
SWALLOW_LLAMA31_8B_V02 = {
    "web_ja_education_llm": 93.095,
    "web_ja_education_wiki": 40.639,
    "wikipedia_ja": 3.382,
    "stack_python": 32.0,
    "cosmopedia": 14.929,
    "dclm": 10.644,
    "wikipedia_en": 4.427,
    "parallel_ntp": 0.883,
}
add_mixture("swallow_llama31_8b_v02", shares(SWALLOW_LLAMA31_8B_V02))

SWALLOW_LLAMA31_8B_V01 = {
    "web_ja_education_wiki": 63.283,
    "web_ja_others": 41.335,
    "wikipedia_ja": 3.382,
    "stack": 32.0,
    "cosmopedia": 15.0,
    "dclm": 39.69,
    "wikipedia_en": 4.427,
    "parallel_ntp": 0.883,
}
add_mixture("swallow_llama31_8b_v01", shares(SWALLOW_LLAMA31_8B_V01))

# Its five parts of Japanese web text are as large against each other as those of the corpus v1 in the script for Mistral 7B: no classifier.
SWALLOW_LLAMA31_70B = {
    "web_ja": 80.822,
    "wikipedia_ja": 1.691,
    "cosmopedia": 5.065,
    "algebraic_stack": 3.718,
    "openwebmath": 3.718,
    "wikipedia_en": 2.052,
    "refinedweb": 2.052,
    "parallel_ntp": 0.883,
}
add_mixture("swallow_llama31_70b", shares(SWALLOW_LLAMA31_70B))

# Swallow on Gemma 2 9B, billions of tokens as in its authors' script, 100.0 in all; the same Japanese web text.
SWALLOW_GEMMA2 = {
    "web_ja": 79.804,
    "wikipedia_ja": 1.478,
    "cosmopedia": 5.086,
    "algebraic_stack": 4.541,
    "openwebmath": 4.541,
    "wikipedia_en": 1.89,
    "refinedweb": 1.89,
    "parallel_ntp": 0.77,
}
add_mixture("swallow_gemma2", shares(SWALLOW_GEMMA2))

# LLM-jp v3, per cent of 2.07T tokens. Chinese and Korean are 0.1 together.
LLMJP_V3 = {
    "web_ja": 36.8,
    "warp_pdf_ja": 11.5,
    "other_ja": 0.3,
    "dolma_web": 29.4,
    "c4": 8.8,
    "reddit": 4.0,
    "pes2o": 3.0,
    "books_en": 0.7,
    "stack": 5.5,
    "web_zh": 0.05,
    "web_ko": 0.05,
}
add_mixture("llmjp_v3", shares(LLMJP_V3))

# LLM-jp's mid-training, per cent of 55.8B tokens: OLMo 2's second stage again.
LLMJP_MIDTRAINING = {
    "dclm": 47.6,
    "flan": 16.6,
    "pes2o": 5.8,
    "wikipedia_en": 7.0,
    "stackexchange": 2.6,
    "dolmino_math": 20.5,
}
add_mixture("llmjp_midtraining", shares(LLMJP_MIDTRAINING))

# Aurora-M: general text, code and some public instructions; then cleaner text, better instructions and safety. Which sources there are is
# known, none of the shares is: these are ours.
AURORA_M_CAP = {
    "web_en": 35.0,
    "stack": 35.0,
    "web_ja": 7.0,
    "web_fi": 7.0,
    "web_hi": 7.0,
    "web_vi": 7.0,
    "instructions_en": 2.0,
}
add_mixture("aurora_m_cap", shares(AURORA_M_CAP))
AURORA_M_CAT = {**AURORA_M_CAP, "web_en": 30.0, "stack": 31.0, "instructions_en": 10.0, "safety_instructions": 1.0}
add_mixture("aurora_m_cat", shares(AURORA_M_CAT))

# OLMo 2's first stage, billions of tokens, from memory of its report (arXiv:2501.00656, table of OLMo 2 Mix 1124); not re-checked.
OLMO2_STAGE1 = {
    "dclm": 3710.0,
    "stack": 83.0,
    "pes2o": 58.6,
    "arxiv": 20.8,
    "openwebmath": 12.2,
    "algebraic_stack": 11.8,
    "wikipedia_en": 3.7,
}
add_mixture("olmo2_stage1", shares(OLMO2_STAGE1))

# Its second stage, per cent of the mix of 50B tokens.
OLMO2_ANNEAL = {
    "dclm": 47.2,
    "flan": 16.6,
    "stackexchange": 2.45,
    "pes2o": 5.85,
    "wikipedia_en": 7.11,
    "dolmino_math": 20.8,
}
add_mixture("olmo2_anneal", shares(OLMO2_ANNEAL))

# What a continual run is watched on rather than trained on (`ja-llm cache --task forgetting_probes --split heldout`; docs/forgetting.md):
# Japanese web and encyclopaedia, English web, code, mathematics, parallel text.
FORGETTING_PROBES = ("web_ja", "wikipedia_ja", "web_en", "stack", "openwebmath", "parallel_ntp")
add_mixture("forgetting_probes", shares(dict.fromkeys(FORGETTING_PROBES, 1.0)))
