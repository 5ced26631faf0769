"""Mixtures of pretraining tasks; rates are shares of training tokens. What a mixture holds is said here and nowhere else."""

import tasks.pretraining  # noqa: F401  the tasks that are mixed here
from ja_llm.data.registry import add_mixture

# Fujii et al. 2024 (arXiv:2404.17790): continual pre-training of Llama 2 on 90 % Japanese and 10 % English text by tokens
# (theirs was 5 % RefinedWeb, 5 % arXiv papers); the English is replayed so that it is not forgotten.
add_mixture("swallow_ja90_en10", {"web_ja": 0.9, "web_en": 0.1})

# Half of what a mostly English base was trained on is replayed: a mixture near the original one, against the stability gap
# (Guo et al. 2024, arXiv:2406.14833; gin_configs/runs/near_original.gin).
add_mixture("near_original_ja50_en50", {"web_ja": 0.5, "web_en": 0.5})
