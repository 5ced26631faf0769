"""Pretraining tasks over the corpus job's document sets: every document of a language, as it is.

Those below read the set "web"; a task over another one says so with `documents=NAME`, and `ja-llm cache` is given its folder
with `--documents NAME=DIR`.
"""

from ja_llm.data.registry import add_task

add_task("web_ja", lang="ja")
add_task("web_en", lang="en")
