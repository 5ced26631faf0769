"""Evaluation tasks made from held-out documents and aligned pairs of one's own corpus, in both languages. Registrations only."""

import functools

from ja_llm.evaluation import examples, metrics
from ja_llm.evaluation.registry import GENERATE, SCORE, add_evaluation_task

# Our own examples of the form, of the kind that user interfaces hold.
TRANSLATION_SHOTS = (
    ("Save the picture under another name", "画像に別の名前を付けて保存"),
    ("The folder could not be opened.", "フォルダーを開けませんでした。"),
    ("Number of pages to print", "印刷するページ数"),
)

add_evaluation_task(
    "bits_per_byte_ja",
    kind=SCORE,
    lang="ja",
    examples=functools.partial(examples.whole_documents, lang="ja"),
    metric_fns=(metrics.document_bits,),
    headline="bits_per_byte",
    better="lower",
    whole_set=True,
    append_eos=True,
    description="Bits the model needs for one UTF-8 byte of Japanese text that it has not seen; comparable between tokenizers.",
)

add_evaluation_task(
    "continuation_choice_ja",
    kind=SCORE,
    lang="ja",
    # At three byte tokens a character, context and candidate still fit in 512 tokens.
    examples=functools.partial(examples.continuation_choices, lang="ja", prefix=(40, 120), span=32),
    metric_fns=(metrics.choice_accuracy,),
    headline="accuracy",
    better="higher",
    version=2,  # all candidates are scored from one place on
    description="Share of Japanese documents whose true next 32 characters the model finds likelier than 3 spans of other documents.",
)

add_evaluation_task(
    "translate_ui_en_ja",
    kind=GENERATE,
    lang="ja",
    examples=functools.partial(examples.translations, shots=TRANSLATION_SHOTS, english=(12, 80)),
    metric_fns=(metrics.translation_quality,),
    headline="chrf",
    better="higher",
    needs=("pairs",),
    max_new_tokens=128,
    stop=("\n",),
    signatures=metrics.translation_signatures,
    description="chrF (0 to 100) of short user-interface texts translated into Japanese after three examples, greedily.",
)

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
