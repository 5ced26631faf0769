"""Examples of the published sets: records and shots into prompts. What a prompt says stands in `tasks/japanese.py` and `english.py`."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

from ja_llm.errors import JaLlmError
from ja_llm.evaluation.examples import Example, Sources
from ja_llm.evaluation.loaders_japanese import Splits
from ja_llm.evaluation.raw_files import RawFolder, Record
from ja_llm.evaluation.shots import ShotRule

# What a metric compares with, as far as a record has it; it goes into the example's notes.
_NOTES = ("gold", "golds", "reference", "subject", "label", "prompt", "test", "entry_point")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """How records become text.

    Attributes:
      query: record -> the question as the model sees it, up to where the answer begins.
      answer: record -> the answer as a shot shows it.
      head: record -> what stands before the shots.
      separator: stands behind each shot.
    """

    query: Callable[[Record], str]
    answer: Callable[[Record], str]
    head: Callable[[Record], str] = lambda record: ""
    separator: str = "\n\n"

    def before(self, record: Record, shots: Sequence[Record]) -> str:
        """All that stands before the record's own question."""
        return self.head(record) + "".join(self.query(shot) + self.answer(shot) + self.separator for shot in shots)


def generated(
    sources: Sources, limit: int | None, *, load: Callable[[RawFolder], Splits], prompt: Prompt, rule: ShotRule, shots: int
) -> list[Example]:
    """One example a record, to be answered by a generated text.

    Args:
      sources: `sources.data` is the folder of original files.
      limit: records at most, the first in the protocol's order.
      load: reads records and the pool of shots.
      prompt: makes the text.
      rule: chooses the shots.
      shots: how many.

    Raises:
      UsageError, JaLlmError: files are missing, partial, altered, or without gold.
    """
    return [
        {
            "id": record["id"],
            "inputs": prompt.before(record, chosen) + prompt.query(record),
            "targets": prompt.answer(record),
            "meta": _meta(record, chosen),
        }
        for record, chosen in _asked(sources, limit, load, rule, shots)
    ]


def chosen(
    sources: Sources,
    limit: int | None,
    *,
    load: Callable[[RawFolder], Splits],
    prompt: Prompt,
    rule: ShotRule,
    shots: int,
    candidates: Callable[[Record], list[tuple[str, str]]],
) -> list[Example]:
    """One example (row) a candidate, to be scored; a record's rows stand next to each other.

    Args:
      sources: see `generated`.
      limit: records at most.
      load: see `generated`.
      prompt: makes the shots' text.
      rule: see `generated`.
      shots: see `generated`.
      candidates: record -> (question, continuation) of each candidate. Only continuations are scored.

    Raises:
      UsageError, JaLlmError: see `generated`.
    """
    examples: list[Example] = []
    for record, picked in _asked(sources, limit, load, rule, shots):
        before = prompt.before(record, picked)
        for choice, (query, text) in enumerate(candidates(record)):
            sizes = {"bytes": len(text.encode("utf-8")), "characters": len(text.strip()) or 1}
            meta = {**_meta(record, picked), "question": record["id"], "choice": choice, **sizes}
            examples.append({"id": f"{record['id']}:{choice}", "inputs": before + query, "targets": text, "meta": meta})
    return examples


def _asked(
    sources: Sources, limit: int | None, load: Callable[[RawFolder], Splits], rule: ShotRule, shots: int
) -> Iterator[tuple[Record, list[Record]]]:
    folder = sources.raw()
    try:
        asked, pool = load(folder)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise JaLlmError(
            f"{folder.root}: a record has not the original's fields ({type(error).__name__}: {error}); is it another version of the set?"
        ) from error
    if len(pool) < shots + (asked is pool):
        raise JaLlmError(
            f"{folder.root}: there are {len(pool)} records to take {shots} shots from; put the set's whole files there."
        )
    yield from itertools.islice(rule(asked, pool, shots), limit)


def _meta(record: Record, shots: Sequence[Record]) -> Record:
    return {**{key: record[key] for key in _NOTES if key in record}, "shots": [shot["id"] for shot in shots]}
