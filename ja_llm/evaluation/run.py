"""Runs evaluation tasks on one checkpoint: `ja-llm eval`.

Each task is bound as a seqio task; its examples are scored or continued in fixed chunks, each chunk is stored, and the
task's own metric functions turn all samples into numbers. Results depend on the request alone (model, data, settings): a
killed evaluation goes on with the next chunk and ends in the same numbers.
"""

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ja_llm import sharding, storage
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation import code_metrics, contamination, mt_bench
from ja_llm.evaluation.compare import compare, format_comparison, read_baseline, statistic_of
from ja_llm.evaluation.continuations import load_spread, parse_mesh, text_ends
from ja_llm.evaluation.examples import Example, Sources
from ja_llm.evaluation.judge import Judge, Replay, graded
from ja_llm.evaluation.raw_files import MissingFile
from ja_llm.evaluation.registry import JUDGED, SCORE, SPLIT, EvaluationTask, averaged_suites, bind, resolve, suites, with_options
from ja_llm.evaluation.requests import code_fingerprint, prompts_fingerprint, request, same_request, weights_fingerprint
from ja_llm.evaluation.runners import Runners
from ja_llm.evaluation.samples import TaskFiles, alive, finished_tasks
from ja_llm.evaluation.statistics import Statistic, suite_mean
from ja_llm.files import write_json
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
    options: Mapping[str, str] | None = None,
    judge: Judge | None = None,
    chat: mt_bench.Chat | None = None,
) -> dict[str, Any]:
    """Evaluate one checkpoint.

    Args:
      model_path: model directory, or DIR@STEP.
      tasks: suite, task, or a list of them. A suite's task whose source, package or original file is not there is left out
        and listed under "left_out".
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
      options: choices of the profile that are made otherwise (`profiles.py`), such as {"begins_document": "yes"}.
      judge: grades conversations (mt_bench_ja); its answers are kept in OUT/judge.jsonl and asked for once.
      chat: how a conversation becomes a prompt; a plain form when None.

    Returns:
      What is also written to OUT/results.json: "model", "step", "settings", and under "tasks" for each task its metrics,
      the headline metric's 95 % "interval" [low, high], and "about" (headline, direction, meaning, signatures). Tasks that
      an earlier call finished in OUT with the same model, data and settings stand there too, after this call's. "suites" has
      the mean, its standard error and interval of each suite all of whose tasks stand there; of a suite that was asked for also that of
      the tasks that do, with those that do not under "missing".

    Raises:
      UsageError, JaLlmError: a model, vocabulary, document set or pairs file is missing or does not fit; or another process
        shows no sign of life for ten minutes.
    """
    if not 0 <= process[0] < process[1]:
        raise UsageError(f"process {process[0]} of {process[1]} is asked for; they are counted from 0, so give a smaller number.")
    if any(number is not None and number < 1 for number in (limit, documents)):
        raise UsageError(f"the limit is {limit} and documents {documents}; each must be at least 1.")
    tasks = with_options(tasks, options or {})
    sources = Sources(root, pairs, data, judge)
    base = read_baseline(baseline) if baseline else None
    if out_dir:
        writable_folder(out_dir)
    # Before the model is loaded: hours later is too late to hear that a file is missing or a record has no gold.
    plan, left_out = _runnable(tasks, sources, limit)
    if any(item.template.runs_code for item in plan):
        code_metrics.allow(run_generated_code_without_sandbox)
    devices = sharding.make_mesh(parse_mesh(mesh)) if mesh else None
    loaded = load_spread(str(model_path), devices)
    check_vocabulary(loaded)
    length = min(length, loaded.config.max_length)
    if out_dir is None and storage.is_remote(loaded.directory):
        raise UsageError(f"{loaded.directory}: results are written to local folders only; say where with --out DIR.")
    out = Path(out_dir) if out_dir else loaded.directory / "eval" / f"step_{loaded.step}"
    settings: dict[str, Any] = {"limit": limit, "documents": documents, "batch_size": batch_size, "length": length}
    settings |= {"mesh": mesh} if mesh else {}
    settings |= {"without_sandbox": True} if run_generated_code_without_sandbox else {}
    settings |= (
        {"judge": judge.name, "chat": {**dataclasses.asdict(chat := chat or mt_bench.Chat()), "stop": list(chat.stop)}}
        if judge
        else {}
    )
    identity = {"weights": weights_fingerprint(loaded.params), "vocabulary": loaded.tokenizer.fingerprint, "step": loaded.step}
    identity |= {"ends": ends} if (ends := text_ends(loaded)) else {}
    runners = Runners(loaded, batch_size * (devices.shape["data"] * devices.shape["fsdp"] if devices else 1), length)
    results: dict[str, Any] = {}
    with sharding.use(devices) if devices else contextlib.nullcontext(), alive(out, process):
        for item in plan:
            asked = request(item.template, identity, item.data, settings, item.prompts)
            if item.template.kind == JUDGED and judge:
                kept, questions = Replay(judge, out / "judge.jsonl", worth=graded), [e["meta"] for e in item.examples or ()]
                results[item.template.name] = mt_bench.measure(
                    loaded, questions, out, asked, kept, chat=chat, batch_size=runners.batch_size, process=process
                )
                continue
            files = TaskFiles(out, item.template.name, asked, process)
            results[item.template.name] = files.finished() or _run_task(item, runners, sources, files, asked["examples"])
    known = _join_earlier(results, out, identity, settings, sources)
    tested = {path: digest for r in results.values() for path, digest in r["request"]["data"].get("files", {}).items()}
    unlisted = sources.raw().unlisted(tested) if tested and data else []
    left_out = {name: why for name, why in {**_left_out_before(out, identity), **left_out}.items() if name not in results}
    value = {
        "schema": SCHEMA,
        "model": loaded.directory.name,
        "step": loaded.step,
        "identity": identity,
        "code": code_fingerprint(),
        "data": {**known, "files": tested} if tested else known,
        **({"unlisted": unlisted} if unlisted else {}),
        "settings": settings,
        "tasks": {
            name: {k: v for k, v in r.items() if k not in ("request", "request_hash", "items")} for name, r in results.items()
        },
        "suites": _suite_means(results, tasks),
        "left_out": left_out,
        "software": software(*_PACKAGES),
        **({"comparison": compare(results, base)} if base else {}),
    }
    for name, found in _contaminated(plan, training, results).items():
        value["tasks"][name]["contamination"] = found
    if process[0] == 0:
        write_json(out / "results.json", value)
    return value


def writable_folder(out: str | Path) -> Path:
    """The folder for results, which may not be there yet.

    Raises:
      UsageError: it is a file.
    """
    if Path(out).exists() and not Path(out).is_dir():
        raise UsageError(f"{out}: results are a folder, and this is a file; give another name with --out DIR.")
    return Path(out)


@dataclasses.dataclass(frozen=True)
class _Planned:
    """A task that can run: its data's identity and, where it is made of original files, its examples."""

    template: EvaluationTask
    data: dict[str, Any]
    examples: list[Example] | None = None

    @property
    def prompts(self) -> str | None:
        return None if self.examples is None else prompts_fingerprint(self.examples)


def _join_earlier(
    results: dict[str, Any], out: Path, identity: dict[str, Any], settings: dict[str, Any], sources: Sources
) -> dict[str, str]:
    """Add what earlier calls measured under the same request; returns the identity of all documents and pairs that were read."""
    known = sources.fingerprint()
    for name, result in finished_tasks(out).items():
        if name not in results and same_request(name, result["request"], identity, known, settings, sources):
            results[name] = result
            known = {**{k: v for k, v in result["request"]["data"].items() if k != "files"}, **known}
    return known


def _contaminated(
    plan: Sequence[_Planned], training: Sequence[str | Path], results: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Each published set's headline on clean and seen items; the training documents are read once for all sets."""
    found: dict[str, tuple[Statistic, list[str]]] = {}
    texts: dict[str, list[str]] = {}
    for item in plan if training else ():
        name, statistic = item.template.name, statistic_of(results[item.template.name])
        if item.examples is None or statistic is None:
            continue
        items = contamination.item_texts(name, item.examples)
        texts |= items
        found[name] = statistic, list(items)
    if not found:
        return {}
    documents = (text for root in training for text in Sources(root).training_texts())
    seen = contamination.search(texts, documents)
    return {name: contamination.parts(statistic, items, seen) for name, (statistic, items) in found.items()}


def _suite_means(results: dict[str, dict[str, Any]], wanted: str | Sequence[str]) -> dict[str, dict[str, Any]]:
    """The mean of each suite all of whose tasks were measured, and of those that were asked for as far as they were.

    What is missing is named: such a mean is of other tasks than the whole one's, and the two must not be compared.
    """
    found = {name: statistic for name, result in results.items() if (statistic := statistic_of(result))}
    averaged = {suite: members for suite, members in suites().items() if suite in averaged_suites()}
    named = {wanted} if isinstance(wanted, str) else set(wanted)
    asked = {name for suite in named for name in suites().get(suite, ())}
    means = {}
    for suite, members in averaged.items():
        there, missing = ([n for n in members if (n in found) == known] for known in (True, False))
        if there and (not missing or asked.issuperset(members)):
            means[suite] = {**suite_mean({n: found[n] for n in there}), "tasks": len(there)}
            means[suite] |= {"missing": missing} if missing else {}
    return means


def _left_out_before(out: Path, identity: dict[str, Any]) -> dict[str, str]:
    """What an earlier call on the same model left out, and why."""
    try:
        value = json.loads((out / "results.json").read_text(encoding="utf-8"))
        return dict(value["left_out"]) if value["identity"] == identity else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _runnable(tasks: str | Sequence[str], sources: Sources, limit: int | None) -> tuple[list[_Planned], dict[str, str]]:
    """The tasks to run, and why others of a suite are not. A task that is named itself is never left out in silence.

    Raises:
      UsageError, JaLlmError: a task that was named, or all of them, can't run; or a file is partial or altered.
    """
    named = {tasks} if isinstance(tasks, str) else set(tasks)
    plan: list[_Planned] = []
    left_out: dict[str, str] = {}
    for template in resolve(tasks):
        missing = template.missing(sources)
        way = _WAYS.get(missing) or f"the package {missing} (pip install 'ja_llm[eval-ja]')"
        if missing and template.name in named:
            raise UsageError(f"{template.name}: this task needs {way}.")
        if missing:
            left_out[template.name] = f"it needs {way}"
            continue
        try:
            data = template.data(sources)
        except MissingFile as error:
            if template.name in named:
                raise
            left_out[template.name] = str(error).rstrip(".")
            continue
        plan.append(_Planned(template, data, template.examples(sources, limit) if template.files else None))
    if not plan:
        raise UsageError(f"no task can run: {next(iter(left_out.values()))}.")
    return plan, left_out


_WAYS = {
    "root": "a document set (--documents DIR)",
    "pairs": "aligned pairs (--pairs FILE; `ja-llm fetch debian-docs` writes pairs/messages.jsonl)",
    "data": "the original files of its set (--data DIR)",
    "judge": "one judge (--judge_url URL with --judge_model NAME, or --judge_checkpoint C)",
}


def format_results(results: dict[str, Any]) -> str:
    """One line a task: its headline metric, with the 95 % interval where there is one."""
    lines = [f"{results['model']} at step {results['step']}"]
    for name, task in results["tasks"].items():
        about, (low, high) = task["about"], task["interval"]
        interval = f"[{low:.4f}, {high:.4f}]"
        lines.append(
            f"  {name:<24}{task[about['headline']]:>10.4f}  {interval:<20}  {about['headline']}, {about['better']} is better"
            + (f"; {task['contexts_cut']} contexts shortened" if task.get("contexts_cut") else "")
            + (f"; {task['empty']:.0f} answers empty" if task.get("empty") else "")
            + (f"; n_valid {task['n_valid']:.0f} of {task['n']:.0f} grades, judge {task['judge']}" if "judge" in task else "")
        )
        lines += [f"  {name:<24}    warning: {warning}" for warning in task.get("warnings", ())]
    for name, mean in results.get("suites", {}).items():
        interval = "[{:.4f}, {:.4f}]".format(*mean["interval"])
        missing = mean.get("missing", [])
        of = f"{mean['tasks']} tasks" + (f" of {mean['tasks'] + len(missing)}: incomplete" if missing else "")
        lines.append(f"  {name:<24}{mean['value']:>10.4f}  {interval:<20}  mean of {of}")
    lines += [f"  {name:<24}    note: not in SHA256SUMS; its records were counted" for name in results.get("unlisted", ())]
    lines += [f"  {name:<24}    not measured: {reason}" for name, reason in results["left_out"].items()]
    lines += [format_comparison(results["comparison"])] if "comparison" in results else []
    return "\n".join(lines)


def _run_task(item: _Planned, runners: Runners, sources: Sources, files: TaskFiles, limit: int | None) -> dict[str, Any]:
    template = item.template
    task = bind(template, runners.tokenizer, sources, limit, item.examples)
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
        "prompts": item.prompts or _asked(examples),
    }
    metrics = compute_metrics(task, examples, samples)
    interval = [metrics[f"{template.headline}_{end}"] for end in ("low", "high")]
    result = {**metrics, "interval": interval, "contexts_cut": sum(s["cut"] > 0 for s in samples), "about": about}
    result |= {"empty": _empty(samples)} if template.kind != SCORE and "empty" not in metrics else {}
    result |= _remarks(template, metrics)
    for fn, inputs in _with_inputs(task, examples, samples):
        result |= {"domains": fn.parts(*inputs)} if hasattr(fn, "parts") else {}
    rows = _rows(task, template.headline, examples, samples)
    result |= {"items": {"rows": rows.rows.tolist(), "aggregate": rows.aggregate}} if rows else {}
    stored = [{**sample, **_shown(example)} for sample, example in zip(samples, examples, strict=True)]
    return files.finish(stored, result)


def _asked(examples: Sequence[dict[str, Any]]) -> str:
    """`prompts_fingerprint` of a seqio task's examples."""
    return prompts_fingerprint(
        [{name: example[f"{name}_pretokenized"].decode("utf-8") for name in ("inputs", "targets")} for example in examples]
    )


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


def _remarks(template: EvaluationTask, metrics: Mapping[str, float]) -> dict[str, list[str]]:
    """Warnings that belong beside a score: one generated token that is hardly ever a label measures the tokenizer, not the model."""
    share = metrics.get("answer_is_a_label", 1.0)
    if share >= 0.5:
        return {}
    return {
        "warnings": [
            f"{share:.0%} of the answers of one token are a label at all, so {template.headline} says little of this model (its tokenizer may "
            "begin with a space or a line end); the profile strict takes the labels' likelihoods"
        ]
    }


def _empty(samples: Sequence[dict[str, Any]]) -> int:
    """Texts without a character that is no white space."""
    texts = [text for s in samples for text in (s["prediction"] if isinstance(s["prediction"], list) else [s["prediction"]])]
    return sum(not text.strip() for text in texts)


def _shown(example: dict[str, Any], characters: int = 400) -> dict[str, Any]:
    """What a reader of the samples file wants to see beside a score: the texts, shortened, and which examples stood in front."""
    inputs, targets = (example[f"{name}_pretokenized"].decode("utf-8") for name in ("inputs", "targets"))
    meta = json.loads(example["meta"])
    beside = {key: meta[key] for key in ("question", "choice", "label") if "choice" in meta}
    beside |= {"shots": meta["shots"]} if meta.get("shots") else {}
    return {"inputs": inputs[-characters:], "targets": targets[:characters], **beside}


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
