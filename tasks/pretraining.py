"""Pretraining tasks over the corpus job's document sets: every document of a language, as it is."""

from ja_llm.data.registry import add_task

add_task("web_ja", lang="ja")
add_task("web_en", lang="en")
