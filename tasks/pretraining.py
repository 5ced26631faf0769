"""Pretraining tasks over the corpus job's document sets: every document of a language, as it is.

Those below read the set "web"; a task over another one says so with `documents=NAME`, and `ja-llm cache` is given its folder
with `--documents NAME=DIR`.
"""

from ja_llm.data.registry import add_task

add_task("web_ja", lang="ja")
add_task("web_en", lang="en")

# The sources of published recipes (tasks/mixtures.py). Task and document set have the same name, so each is given its folder by
# `--documents NAME=DIR`; the preset of gin_configs/corpus/ that makes such a set stands behind it.
_SOURCES = {
    "ja": (
        "web_ja_education_llm",  # corpus/swallow_v2_education.gin, a classifier that learnt an LLM's labels
        "web_ja_education_wiki",  # corpus/swallow_v2_education.gin, one that learnt from academic Wikipedia articles
        "wikipedia_ja",  # corpus/wikipedia.gin
    ),
    "en": (
        "cosmopedia",
        "dclm",
        "wikipedia_en",  # corpus/wikipedia.gin
    ),
    "code": (
        "stack_python",  # corpus/code.gin
    ),
    "en-ja": (
        "parallel_ntp",  # corpus/parallel.gin
    ),
}
for _lang, _names in _SOURCES.items():
    for _name in _names:
        add_task(_name, lang=_lang, documents=_name)
