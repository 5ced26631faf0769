"""Runs examples of evaluation tasks through one model: what does not fit is cut and counted, what is written has its limits."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ja_llm.evaluation.branch_scoring import ContinuationScorer
from ja_llm.evaluation.continuations import text_ends
from ja_llm.evaluation.generation import Generator
from ja_llm.evaluation.prefix_cache import PrefixCache
from ja_llm.evaluation.registry import GENERATE, SCORE, EvaluationTask
from ja_llm.evaluation.sampling import Sampling
from ja_llm.evaluation.scoring import Scorer


class Runners:
    """The ways to run examples through one model, compiled once for all tasks."""

    def __init__(self, loaded: Any, batch_size: int, length: int):
        self.tokenizer = loaded.tokenizer
        self._loaded, self._batch_size, self._length = loaded, batch_size, length
        self.batch_size = batch_size
        self._max_length = loaded.config.max_length
        self._generator: Generator | None = None
        self._scorers: dict[int, Scorer] = {}
        self._branches = ContinuationScorer(loaded, batch_size)

    def run(self, template: EvaluationTask, examples: Sequence[dict[str, Any]], start: int = 0) -> list[dict[str, Any]]:
        """A sample {"id", "cut", "score" and/or "prediction"} for each seqio example; "cut" counts context tokens that did not fit.

        Args:
          template: says how.
          examples: of the bound task.
          start: place of the first of them in the task, which decides what is drawn for it.
        """
        samples: list[dict[str, Any]] = [{"id": example["id"].decode("utf-8"), "cut": 0} for example in examples]
        for answered in ([] if template.kind == SCORE else [self._generate]) + (
            [] if template.kind == GENERATE else [self._score]
        ):
            for sample, (cut, found) in zip(samples, answered(template, examples, start), strict=True):
                sample |= found
                sample["cut"] = max(sample["cut"], cut)
        return samples

    def _generate(self, template: EvaluationTask, examples: Sequence[dict[str, Any]], start: int) -> list[tuple[int, dict]]:
        generator = self._generator = self._generator or self._new_generator()
        sampling = Sampling(temperature=template.temperature, top_p=template.top_p)
        whole = min(template.total_length or self._max_length, self._max_length)
        prompts = [example["inputs"].tolist() for example in examples]
        wanted = [whole - len(prompt) if template.total_length else template.max_new_tokens for prompt in prompts]
        limits = [max(min(new, self._max_length // 2), 1) for new in wanted]  # a small model keeps half for the prompt
        rooms = [generator.room(new) for new in limits]
        shown = [self._anew(template, example, room) for example, room in zip(examples, rooms, strict=True)]
        fitted = [p if template.begins_document else p[-room:] for p, room in zip(shown, rooms, strict=True)]
        numbers = range(start * template.samples, (start + len(examples)) * template.samples)
        rows = [prompt for prompt in fitted for _ in range(template.samples)]
        new_tokens = [new for new in limits for _ in range(template.samples)] if template.total_length else limits[0]
        texts = generator.continue_ids(rows, new_tokens, template.stop, sampling=sampling, cut_prompts=True, numbers=numbers)
        groups = [texts[n : n + template.samples] for n in range(0, len(texts), template.samples)]
        return [
            (len(prompt) - min(len(own), room), {"prediction": group if template.samples > 1 else group[0]})
            for prompt, own, room, group in zip(prompts, shown, rooms, groups, strict=True)
        ]

    def _anew(self, template: EvaluationTask, example: dict[str, Any], room: int) -> list[int]:
        """The prompt; one that does not fit as the task's own rule makes it anew, if it has one."""
        ids: list[int] = example["inputs"].tolist()
        if template.long_prompt is None or len(ids) <= room:
            return ids
        begin = [self.tokenizer.bos_id] if template.begins_document else []
        count = lambda text: len(self.tokenizer.encode(text))  # noqa: E731
        text = template.long_prompt(json.loads(example["meta"]), count, room - len(begin), self._max_length - len(begin))
        return [*begin, *self.tokenizer.encode(text)]

    def _score(self, template: EvaluationTask, examples: Sequence[dict[str, Any]], start: int) -> list[tuple[int, dict]]:
        length = self._max_length if template.model_window else self._length
        inputs = [example["inputs"].tolist() for example in examples]
        targets = [example["targets"].tolist() for example in examples]
        fitted = [_fitting(a, b, length, template.begins_document) for a, b in zip(inputs, targets, strict=True)]
        cut = [len(whole) - len(context) for whole, context in zip(inputs, fitted, strict=True)]
        rows = list(zip(fitted, targets, strict=True))
        if template.model_window and all(len(context) + len(text) <= length + 1 for context, text in rows):
            # Published sets: contexts share much, and each fits into the model.
            return [(missing, {"score": score.nats}) for missing, score in zip(cut, self._branches(rows), strict=True)]
        scores = self._scorer(length).token_logprobs([context + text for context, text in rows])
        return [
            (missing, {"score": float(score[len(context) - 1 :].sum(dtype=np.float64))})
            for missing, context, score in zip(cut, fitted, scores, strict=True)
        ]

    def _new_generator(self) -> Generator:
        generator = Generator(self._loaded, self._batch_size, ends=text_ends(self._loaded))
        generator.share_prefixes(PrefixCache(self._loaded.config, self._loaded.params))
        return generator

    def _scorer(self, length: int) -> Scorer:
        if length not in self._scorers:
            self._scorers[length] = Scorer(self._loaded, self._batch_size, length)
        return self._scorers[length]


def _fitting(inputs: list[int], targets: list[int], length: int, begins_document: bool) -> list[int]:
    """The context cut on the left, so that it and the targets stand in one window; BOS stays, and one token always does."""
    room = max(length + 1 - len(targets), 1)
    if len(inputs) <= room:
        return inputs
    return inputs[:1] + inputs[len(inputs) - room + 1 :] if begins_document else inputs[-room:]
