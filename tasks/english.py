"""Evaluation tasks that measure English, above all what is forgotten of it. Registrations only."""

import functools

from ja_llm.evaluation import examples, metrics
from ja_llm.evaluation.registry import SCORE, add_evaluation_task

add_evaluation_task(
    "bits_per_byte_en",
    kind=SCORE,
    lang="en",
    examples=functools.partial(examples.whole_documents, lang="en"),
    metric_fns=(metrics.document_bits,),
    headline="bits_per_byte",
    better="lower",
    whole_set=True,
    append_eos=True,
    description="Bits the model needs for one UTF-8 byte of English text that it has not seen: what is forgotten shows as a rise.",
)

add_evaluation_task(
    "continuation_choice_en",
    kind=SCORE,
    lang="en",
    examples=functools.partial(examples.continuation_choices, lang="en", prefix=(120, 400), span=80),
    metric_fns=(metrics.choice_accuracy,),
    headline="accuracy",
    better="higher",
    version=2,  # all candidates are scored from one place on
    description="Share of English documents whose true next 80 characters the model finds likelier than 3 spans of other documents.",
)
