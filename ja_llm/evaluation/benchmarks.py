"""Examples of the published sets: records and shots into prompts. What a prompt says stands in `tasks/japanese.py` and `english.py`."""

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.evaluation import code_metrics
from ja_llm.evaluation.examples import Example, Sources
from ja_llm.evaluation.loaders_japanese import Splits
from ja_llm.evaluation.raw_files import RawFolder, Record
from ja_llm.evaluation.shots import ShotRule, no_shots

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
    sources: Sources,
    limit: int | None,
    *,
    load: Callable[[RawFolder], Splits],
    prompt: Prompt,
    rule: ShotRule,
    shots: int,
    keep_parts: bool = False,
) -> list[Example]:
    """One example a record, to be answered by a generated text.

    Args:
      sources: `sources.data` is the folder of original files.
      limit: records at most, the first in the protocol's order.
      load: reads records and the pool of shots.
      prompt: makes the text.
      rule: chooses the shots.
      shots: how many.
      keep_parts: note the record and its shots whole ("parts"), for a task that makes a long prompt anew (`long_prompts.py`).

    Raises:
      UsageError, JaLlmError: files are missing, partial, altered, or without gold.
    """
    return [
        {
            "id": record["id"],
            "inputs": prompt.before(record, chosen) + prompt.query(record),
            "targets": prompt.answer(record),
            "meta": {
                **_meta(record, chosen, prompt.query(record)),
                **({"parts": {"record": record, "shots": chosen}} if keep_parts else {}),
            },
        }
        for record, chosen in _asked(sources, limit, load, rule, shots)
    ]


# A completion ends where something else than the function's body begins (bigcode-evaluation-harness's list).
_CODE_STOPS = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>")


def code_task(load: Callable[[RawFolder], Splits], strip_prompt: bool) -> dict[str, Any]:
    """What (J)HumanEval's tasks have in common: ten texts drawn for each problem, and the chance that one of them passes.

    Args:
      load: reads the problems.
      strip_prompt: drop the prompt's last newline. It alone moves scores by 20 points (a model that sees the newline inside the
        next token may end at once), so the two are tasks of their own and never compared.
    """
    prompt = Prompt(
        lambda record: record["prompt"].rstrip("\n") if strip_prompt else record["prompt"],
        lambda record: record["canonical_solution"],
    )
    return {
        "kind": "generate",
        "examples": functools.partial(_problems, load=load, prompt=prompt),
        "metric_fns": (*(code_metrics.passes(k) for k in (1, 10)), code_metrics.ANSWERED),
        "headline": "pass_at_1",
        "max_new_tokens": 1024,
        "total_length": 1024,
        "stop": _CODE_STOPS,
        "samples": 10,
        "temperature": 0.2,
        "top_p": 0.95,
        "runs_code": True,
        "description": "Chance that one drawn program passes the problem's tests (unbiased from ten).",
    }


def _problems(sources: Sources, limit: int | None, *, load: Callable[[RawFolder], Splits], prompt: Prompt) -> list[Example]:
    """The examples; the prompt as it was given belongs to the program."""
    found = generated(sources, limit, load=load, prompt=prompt, rule=no_shots, shots=0)
    return [{**example, "meta": {**example["meta"], "prompt": example["inputs"]}} for example in found]


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
            meta = {**_meta(record, picked, query), "question": record["id"], "choice": choice, **sizes}
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
    different = _distinct(asked)
    yield from itertools.islice(rule(different, different if asked is pool else pool, shots), limit)


def _distinct(records: list[Record]) -> list[Record]:
    """The records with ids of their own: TriviaQA asks a question again under the same id, with another source."""
    seen: Counter[str] = Counter()
    found = []
    for record in records:
        seen[record["id"]] += 1
        again = seen[record["id"]]
        found.append(record if again == 1 else {**record, "id": f"{record['id']}#{again}"})
    return found


def _meta(record: Record, shots: Sequence[Record], query: str) -> Record:
    """Notes of an example; "asked" is its question alone, without a passage (what contamination is looked for by)."""
    asked = record.get("question") or record.get("source") or query
    return {**{key: record[key] for key in _NOTES if key in record}, "shots": [shot["id"] for shot in shots], "asked": asked}
