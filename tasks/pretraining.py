"""Pretraining tasks over the corpus job's document sets: every document of a language, as it is.

Those below read the set "web"; a task over another one says so with `documents=NAME`, and `ja-llm cache` is given its folder
with `--documents NAME=DIR`.
"""

from ja_llm.data.registry import add_task

add_task("web_ja", lang="ja")
add_task("web_en", lang="en")

# The sources of published recipes (tasks/mixtures.py). Task and document set have the same name, so each is given its folder by
# `--documents NAME=DIR`; behind it stands what such a set is, or the preset of gin_configs/corpus/ that makes one.
_SOURCES = {
    "ja": (
        "web_ja_education_llm",  # swallow_v2_education.gin with a classifier that learnt an LLM's labels
        "web_ja_education_wiki",  # swallow_v2_education.gin with one that learnt from academic Wikipedia articles
        "web_ja_others",  # swallow_v2.gin; what Llama 3.1 Swallow 8B v0.1 has beside that ("filter-others" in its authors' script)
        "wikipedia_ja",  # wikipedia.gin
        "warp_pdf_ja",  # PDF files of the National Diet Library's web archive
        "other_ja",  # what else a Japanese corpus has, too small to be named
        "instructions_ja",
    ),
    "en": (
        "arxiv",
        "books_en",  # encyclopaedia and books
        "c4",
        "cosmopedia",
        "dclm",  # DCLM-baseline
        "dolma_web",  # Dolma's Common Crawl
        "dolmino_math",  # mathematics of OLMo 2's second stage
        "flan",
        "openwebmath",
        "pes2o",
        "reddit",
        "refinedweb",
        "safety_instructions",
        "stackexchange",
        "wikipedia_en",  # wikipedia.gin
        "instructions_en",
    ),
    "fi": ("web_fi",),
    "hi": ("web_hi",),
    "ko": ("web_ko",),
    "vi": ("web_vi",),
    "zh": ("web_zh",),
    "code": (
        "algebraic_stack",
        "stack",  # The Stack, as it is
        "stack_python",  # code.gin
        "vault",  # The Vault: functions with their documentation
    ),
    "en-ja": (
        "parallel_ntp",  # parallel.gin
        "parallel_ti",  # parallel_instructions.gin
    ),
}
for _lang, _names in _SOURCES.items():
    for _name in _names:
        add_task(_name, lang=_lang, documents=_name)
