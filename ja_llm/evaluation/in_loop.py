"""Evaluation tasks inside the training loop, on the parameters in memory: no checkpoint is written or read for it.

Takes TensorFlow and seqio, unlike the held-out curves (`heldout.py`), so it is loaded only where tasks are asked for.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ja_llm.errors import UsageError
from ja_llm.evaluation import code_metrics
from ja_llm.evaluation.examples import Sources
from ja_llm.evaluation.hosts import of_first
from ja_llm.evaluation.registry import SPLIT, bind, resolve
from ja_llm.evaluation.run import compute_metrics
from ja_llm.evaluation.runners import Runners
from ja_llm.models.config import DecoderConfig


def task_evaluators(
    tasks: Sequence[str],
    config: DecoderConfig,
    tokenizer: Any,
    *,
    data: str | Path | None = None,
    root: str | Path | None = None,
    limit: int = 100,
    batch_size: int = 16,
    length: int = 512,
) -> dict[str, "TaskEvaluator"]:
    """One evaluator a task, as `ja_llm.train.loop` takes them.

    Args:
      tasks: tasks or suites (`ja-llm eval`).
      config: the decoder's configuration.
      tokenizer: the run's.
      data: folder of original files of evaluation sets.
      root: document set, for tasks on held-out documents.
      limit: examples of each task.
      batch_size: rows in a forward pass.
      length: window in tokens of tasks on documents.

    Returns:
      task -> function (parameters -> {the headline metric, and its interval's ends}).

    Raises:
      UsageError, JaLlmError: an unknown task, files that are missing, partial or altered, or a sandbox that does not work here.
    """
    sources = Sources(root=root, data=data)
    evaluators = {}
    for template in resolve(list(tasks)):
        if missing := template.missing(sources):
            raise UsageError(f"{template.name}: this task needs {missing}, which was not given; name another task or give it.")
        if template.runs_code:
            code_metrics.allow(False)
        task = bind(template, tokenizer, sources, limit)
        examples = list(task.get_dataset(sequence_length=None, split=SPLIT, shuffle=False).as_numpy_iterator())
        evaluators[template.name] = TaskEvaluator(template, task, examples, config, tokenizer, batch_size, length)
    return evaluators


class TaskEvaluator:
    """One task on the parameters of a run: an evaluator of `ja_llm.train.loop`.

    Args:
      template: the registered task.
      task: seqio's, bound to the data.
      examples: of the task.
      config: the decoder's configuration.
      tokenizer: the run's.
      batch_size: rows in a forward pass.
      length: window in tokens.

    Attributes:
      fingerprint: identity of the examples, which `ja_llm.train.preparation` compares between the processes of a run.
    """

    def __init__(
        self,
        template: Any,
        task: Any,
        examples: list[dict[str, Any]],
        config: DecoderConfig,
        tokenizer: Any,
        batch_size: int,
        length: int,
    ):
        self._template, self._task, self._examples = template, task, examples
        self._config, self._tokenizer, self._batch_size, self._length = config, tokenizer, batch_size, length
        texts = [(example["id"], *(example[f"{f}_pretokenized"] for f in ("inputs", "targets"))) for example in examples]
        self.fingerprint = hashlib.sha256(repr(texts).encode()).hexdigest()

    def __call__(self, params: Any) -> dict[str, float]:
        """{the headline metric, and its interval's ends} of these parameters."""
        from ja_llm.train.checkpoints import LoadedModel

        # New runners each time, since caches hold keys and values of old parameters; what is compiled is kept by configuration.
        loaded = LoadedModel(self._config, params, self._tokenizer, 0, Path(), {})
        samples = Runners(loaded, self._batch_size, min(self._length, self._config.max_length)).run(
            self._template, self._examples
        )
        metrics = compute_metrics(self._task, self._examples, samples)
        name = self._template.headline
        return of_first({key: metrics[key] for key in (name, f"{name}_low", f"{name}_high")})
