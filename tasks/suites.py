"""Named lists of evaluation tasks."""

from ja_llm.evaluation.registry import add_suite

add_suite(
    "first",
    ("bits_per_byte_ja", "bits_per_byte_en", "continuation_choice_ja", "continuation_choice_en", "translate_ui_en_ja"),
)
