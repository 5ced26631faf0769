"""Runs evaluation tasks on one checkpoint: `ja-llm eval`.

Each task is bound as a seqio task; its examples are scored or continued in fixed chunks, each chunk is stored, and the
task's own metric functions turn all samples into numbers. Results depend on the request alone (model, data, settings): a
killed evaluation goes on with the next chunk and ends in the same numbers.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ja_llm import sharding, storage
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation import code_metrics, contamination
from ja_llm.evaluation.branch_scoring import ContinuationScorer
from ja_llm.evaluation.compare import compare, format_comparison, read_baseline, statistic_of
from ja_llm.evaluation.continuations import load_spread, parse_mesh
from ja_llm.evaluation.examples import Sources
from ja_llm.evaluation.generation import Generator
from ja_llm.evaluation.prefix_cache import PrefixCache
from ja_llm.evaluation.registry import GENERATE, SCORE, SPLIT, EvaluationTask, bind, names, resolve, suites
from ja_llm.evaluation.samples import TaskFiles, finished_tasks
from ja_llm.evaluation.sampling import Sampling
from ja_llm.evaluation.scoring import Scorer
from ja_llm.evaluation.statistics import Statistic, suite_mean
from ja_llm.files import sha256_json, write_json
from ja_llm.manifest import software
from ja_llm.progress import Progress

SCHEMA = "ja_llm.results/1"
_CHUNK = 64  # examples a stored chunk
_CHOICES = 256  # the same of rows of choices, which share more the more there are
_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "seqio", "tensorflow", "sacrebleu", "sentencepiece", "tokenizers")


def evaluate(
    model_path: str | Path,
    tasks: str | Sequence[str] = "first",
    *,
    root: str | Path | None = None,
    pairs: str | Path | None = None,
    data: str | Path | None = None,
    out_dir: str | Path | None = None,
    limit: int | None = None,
    documents: int | None = None,
    batch_size: int = 16,
    length: int = 512,
    run_generated_code_without_sandbox: bool = False,
    baseline: str | Path | None = None,
    training: Sequence[str | Path] = (),
    mesh: str | None = None,
    process: tuple[int, int] = (0, 1),
) -> dict[str, Any]:
    """Evaluate one checkpoint.

    Args:
      model_path: model directory, or DIR@STEP.
      tasks: suite, task, or a list of them. A suite's task whose source was not given is left out and listed under "left_out".
      root: document set with held-out documents.
      pairs: JSONL of aligned en/ja pairs.
      data: folder of original files of evaluation sets (`raw_files.py`).
      out_dir: where the files go; MODEL/eval/step_N when None.
      limit: questions or texts a task at most. Bits per byte are always of the whole held-out set, unless `documents` is given.
      documents: held-out documents for bits per byte at most.
      batch_size: rows in a forward pass. It does not enter the numbers by design, but floating point may differ in the last
        digits, so it belongs to the request.
      length: window in tokens for bits per byte and continuation choice; cut to the model's `max_length`, which the sets of
        `data` use whole.
      run_generated_code_without_sandbox: let code that the model wrote do all that this user can, where there is no sandbox.
      baseline: folder of another run's results; what both measured on the same items is compared (`compare.py`).
      training: document sets whose training documents are searched for the items of published sets (`contamination.py`).
      mesh: devices along the mesh axes, such as "data=8"; None: one device. `batch_size` is of each of its data and fsdp parts.
      process: (number, how many) of this process: each takes its share of the chunks of examples, all with the same arguments and
        an `out_dir` that all see. The first gathers and writes the results, the others wait for them.

    Returns:
      What is also written to OUT/results.json: "model", "step", "settings", and under "tasks" for each task its metrics,
      the headline metric's 95 % "interval" [low, high], and "about" (headline, direction, meaning, signatures). Tasks that
      an earlier call finished in OUT with the same model, data and settings stand there too, after this call's. "suites" has
      the mean, its standard error and interval of each suite all of whose tasks stand there.

    Raises:
      UsageError, JaLlmError: a model, vocabulary, document set or pairs file is missing or does not fit; or another process
        brings nothing for ten minutes.
    """
    if not 0 <= process[0] < process[1]:
        raise UsageError(f"process {process[0]} of {process[1]} is asked for; they are counted from 0, so give a smaller number.")
    if any(number is not None and number < 1 for number in (limit, documents)):
        raise UsageError(f"the limit is {limit} and documents {documents}; each must be at least 1.")
    sources = Sources(root, pairs, data)
    templates, left_out = _runnable(tasks, sources)
    base = read_baseline(baseline) if baseline else None
    if any(template.runs_code for template in templates):
        code_metrics.allow(run_generated_code_without_sandbox)
    # Before the model is loaded: hours later is too late to hear that a file is missing.
    origins = {template.name: template.data(sources) for template in templates}
    known = sources.fingerprint()
    devices = sharding.make_mesh(parse_mesh(mesh)) if mesh else None
    loaded = load_spread(str(model_path), devices)
    check_vocabulary(loaded)
    length = min(length, loaded.config.max_length)
    if out_dir is None and storage.is_remote(loaded.directory):
        raise UsageError(f"{loaded.directory}: results are written to local folders only; say where with --out DIR.")
    out = Path(out_dir) if out_dir else loaded.directory / "eval" / f"step_{loaded.step}"
    settings: dict[str, Any] = {"limit": limit, "documents": documents, "batch_size": batch_size, "length": length}
    settings |= {"mesh": mesh} if mesh else {}
    identity = {"weights": weights_fingerprint(loaded.params), "vocabulary": loaded.tokenizer.fingerprint, "step": loaded.step}
    runners = Runners(loaded, batch_size * (devices.shape["data"] * devices.shape["fsdp"] if devices else 1), length)
    results: dict[str, Any] = {}
    with sharding.use(devices) if devices else contextlib.nullcontext():
        for template in templates:
            request = _request(template, identity, origins[template.name], settings)
            files = TaskFiles(out, template.name, request, process)
            results[template.name] = files.finished() or _run_task(template, runners, sources, files, request["examples"])
    for name, result in finished_tasks(out).items():
        if name not in results and _same_request(name, result["request"], identity, known, settings, sources):
            results[name] = result
            known = {**{k: v for k, v in result["request"]["data"].items() if k != "files"}, **known}
    tested = {path: digest for r in results.values() for path, digest in r["request"]["data"].get("files", {}).items()}
    left_out = {name: why for name, why in {**_left_out_before(out, identity), **left_out}.items() if name not in results}
    value = {
        "schema": SCHEMA,
        "model": loaded.directory.name,
        "step": loaded.step,
        "identity": identity,
        "data": {**known, "files": tested} if tested else known,
        "settings": settings,
        "tasks": {
            name: {k: v for k, v in r.items() if k not in ("request", "request_hash", "items")} for name, r in results.items()
        },
        "suites": _suite_means(results),
        "left_out": left_out,
        "software": software(*_PACKAGES),
        **({"comparison": compare(results, base)} if base else {}),
    }
    for name, found in _contaminated(templates, sources, limit, training, results).items():
        value["tasks"][name]["contamination"] = found
    if process[0] == 0:
        write_json(out / "results.json", value)
    return value


def _contaminated(
    templates: Sequence[EvaluationTask],
    sources: Sources,
    limit: int | None,
    training: Sequence[str | Path],
    results: Mapping[str, dict[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Each published set's headline on clean and seen items; the training documents are read once for all sets."""
    found: dict[str, tuple[Statistic, list[str]]] = {}
    texts: dict[str, list[str]] = {}
    for template in templates if training else ():
        statistic = statistic_of(results[template.name])
        if not template.files or statistic is None:
            continue
        items = contamination.item_texts(template.name, template.examples(sources, limit))
        texts |= items
        found[template.name] = statistic, list(items)
    if not found:
        return {}
    documents = (text for root in training for text in Sources(root).training_texts())
    seen = contamination.search(texts, documents)
    return {name: contamination.parts(statistic, items, seen) for name, (statistic, items) in found.items()}


def _request(
    template: EvaluationTask, identity: dict[str, Any], data: dict[str, str], settings: dict[str, Any]
) -> dict[str, Any]:
    """Everything that decides the numbers of one task."""
    return {
        "task": template.name,
        "version": template.version,
        "model": identity,
        "data": data,
        "examples": settings["documents" if template.whole_set else "limit"],
        "batch_size": settings["batch_size"],
        **({} if template.model_window else {"length": settings["length"]}),
        **({"mesh": settings["mesh"]} if "mesh" in settings else {}),
    }


def _suite_means(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {name: statistic for name, result in results.items() if (statistic := statistic_of(result))}
    whole = {suite: members for suite, members in suites().items() if all(name in found for name in members)}
    return {suite: {**suite_mean({n: found[n] for n in members}), "tasks": len(members)} for suite, members in whole.items()}


def _same_request(
    name: str,
    stored: dict[str, Any],
    identity: dict[str, Any],
    data: dict[str, str],
    settings: dict[str, Any],
    sources: Sources,
) -> bool:
    """Whether a task that an earlier call measured may stand beside this call's in one table.

    Only tasks that need pairs read them, so pairs that one of the calls was not given contradict nothing. Every task reads the
    document set (a translation must not stand in it), so that one must be the same.
    """
    if name not in names() or not isinstance(stored.get("data"), dict):
        return False
    before = stored["data"]
    if "files" in before:
        now = resolve(name)[0].data(sources) if sources.data is not None else before
        return now == before and stored == _request(resolve(name)[0], identity, before, settings)
    if "pairs" in before and "pairs" in data and before["pairs"] != data["pairs"]:
        return False
    if before.get("documents") != data.get("documents"):
        return False
    return stored == _request(resolve(name)[0], identity, before, settings)


def _left_out_before(out: Path, identity: dict[str, Any]) -> dict[str, str]:
    """What an earlier call on the same model left out, and why."""
    try:
        value = json.loads((out / "results.json").read_text(encoding="utf-8"))
        return dict(value["left_out"]) if value["identity"] == identity else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _runnable(tasks: str | Sequence[str], sources: Sources) -> tuple[list[EvaluationTask], dict[str, str]]:
    """The tasks to run, and why others of a suite are not. A task that is named itself is never left out in silence."""
    templates = resolve(tasks)
    named = {tasks} if isinstance(tasks, str) else set(tasks)
    left_out: dict[str, str] = {}
    for template in templates:
        missing = template.missing(sources)
        way = _WAYS.get(missing) or f"the package {missing} (pip install 'ja_llm[eval-ja]')"
        if missing and template.name in named:
            raise UsageError(f"{template.name}: this task needs {way}.")
        if missing:
            left_out[template.name] = f"it needs {way}"
    if len(left_out) == len(templates):
        raise UsageError(f"no task can run: {next(iter(left_out.values()))}.")
    return [t for t in templates if t.name not in left_out], left_out


_WAYS = {
    "root": "a document set (--documents DIR)",
    "pairs": "aligned pairs (--pairs FILE; `ja-llm fetch debian-docs` writes pairs/messages.jsonl)",
    "data": "the original files of its set (--data DIR)",
}


def format_results(results: dict[str, Any]) -> str:
    """One line a task: its headline metric, with the 95 % interval where there is one."""
    lines = [f"{results['model']} at step {results['step']}"]
    for name, task in results["tasks"].items():
        about, (low, high) = task["about"], task["interval"]
        interval = f"[{low:.4f}, {high:.4f}]"
        lines.append(
            f"  {name:<24}{task[about['headline']]:>10.4f}  {interval:<20}  {about['headline']}, {about['better']} is better"
        )
    for name, mean in results.get("suites", {}).items():
        interval = "[{:.4f}, {:.4f}]".format(*mean["interval"])
        lines.append(f"  {name:<24}{mean['value']:>10.4f}  {interval:<20}  mean of {mean['tasks']} tasks")
    lines += [f"  {name:<24}  not measured: {reason}" for name, reason in results["left_out"].items()]
    lines += [format_comparison(results["comparison"])] if "comparison" in results else []
    return "\n".join(lines)


class Runners:
    """The ways to run examples through one model, compiled once for all tasks."""

    def __init__(self, loaded: Any, batch_size: int, length: int):
        self.tokenizer = loaded.tokenizer
        self._loaded, self._batch_size, self._length = loaded, batch_size, length
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
        wanted = whole - min(map(len, prompts)) if template.total_length else template.max_new_tokens
        new_tokens = max(min(wanted, self._max_length // 2), 1)  # a small model keeps half for the prompt
        room = generator.room(new_tokens)
        fitted = [prompt if template.begins_document else prompt[-room:] for prompt in prompts]
        numbers = range(start * template.samples, (start + len(examples)) * template.samples)
        rows = [prompt for prompt in fitted for _ in range(template.samples)]
        texts = generator.continue_ids(rows, new_tokens, template.stop, sampling=sampling, cut_prompts=True, numbers=numbers)
        groups = [texts[n : n + template.samples] for n in range(0, len(texts), template.samples)]
        return [
            (max(len(prompt) - room, 0), {"prediction": group if template.samples > 1 else group[0]})
            for prompt, group in zip(prompts, groups, strict=True)
        ]

    def _score(self, template: EvaluationTask, examples: Sequence[dict[str, Any]], start: int) -> list[tuple[int, dict]]:
        length = self._max_length if template.model_window else self._length
        inputs = [example["inputs"].tolist() for example in examples]
        targets = [example["targets"].tolist() for example in examples]
        fitted = [_fitting(a, b, length) for a, b in zip(inputs, targets, strict=True)]
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
        generator = Generator(self._loaded, self._batch_size)
        generator.share_prefixes(PrefixCache(self._loaded.config, self._loaded.params))
        return generator

    def _scorer(self, length: int) -> Scorer:
        if length not in self._scorers:
            self._scorers[length] = Scorer(self._loaded, self._batch_size, length)
        return self._scorers[length]


def _fitting(inputs: list[int], targets: list[int], length: int) -> list[int]:
    """The context cut on the left, so that it and the targets stand in one window; BOS stays. A bare BOS is never cut."""
    room = length + 1 - len(targets)
    if len(inputs) <= max(room, 1):
        return inputs
    return inputs[:1] + (inputs[-(room - 1) :] if room > 1 else [])


def _run_task(
    template: EvaluationTask, runners: Runners, sources: Sources, files: TaskFiles, limit: int | None
) -> dict[str, Any]:
    task = bind(template, runners.tokenizer, sources, limit)
    examples = list(task.get_dataset(sequence_length=None, split=SPLIT, shuffle=False).as_numpy_iterator())
    size = _CHOICES if template.kind == SCORE and template.model_window else _CHUNK
    wanted = files.mine([range(start, min(start + size, len(examples))) for start in range(0, len(examples), size)])
    chunks = files.resume()[: len(wanted)]
    total = sum(map(len, wanted))
    with Progress(f"eval {template.name}", total, "example", initial=sum(map(len, chunks))) as progress:
        for places in wanted[len(chunks) :]:
            chunk = runners.run(template, examples[places.start : places.stop], places.start)
            files.append(chunk)
            chunks.append(chunk)
            progress.update(len(chunk))
    if files.process[0]:
        return files.wait()
    chunks = files.gather(chunks, -(-len(examples) // size))
    samples = [sample for chunk in chunks for sample in chunk]
    if [s["id"] for s in samples] != [e["id"].decode("utf-8") for e in examples]:
        raise JaLlmError(
            f"{files.samples_path.parent}: the stored samples of {template.name} are not of this data; remove the folder and run again."
        )
    about = {
        "lang": template.lang,
        "headline": template.headline,
        "better": template.better,
        "description": template.description,
        "signatures": {**(template.signatures() if template.signatures else {}), **_signatures(task)},
        # What the model was asked, to the letter: equal files and versions give an equal one.
        "prompts": sha256_json(
            [[example[f"{name}_pretokenized"].decode("utf-8") for name in ("inputs", "targets")] for example in examples]
        ),
    }
    metrics = compute_metrics(task, examples, samples)
    interval = [metrics[f"{template.headline}_{end}"] for end in ("low", "high")]
    result = {**metrics, "interval": interval, "contexts_cut": sum(s["cut"] > 0 for s in samples), "about": about}
    rows = _rows(task, template.headline, examples, samples)
    result |= {"items": {"rows": rows.rows.tolist(), "aggregate": rows.aggregate}} if rows else {}
    stored = [{**sample, **_shown(example)} for sample, example in zip(samples, examples, strict=True)]
    return files.finish(stored, result)


def compute_metrics(task: Any, examples: Sequence[dict[str, Any]], samples: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The seqio task's metrics of samples, as `seqio.Evaluator` computes them from model outputs."""
    metrics: dict[str, float] = {}
    for fn, inputs in _with_inputs(task, examples, samples):
        metrics |= fn(*inputs)
    return metrics


def _with_inputs(
    task: Any, examples: Sequence[dict[str, Any]], samples: Sequence[dict[str, Any]]
) -> list[tuple[Any, tuple[Any, ...]]]:
    """The task's metric functions, each with what it is called on."""
    targets = [task.postprocess_fn(None, example=example, is_target=True) for example in examples]
    found: list[tuple[Any, tuple[Any, ...]]] = []
    if task.score_metric_fns or task.predict_with_aux_metric_fns:
        scores = [sample["score"] for sample in samples]
        found += [(fn, (targets, scores)) for fn in task.score_metric_fns]
    if task.predict_metric_fns or task.predict_with_aux_metric_fns:
        texts = [task.postprocess_fn(s["prediction"], example=e, is_target=False) for s, e in zip(samples, examples, strict=True)]
        found += [(fn, (targets, texts)) for fn in task.predict_metric_fns]
        found += [(fn, (targets, texts, {"scores": scores})) for fn in task.predict_with_aux_metric_fns]
    return found


def _rows(task: Any, headline: str, examples: Sequence[dict[str, Any]], samples: Sequence[dict[str, Any]]) -> Statistic | None:
    """The headline metric as rows, for a suite's mean and a paired test."""
    for fn, inputs in _with_inputs(task, examples, samples):
        if getattr(fn, "name", "") == headline:
            return fn.statistic(*inputs)
    return None


def _signatures(task: Any) -> dict[str, str]:
    functions = [*task.score_metric_fns, *task.predict_metric_fns, *task.predict_with_aux_metric_fns]
    return {fn.name: fn.signature() for fn in functions if getattr(fn, "signature", None)}


def _shown(example: dict[str, Any], characters: int = 400) -> dict[str, Any]:
    """What a reader of the samples file wants to see beside a score: the texts, shortened, and which examples stood in front."""
    inputs, targets = (example[f"{name}_pretokenized"].decode("utf-8") for name in ("inputs", "targets"))
    shots = json.loads(example["meta"]).get("shots", [])
    return {"inputs": inputs[-characters:], "targets": targets[:characters], **({"shots": shots} if shots else {})}


def check_vocabulary(loaded: Any) -> None:
    """Refuse a model whose tokenizer has ids without an embedding row.

    Raises:
      JaLlmError: it does not fit.
    """
    if loaded.tokenizer.vocab_size > loaded.config.vocab_size:
        raise JaLlmError(
            f"{loaded.directory}: the vocabulary has {loaded.tokenizer.vocab_size} ids, but the model has "
            f"{loaded.config.vocab_size} rows; put the model's own vocabulary back."
        )


def weights_fingerprint(params: Any) -> str:
    """SHA-256 over names, shapes, types and bytes of all arrays: numbers are taken over from an earlier call for equal weights only."""
    import jax

    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path)}{leaf.shape}{leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
