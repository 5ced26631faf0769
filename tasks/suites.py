"""Named lists of evaluation tasks."""

from ja_llm.evaluation.registry import add_suite

add_suite(
    "first",
    ("bits_per_byte_ja", "bits_per_byte_en", "continuation_choice_ja", "continuation_choice_en", "translate_ui_en_ja"),
)

# Swallow's sets, in the order of its tables (v202411).
JAPANESE = (
    "jcommonsenseqa",
    "jemhopqa",
    "niilc",
    "jsquad",
    "xlsum_ja",
    "mgsm_ja",
    "wmt20_en_ja",
    "wmt20_ja_en",
    "jmmlu",
    "jhumaneval",
)
ENGLISH = ("openbookqa", "triviaqa", "hellaswag", "squad2", "xwino_en", "mmlu", "gsm8k", "math", "bbh", "humaneval")

for _name, _suffix in (("swallow", ""), ("strict", "_strict")):
    add_suite(f"{_name}_ja", (task + _suffix for task in JAPANESE))
    add_suite(f"{_name}_en", (task + _suffix for task in ENGLISH))
    add_suite(_name, (task + _suffix for task in (*JAPANESE, *ENGLISH)))
