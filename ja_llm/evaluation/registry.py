"""The registry of evaluation tasks: templates without vocabulary or path, bound to a tokenizer and sources as seqio tasks.

`tasks/heldout.py`, `tasks/japanese.py`, `tasks/english.py` and `tasks/suites.py` hold the registrations. TensorFlow and seqio load in `bind` only.
"""

import dataclasses
import difflib
import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation import segmenters
from ja_llm.evaluation.examples import Example, ExamplesFn, Sources
from ja_llm.evaluation.metrics import postprocess
from ja_llm.files import sha256_json

SCORE, GENERATE, BOTH, JUDGED = "score", "generate", "generate_and_score", "judged"
SPLIT = "heldout"


@dataclasses.dataclass(frozen=True)
class EvaluationTask:
    """A template.

    Attributes:
      name: of the task, e.g. "bits_per_byte_ja".
      kind: SCORE (the model gives log-probabilities of the targets), GENERATE (it writes a text after the inputs), BOTH, or JUDGED (it
        writes in a conversation and a judge grades that: `mt_bench.py`).
      lang: language that is measured.
      examples: makes the text examples from sources and a limit.
      metric_fns: seqio metric functions.
      headline: the metric that a table shows first.
      better: "lower" or "higher", of the headline.
      description: what the headline means, one plain sentence.
      needs: sources without which it can't run: "root", "pairs", "data", "judge".
      files: with "data": patterns of the original files that it reads (`raw_files.RawFolder.checksums`).
      source: with "data": where the files come from and their licence.
      segmenters: names in `segmenters.PACKAGES` whose packages it takes.
      runs_code: its metrics run what the model wrote (`sandbox.py`).
      whole_set: all held-out documents count, and only the `documents` setting makes it fewer (bits per byte).
      append_eos: whether EOS is the last target (a document's end is scored).
      begins_document: whether BOS stands before the prompt.
      model_window: a prompt may be as long as the model's `max_length`, whatever window is asked for bits per byte.
      long_prompt: makes a prompt that does not fit anew, instead of cutting its beginning off (`long_prompts.py`).
      max_new_tokens: when a text is generated.
      total_length: tokens of prompt and text together at most; 0 for the model's own limit.
      stop: texts at which an answer ends.
      samples: texts an example; above 1 a prediction is a list of texts.
      temperature: of the draws; 0 is greedy.
      top_p: share of the probability that is drawn from.
      postprocess: seqio's; `metrics.raw_postprocess` leaves the text as it is.
      signatures: optional, gives the metrics' own signatures.
      version: raised when examples or metrics change, so that old results are not taken for new ones.
    """

    name: str
    kind: str
    lang: str
    examples: ExamplesFn
    metric_fns: tuple[Callable[..., dict[str, float]], ...]
    headline: str
    better: str
    description: str
    needs: tuple[str, ...] = ("root",)
    files: tuple[str, ...] = ()
    source: str = ""
    segmenters: tuple[str, ...] = ()
    runs_code: bool = False
    whole_set: bool = False
    append_eos: bool = False
    begins_document: bool = True
    model_window: bool = False
    long_prompt: Callable[[Mapping[str, Any], Callable[[str], int], int, int], str] | None = None
    max_new_tokens: int = 0
    total_length: int = 0
    stop: tuple[str, ...] = ()
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    postprocess: Callable[..., Any] = postprocess
    signatures: Callable[[], dict[str, str]] | None = None
    version: int = 1

    def data(self, sources: Sources) -> dict[str, Any]:
        """Identity of what the examples are made from: of its own original files, or of documents and pairs.

        Raises:
          UsageError, JaLlmError: something is missing, partial or altered.
        """
        return {"files": sources.raw().checksums(self.files)} if self.files else sources.fingerprint()

    def missing(self, sources: Sources) -> str:
        """What it can't run without and does not have, one name of `needs` or a package; "" for nothing."""
        absent = [need for need in self.needs if getattr(sources, need) is None]
        absent += [package for name in self.segmenters for package in segmenters.missing_packages(name)]
        return absent[0] if absent else ""


_TASKS: dict[str, EvaluationTask] = {}
_SUITES: dict[str, tuple[str, ...]] = {}
_AVERAGED: set[str] = set()


def add_evaluation_task(name: str, **fields: Any) -> EvaluationTask:
    """Register a template; registering an equal name again replaces it (modules may be imported twice)."""
    task = EvaluationTask(name, **fields)
    if task.kind not in (kinds := (SCORE, GENERATE, BOTH, JUDGED)):
        raise UsageError(f"evaluation task {name}: the kind is {task.kind!r}, it must be one of {', '.join(kinds)}.")
    _TASKS[name] = task
    return task


def add_suite(name: str, tasks: Iterable[str], averaged: bool = False) -> None:
    """Register a named list of tasks; `averaged`: their headlines lie in 0..1, higher is better, so that they have a mean."""
    _SUITES[name] = tuple(tasks)
    (_AVERAGED.add if averaged else _AVERAGED.discard)(name)


def _load() -> None:
    import tasks.english
    import tasks.heldout
    import tasks.japanese
    import tasks.suites  # noqa: F401


def names() -> list[str]:
    """Registered tasks, sorted."""
    _load()
    return sorted(_TASKS)


def suites() -> dict[str, tuple[str, ...]]:
    """Registered suites."""
    _load()
    return dict(_SUITES)


def averaged_suites() -> frozenset[str]:
    """Names of the suites that have a mean."""
    _load()
    return frozenset(_AVERAGED)


def resolve(wanted: str | Sequence[str]) -> list[EvaluationTask]:
    """Templates for a suite's name, a task's name, or a list of either; each once, in order.

    Raises:
      UsageError: a name is unknown.
    """
    _load()
    found: dict[str, EvaluationTask] = {}
    for name in [wanted] if isinstance(wanted, str) else wanted:
        for task in _SUITES.get(name, (name,)):
            if task not in _TASKS:
                near = difflib.get_close_matches(task, [*_TASKS, *_SUITES], n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join([*_SUITES, *sorted(_TASKS)])}."
                raise UsageError(f"{task}: there is no such evaluation task or suite; {hint}")
            found[task] = _TASKS[task]
    if not found:
        raise UsageError(f"no evaluation task is named; there are {', '.join([*_SUITES, *sorted(_TASKS)])}.")
    return list(found.values())


def with_options(wanted: str | Sequence[str], options: Mapping[str, str]) -> list[str]:
    """The names of tasks and suites with choices of their profile made otherwise, registered (`profiles.Profile.with_options`).

    Raises:
      UsageError: a choice or a value is unknown, or a name is of no profile.
    """
    _load()
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    if not options:
        return wanted
    from ja_llm.evaluation.profiles import STRICT, SWALLOW
    from tasks.suites import register_options

    marks = {profile.name: register_options(profile, options).mark for profile in (SWALLOW, STRICT)}
    mark = marks[SWALLOW.name]
    for name in wanted:
        if name in {**_TASKS, **_SUITES} and name + mark not in {**_TASKS, **_SUITES}:
            raise UsageError(f"{name}: this has no choices of a profile; drop --option, or name a published set.")
    return [name + mark if name + mark in {**_TASKS, **_SUITES} else name for name in wanted]


def bind(
    task: EvaluationTask | str,
    tokenizer: Any,
    sources: Sources,
    limit: int | None = None,
    examples: Sequence[Example] | None = None,
) -> Any:
    """Make the seqio task and register it with seqio.

    Its name is unique to template, vocabulary, sources and limit. Its dataset (split "heldout") has per example: `inputs` and `targets` int32 [n] (ids, no padding, no trimming), `id`,
    `inputs_pretokenized`, `targets_pretokenized`, `meta` (JSON) strings, and `unknown` (targets that are the unknown id).

    Args:
      task: template or its name.
      tokenizer: `ja_llm.vocab.base.Tokenizer`.
      sources: what the examples are made from.
      limit: examples (questions) at most.
      examples: those of the template, if they are at hand.

    Raises:
      UsageError, JaLlmError: as the template's `examples` raises them; or two of them have one id.
    """
    from ja_llm.data.registry import import_seqio

    seqio = import_seqio()
    from ja_llm.data.seqio_vocabulary import SeqioVocabulary

    template = resolve(task)[0] if isinstance(task, str) else task
    examples = template.examples(sources, limit) if examples is None else list(examples)
    repeated = [name for name, count in Counter(example["id"] for example in examples).items() if count > 1]
    if repeated:
        raise JaLlmError(
            f"{template.name}: {len(repeated)} examples share an id with another one, such as {repeated[0]}; make them different."
        )
    vocabulary = SeqioVocabulary(tokenizer)
    unique = f"{template.name}.{tokenizer.fingerprint[:12]}.{sha256_json([template.data(sources), limit])[:12]}"
    # The same sources can lie in another folder than last time.
    seqio.TaskRegistry.remove(unique)
    return seqio.TaskRegistry.add(
        unique,
        source=seqio.FunctionDataSource(
            dataset_fn=functools.partial(_dataset, examples), splits=(SPLIT,), num_input_examples={SPLIT: len(examples)}
        ),
        output_features={
            "inputs": seqio.Feature(vocabulary, add_eos=False, required=False),
            "targets": seqio.Feature(vocabulary, add_eos=False),
        },
        preprocessors=[functools.partial(_tokenize, tokenizer=tokenizer, template=template)],
        postprocess_fn=template.postprocess,
        metric_fns=[fn.bound(tokenizer) if hasattr(fn, "bound") else fn for fn in template.metric_fns],
        shuffle_buffer_size=None,
    )


def _dataset(examples: list[Example], split: str, shuffle_files: bool, seed: int | None = None) -> Any:
    """The examples as tf.data, in order."""
    import tensorflow as tf

    beside: dict[str, list[str]] = {}  # question -> its candidates: they are scored from one place on
    for example in examples:
        if "question" in example["meta"]:
            beside.setdefault(example["meta"]["question"], []).append(example["targets"])

    def rows() -> Iterable[dict[str, str]]:
        for example in examples:
            yield {
                "id": example["id"],
                "inputs_pretokenized": example["inputs"],
                "targets_pretokenized": example["targets"],
                "candidates": json.dumps(beside.get(example["meta"].get("question", ""), []), ensure_ascii=False),
                "meta": json.dumps(example["meta"], ensure_ascii=False),
            }

    fields = ("id", "inputs_pretokenized", "targets_pretokenized", "candidates", "meta")
    return tf.data.Dataset.from_generator(rows, output_signature={name: tf.TensorSpec((), tf.string) for name in fields})


def _tokenize(dataset: Any, *, tokenizer: Any, template: EvaluationTask) -> Any:
    """seqio preprocessor: adds `inputs`, `targets` and `unknown`."""
    import numpy as np
    import tensorflow as tf

    def ids(inputs: bytes, targets: bytes, candidates: bytes) -> tuple[np.ndarray, np.ndarray, np.int32]:
        texts = inputs.decode("utf-8"), targets.decode("utf-8"), json.loads(candidates)
        before, after = token_ids(tokenizer, *texts, template)
        unknown = after.count(tokenizer.unk_id) if tokenizer.unk_id is not None else 0
        return np.array(before, np.int32), np.array(after, np.int32), np.int32(unknown)

    def add(example: dict[str, Any]) -> dict[str, Any]:
        inputs, targets, unknown = tf.numpy_function(
            ids,
            [example["inputs_pretokenized"], example["targets_pretokenized"], example["candidates"]],
            [tf.int32, tf.int32, tf.int32],
        )
        inputs.set_shape([None])
        targets.set_shape([None])
        unknown.set_shape([])
        return {**example, "inputs": inputs, "targets": targets, "unknown": unknown}

    return dataset.map(add, deterministic=True)


def token_ids(
    tokenizer: Any, inputs: str, targets: str, candidates: Sequence[str], template: EvaluationTask
) -> tuple[list[int], list[int]]:
    """Token ids (inputs, from BOS if a document begins, and targets) of one example.

    What is scored is tokenized as one text, as the model met it in training, and cut before the first token that reaches into
    the targets. A piece may span the boundary with one candidate and not with another; so all candidates of a question are cut
    where the ids of the first of them part: then every score is the probability of the whole text but for one and the same
    context. A text to be generated is not there to be joined, so it is tokenized apart.
    """
    end = [tokenizer.eos_id] if template.append_eos else []
    begin = [tokenizer.bos_id] if template.begins_document else []
    if template.kind == GENERATE:
        return [*begin, *tokenizer.encode(inputs)], [*tokenizer.encode(targets), *end]
    ids, cut = _joined(tokenizer, inputs, targets)
    for other in candidates:
        others, other_cut = _joined(tokenizer, inputs, other)
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(ids[:cut], others[:other_cut], strict=False))
        cut = sum(1 for _ in same)
    return [*begin, *ids[:cut]], [*ids[cut:], *end]


def _joined(tokenizer: Any, inputs: str, targets: str) -> tuple[list[int], int]:
    """Ids of the whole text, and how many of them lie wholly in the inputs."""
    ids, offsets = tokenizer.encode_with_offsets(inputs + targets)
    # Without inputs all is scored, also a piece that stands for no character (SentencePiece's space in front).
    return ids, next((number for number, (_, stop) in enumerate(offsets) if stop > len(inputs)), len(ids)) if inputs else 0
