"""Named lists of evaluation tasks."""

from collections.abc import Mapping

from ja_llm.evaluation.profiles import STRICT, SWALLOW, Profile
from ja_llm.evaluation.registry import add_suite
from tasks import english, japanese

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

PARTS = {
    "_ja": JAPANESE,
    "_en": ENGLISH,
    "": (*JAPANESE, *ENGLISH),
    "_ja_8": JAPANESE[:8],
    "_en_9": tuple(task for task in ENGLISH if task != "math"),
    "_en_6": ENGLISH_6,
}


def register(profile: Profile) -> None:
    """The suites of a profile."""
    for part, tasks in PARTS.items():
        add_suite(profile.name + part + profile.mark, (task + profile.suffix for task in tasks), averaged=True)


def register_options(base: Profile, options: Mapping[str, str]) -> Profile:
    """Tasks and suites of a profile with some choices made otherwise; returns that profile.

    Raises:
      UsageError: as of `Profile.with_options`.
    """
    profile = base.with_options(options)
    for room in (japanese, english):
        room.register(profile)
    register(profile)
    return profile


for _profile in (SWALLOW, STRICT):
    register(_profile)

# The judge's grades are of another kind, so this suite has no mean; those of its sets are given.
add_suite("swallow_with_mt_bench", (*JAPANESE, *ENGLISH, "mt_bench_ja"))
