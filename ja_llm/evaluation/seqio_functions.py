"""`seqio.Evaluator` on the registered tasks: the same tasks, our scoring and generation, seqio's own loop and metrics.

    task = registry.bind("jcommonsenseqa", tokenizer, sources)
    evaluator = seqio.Evaluator(task.name, feature_converter=whole_examples(), eval_split=registry.SPLIT, ...)
    evaluator.evaluate(compute_metrics=True, step=0, **model_functions(template, Runners(loaded, batch_size, length)))

`ja-llm eval` gives the same numbers without it, in shares of processes and able to go on after a kill.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ja_llm.evaluation.examples import Sources
from ja_llm.evaluation.registry import EvaluationTask, bind
from ja_llm.evaluation.runners import Runners
from ja_llm.evaluation.text_stream import first_stop


class Drawn:
    """Several texts drawn for one example; no sequence, since seqio's `np.array` would take a list of texts for one of token ids."""

    def __init__(self, texts: Sequence[str]):
        self._texts = tuple(texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)


def whole_examples() -> Any:
    """A feature converter that leaves examples as the task makes them: no padding, so that no id is taken for it."""
    from ja_llm.data.registry import import_seqio

    seqio: Any = import_seqio()

    class WholeExamples(seqio.PassThroughFeatureConverter):
        TASK_FEATURES = {name: seqio.FeatureConverter.FeatureSpec(dtype=None) for name in ("inputs", "targets")}
        pack = False

    return WholeExamples()


def model_functions(template: EvaluationTask, runners: Runners) -> dict[str, Callable[..., Any]]:
    """predict_fn, score_fn and predict_with_aux_fn as `seqio.Evaluator.evaluate` takes them.

    Args:
      template: says how its examples are run.
      runners: of the model.
    """
    tokenizer = runners.tokenizer

    def samples(dataset: Any) -> tuple[list[int], list[dict[str, Any]]]:
        rows = list(dataset.as_numpy_iterator())
        return [int(index) for index, _ in rows], runners.run(template, [example for _, example in rows])

    def predict(dataset: Any, *unused: Any, **ignored: Any) -> list[tuple[int, str | Drawn]]:
        indices, found = samples(dataset)
        texts = [Drawn(text) if isinstance(text := sample["prediction"], list) else text for sample in found]
        return list(zip(indices, texts, strict=True))

    def score(dataset: Any, *unused: Any, **ignored: Any) -> list[tuple[int, float]]:
        indices, found = samples(dataset)
        return [(index, sample["score"]) for index, sample in zip(indices, found, strict=True)]

    def predict_with_aux(dataset: Any, *unused: Any, **ignored: Any) -> tuple[list[tuple[int, list[int]]], dict[str, list]]:
        indices, found = samples(dataset)
        # Beside other values seqio takes ids alone, and equally many of each.
        ids = [tokenizer.encode(sample["prediction"]) for sample in found]
        width = max(map(len, ids), default=0) + 1
        padded = [[*row, *[tokenizer.eos_id] * (width - len(row))] for row in ids]
        return list(zip(indices, padded, strict=True)), {"scores": [sample["score"] for sample in found]}

    return {"predict_fn": predict, "score_fn": score, "predict_with_aux_fn": predict_with_aux}


def bound_for_rows(
    template: EvaluationTask, tokenizer: Any, sources: Sources, limit: int | None = None, max_inputs: int | None = None
) -> Any:
    """The seqio task for a reader that generates whole rows and trims prompts by itself (t5x), registered under a name of its own.

    Args:
      template: of one score or one text an example.
      tokenizer: of the model.
      sources: what the examples are made from.
      limit: examples (questions) at most.
      max_inputs: tokens of a prompt at most: its last ones, behind BOS where it begins a document. seqio would trim the question.
    """
    from ja_llm.data.registry import import_seqio

    seqio = import_seqio()
    bound = bind(template, tokenizer, sources, limit)

    def answer(text: str, **fields: Any) -> Any:
        return template.postprocess(text[: first_stop(text, template.stop)], **fields)

    cut = [functools.partial(_last_inputs, length=max_inputs, begin=int(template.begins_document))] if max_inputs else []
    name = f"{bound.name}.rows{max_inputs or ''}"
    seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add_provider(
        name, bound.replace(name=name, postprocess_fn=answer, preprocessors=[*bound.preprocessors, *cut])
    )
    return seqio.TaskRegistry.get(name)


def _last_inputs(dataset: Any, length: int, begin: int) -> Any:
    """seqio preprocessor: of `inputs` longer than `length` the first `begin` tokens and the last ones."""
    import tensorflow as tf

    def cut(example: dict[str, Any]) -> dict[str, Any]:
        ids = example["inputs"]
        kept = tf.concat([ids[:begin], ids[tf.maximum(tf.size(ids) - (length - begin), 0) :]], axis=0)
        return {**example, "inputs": tf.cond(tf.size(ids) > length, lambda: kept, lambda: ids)}

    return dataset.map(cut, deterministic=True)
