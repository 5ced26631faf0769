"""The items of published evaluation sets as a file, for the corpus job's stage `decontaminate`, which may not import evaluation.

{"task": "jcommonsenseqa", "item": "8939", "texts": ["question", "answer", ...]}     a line an item, in the sets' order
"""

from collections.abc import Sequence
from pathlib import Path

from ja_llm.errors import UsageError
from ja_llm.evaluation.contamination import item_texts
from ja_llm.evaluation.examples import Sources
from ja_llm.evaluation.raw_files import MissingFile
from ja_llm.evaluation.registry import resolve
from ja_llm.files import atomic_write, canonical_json


def write_items(out: str | Path, data: str | Path, tasks: Sequence[str]) -> tuple[dict[str, int], dict[str, str]]:
    """Write what stands for each item of the tasks: what is asked and its answers (`contamination.item_texts`).

    Args:
      out: the file.
      data: folder of the original files (`ja-llm fetch eval-data`).
      tasks: names of tasks or suites. A task that is named itself is never left out; one of a suite is where it is not about a published
        set or its files are not there.

    Returns:
      Items of each task that was written, and why others were left out.

    Raises:
      UsageError: a task that was named is not about a published set, or none is left.
      JaLlmError: files of a task that was named are missing, or files are partial or altered.
    """
    sources, written, left_out = Sources(data=data), dict[str, int](), dict[str, str]()
    with atomic_write(out) as file:
        for template in resolve(tasks):
            try:
                if not template.files:
                    raise UsageError(f"{template.name}: this task is not about a published set; leave it out.")
                template.data(sources)  # checks the files
                items = item_texts(template.name, template.examples(sources, None))
            except (MissingFile, UsageError) as error:
                if template.name in tasks:
                    raise
                left_out[template.name] = str(error).rstrip(".")
                continue
            written[template.name] = len(items)
            for name, texts in items.items():
                line = {"task": template.name, "item": name.partition("/")[2], "texts": texts}
                file.write(canonical_json(line).encode("utf-8", "replace") + b"\n")
        if not written:
            raise UsageError(f"{data}: no task has its files here: {next(iter(left_out.values()))}.")
    return written, left_out
