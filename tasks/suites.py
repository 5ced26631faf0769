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

# Of older tables: eight Japanese tasks and six English ones (until v202406), and the English ones without MATH (2024).
ENGLISH_6 = ("openbookqa", "xwino_en", "triviaqa", "squad2", "hellaswag", "gsm8k")

for _name, _suffix in (("swallow", ""), ("strict", "_strict")):
    for _part, _tasks in (
        ("_ja", JAPANESE),
        ("_en", ENGLISH),
        ("", (*JAPANESE, *ENGLISH)),
        ("_ja_8", JAPANESE[:8]),
        ("_en_9", tuple(task for task in ENGLISH if task != "math")),
        ("_en_6", ENGLISH_6),
    ):
        add_suite(_name + _part, (task + _suffix for task in _tasks), averaged=True)
