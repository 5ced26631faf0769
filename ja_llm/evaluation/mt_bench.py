"""Japanese MT-Bench: 80 questions of two turns in eight categories, five drawn answers each, graded by a judge.

    DIR/mt_bench_ja/question.jsonl          question_id, category, turns [2]      (the set that Swallow's evaluation uses: Nejumi mtbench_ja v4)
    DIR/mt_bench_ja/reference_answer.jsonl  question_id, choices [{"turns": [2]}]  (FastChat's form), for coding, math and reasoning

Temperatures, lengths and the way the grades are averaged are Swallow's (facts of swallow-evaluation v202411); the judge's instructions
are in our own words, so grades are comparable between our runs with the same judge alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation.continuations import load_spread
from ja_llm.evaluation.conversation import QUESTION_ALONE, Chat, read_chat
from ja_llm.evaluation.examples import Example, Sources
from ja_llm.evaluation.generation import Generator
from ja_llm.evaluation.judge import MAX_FAILED, Endpoint, Judge, LocalModel, ratings
from ja_llm.evaluation.raw_files import RawFolder, Record
from ja_llm.evaluation.samples import TaskFiles
from ja_llm.evaluation.sampling import Sampling
from ja_llm.evaluation.statistics import Statistic, described
from ja_llm.progress import Progress
from ja_llm.text import scripts

NAME = "mt_bench_ja"
FILES = ("mt_bench_ja/question.jsonl", "mt_bench_ja/reference_answer.jsonl")
TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "stem": 0.1,
    "humanities": 0.1,
    "coding": 0.0,
    "extraction": 0.0,
    "math": 0.0,
    "reasoning": 0.0,
}
WITH_REFERENCE = ("coding", "math", "reasoning")
RUNS, NEW_TOKENS = 5, 1024
ABOUT = "A judge's grades of answers in conversations of two turns, / 10; comparable under one judge alone."

_TASK = (
    "You grade the answer of an assistant to a user's {what}. Be impartial. Look at how helpful, relevant, accurate, deep and detailed "
    "the answer is{also}. An answer in another language than Japanese is a bad one, unless the user asked for it. Write a short "
    "explanation first, then the grade from 1 to 10 in double brackets, such as: Grade: [[5]]\n\n"
)
_CORRECT = ", and above all whether it agrees with the reference answer, which is right; point out its mistakes"


def load(folder: RawFolder) -> list[Record]:
    """The questions: {"id", "category", "turns" [2], "references" [2] or []}.

    Raises:
      JaLlmError: files are missing, partial or altered; or a question of mathematics, code or reasoning has no reference.
    """
    references = {}
    for row in folder.json_lines(FILES[1]):
        choices = folder.gold(FILES[1], row, "choices", row.get("question_id"))
        if not isinstance(choices, list) or not isinstance(choices[0], dict):
            raise JaLlmError(
                f'{folder.root / FILES[1]}: "choices" of question {row.get("question_id")} is no list of objects; fetch the original again.'
            )
        references[row.get("question_id")] = folder.gold(FILES[1], choices[0], "turns", row.get("question_id"))
    found = []
    for row in folder.json_lines(FILES[0], 80):
        identity, turns = row.get("question_id"), folder.gold(FILES[0], row, "turns", row.get("question_id"))
        category = folder.gold(FILES[0], row, "category", identity)
        if category not in TEMPERATURES or len(turns) != 2:
            raise JaLlmError(
                f"{folder.root / FILES[0]}: question {identity} has the category {category!r} and {len(turns)} turns; fetch the Japanese "
                "MT-Bench, with two turns in eight categories."
            )
        reference = references.get(identity, []) if category in WITH_REFERENCE else []
        if category in WITH_REFERENCE and len(reference) != 2:
            raise JaLlmError(
                f"{folder.root / FILES[1]}: question {identity} has no reference answer of two turns; fetch the original again."
            )
        found.append({"id": str(identity), "category": category, "turns": turns, "references": reference})
    return found


def judge_prompt(question: Record, answers: Sequence[str]) -> str:
    """What the judge is asked about the last of `answers` (one or two turns)."""
    turn, references = len(answers), question["references"]
    what = "question" if turn == 1 else "second question in a conversation; grade the second answer alone"
    text = _TASK.format(what=what, also=_CORRECT if references else "")
    for name, number in (("question", 1), ("second question", 2))[:turn]:
        text += f"<{name}>\n{question['turns'][number - 1]}\n</{name}>\n\n"
        if references:
            text += f"<reference answer>\n{references[number - 1]}\n</reference answer>\n\n"
        text += f"<assistant's answer>\n{answers[number - 1]}\n</assistant's answer>\n\n"
    return text


def examples(sources: Sources, limit: int | None) -> list[Example]:
    """The questions as a registered task has them: the first turn is what is asked, the notes have all."""
    return [
        {"id": q["id"], "inputs": q["turns"][0], "targets": "", "meta": {**q, "asked": q["turns"][0]}}
        for q in load(sources.raw())[:limit]
    ]


def write_answers(
    loaded: Any, questions: Sequence[Record], files: TaskFiles, *, chat: Chat, runs: int, batch_size: int
) -> list[list[Record]]:
    """Both turns' answers to each question in each run: [runs][questions] of {"id", "run", "cut", "answers" [2]}.

    What is written greedily is the same in every run, so it is written once. Finished batches are taken from disk; each process
    writes its share, and the first gathers them ([] for the others).
    """
    generator = Generator(loaded, batch_size, ends=chat.ends(loaded))
    batches = []
    for run in range(runs):
        for temperature in sorted(set(TEMPERATURES.values())):
            places = [n for n, q in enumerate(questions) if TEMPERATURES[q["category"]] == temperature]
            if temperature > 0 or run == 0:
                batches += [(run, temperature, places[n : n + batch_size]) for n in range(0, len(places), batch_size)]
    wanted = files.mine(batches)
    done = files.resume()[: len(wanted)]
    with Progress(f"eval {NAME}", sum(len(b[2]) for b in wanted), "conversation", initial=sum(map(len, done))) as progress:
        for run, temperature, places in wanted[len(done) :]:
            chunk = _converse(loaded, generator, questions, places, chat, run, temperature)
            files.append(chunk)
            done.append(chunk)
            progress.update(len(chunk))
    if files.process[0]:
        return []
    found = {(s["run"], s["id"]): s for chunk in files.gather(done, len(batches)) for s in chunk}
    return [[found.get((run, q["id"])) or {**found[0, q["id"]], "run": run} for q in questions] for run in range(runs)]


def _converse(
    loaded: Any,
    generator: Generator,
    questions: Sequence[Record],
    places: Sequence[int],
    chat: Chat,
    run: int,
    temperature: float,
) -> list[Record]:
    """Both turns of some questions of one temperature."""
    tokenizer, new_tokens = loaded.tokenizer, min(NEW_TOKENS, loaded.config.max_length // 2)
    said: list[list[str]] = [[] for _ in places]
    cut = [0] * len(places)
    for turn in range(2):
        said = [[*texts, questions[n]["turns"][turn]] for texts, n in zip(said, places, strict=True)]
        prompts = [chat.ids(tokenizer, texts) for texts in said]
        cut = [max(before, len(p) + new_tokens - loaded.config.max_length) for before, p in zip(cut, prompts, strict=True)]
        texts = generator.continue_ids(
            prompts,
            new_tokens,
            chat.stop,
            sampling=Sampling(temperature=temperature),
            seed=run,
            cut_prompts=True,
            numbers=[2 * n + turn for n in places],
        )
        said = [[*before, text.strip()] for before, text in zip(said, texts, strict=True)]
    return [
        {"id": questions[n]["id"], "run": run, "cut": lost, "answers": texts[1::2]}
        for n, lost, texts in zip(places, cut, said, strict=True)
    ]


def _graded(grades: np.ndarray) -> Statistic | None:
    """Grades [runs, questions, turns] as a measure over questions: the mean over runs of each one's valid grades, in 0..1."""
    if not np.isfinite(grades).any(axis=(1, 2)).all():
        return None
    sums, counts = np.nansum(grades, axis=2) / 10, np.isfinite(grades).sum(axis=2)
    return Statistic(np.concatenate([sums, counts]).T, "mean_of_runs")


def summarise(questions: Sequence[Record], runs: Sequence[Sequence[Record]], grades: np.ndarray) -> dict[str, Any]:
    """Scores in 0..1 from grades 1..10, float [runs, questions, turns], NaN where one is missing.

    A score is the mean over the valid grades within a run, then over runs; its error and interval are of the bootstrap over questions.

    Raises:
      JaLlmError: a run has no valid grade.
    """
    whole = _graded(grades)
    if whole is None:
        raise JaLlmError("a run has no valid grade at all; ask the judge again.")
    of_runs = np.nanmean(grades, axis=(1, 2)) / 10
    parts = {"score": whole} | {f"turn_{turn + 1}": _graded(grades[:, :, turn : turn + 1]) for turn in range(2)}
    for category in TEMPERATURES:
        places = [n for n, q in enumerate(questions) if q["category"] == category]
        parts[category] = _graded(grades[:, places]) if places else None
    numbers: dict[str, Any] = {}
    for name, statistic in parts.items():
        if statistic is not None:
            value = described(statistic)
            low, high = value["interval"]
            error = value["standard_error"]
            numbers |= {name: value["value"], f"{name}_standard_error": error, f"{name}_low": low, f"{name}_high": high}
    texts = [answer for run in runs for sample in run for answer in sample["answers"]]
    return {
        **numbers,
        "score_deviation_of_runs": float(of_runs.std(ddof=1)) if len(of_runs) > 1 else 0.0,
        "japanese_share": _japanese_share(texts),
        "n_valid": float(np.isfinite(grades).sum()),
        "n": float(grades.size),
        "items": {"rows": whole.rows.tolist(), "aggregate": whole.aggregate},
    }


def _japanese_share(texts: Sequence[str]) -> float:
    """Share of Japanese characters among all letters of the answers."""
    counts = [scripts.count(text) for text in texts]
    letters = sum(c.letters for c in counts)
    return sum(c.japanese for c in counts) / letters if letters else 0.0


def measure(
    loaded: Any,
    questions: Sequence[Record],
    out: Path,
    request: Mapping[str, Any],
    judge: Judge,
    *,
    chat: Chat | None = None,
    runs: int = RUNS,
    batch_size: int = 16,
    max_failed: float = MAX_FAILED,
    process: tuple[int, int] = (0, 1),
) -> dict[str, Any]:
    """Measure a model on the Japanese MT-Bench.

    Args:
      loaded: `ja_llm.train.checkpoints.LoadedModel`.
      questions: of `load`.
      out: where the answers and the results go (mt_bench_ja.samples.jsonl and .json); a killed call goes on there.
      request: what decides the numbers; all but its "judge" decides whether stored answers are taken over.
      judge: grades the answers; wrap it in `judge.Replay` to ask once.
      chat: how a conversation becomes a prompt.
      runs: drawn answers to each question.
      batch_size: rows in a forward pass.
      max_failed: share of grades that may be missing.
      process: (number, how many) of this process; the first one asks the judge.

    Returns:
      `summarise`'s numbers with "judge", "interval" and "about", as it is also written.

    Raises:
      UsageError, JaLlmError: as of `ratings`, or no run is asked for.
    """
    if runs < 1:
        raise UsageError(f"{runs} runs are asked for; give at least 1.")
    files = TaskFiles(out, NAME, {**request, "judge": judge.name}, process)
    if result := files.finished():
        return result
    of_answers = {key: value for key, value in request.items() if key != "judge"} | {"runs": runs}
    answers = TaskFiles(out, f"{NAME}.answers", of_answers, process)
    found = write_answers(loaded, questions, answers, chat=chat or Chat(), runs=runs, batch_size=batch_size)
    if process[0]:
        return files.wait()
    asked = [
        judge_prompt(q, s["answers"][: turn + 1])
        for run in found
        for q, s in zip(questions, run, strict=True)
        for turn in range(2)
    ]
    different = list(dict.fromkeys(asked))  # what was written once is graded once
    given = dict(zip(different, ratings(judge, different, max_failed=max_failed), strict=True))
    grades = np.array([np.nan if given[text] is None else given[text] for text in asked], np.float64)
    grades = grades.reshape(runs, len(questions), 2)
    numbers = summarise(questions, found, grades)
    about = {"lang": "ja", "headline": "score", "better": "higher", "signatures": {"score": judge.name}, "description": ABOUT}
    samples = [
        {**sample, "category": q["category"], "grades": [g if np.isfinite(g) else None for g in grades[number, place]]}
        for number, run in enumerate(found)
        for place, (q, sample) in enumerate(zip(questions, run, strict=True))
    ]
    result = {**numbers, "interval": [numbers["score_low"], numbers["score_high"]], "judge": judge.name, "about": about}
    result |= {"contexts_cut": sum(s["cut"] > 0 for s in samples)}
    result |= {"empty": sum(not text for s in samples for text in s["answers"])}
    return files.finish(samples, result)


def chosen_judge(
    url: str | None,
    model: str,
    key_file: str | Path | None,
    checkpoint: str | None,
    chat_file: str | Path | None,
    options: Mapping[str, Any],
) -> Judge | None:
    """The judge that the command line names; None where it names none.

    Args:
      url: of an OpenAI-compatible endpoint.
      model: its name there.
      key_file: text file with the endpoint's key.
      checkpoint: one of our checkpoints as the judge instead.
      chat_file: JSON object with the fields of `Chat`, for the checkpoint.
      options: see `Endpoint`; of a checkpoint only max_tokens.

    Raises:
      UsageError: two judges, one without a name, or a file that can't be read.
    """
    if url and checkpoint:
        raise UsageError(f"{NAME}: this task needs one judge; give --judge_url with --judge_model, or --judge_checkpoint.")
    if url and not model:
        raise UsageError(f"{url}: this judge needs the name of its model, which stands in the results; give --judge_model.")
    if url:
        return Endpoint(url, model, _key(key_file), options)
    if not checkpoint:
        return None
    if unknown := set(options) - {"max_tokens"}:
        raise UsageError(
            f"{checkpoint}: a checkpoint as the judge writes greedily and takes max_tokens alone; drop {min(unknown)}."
        )
    max_tokens = int(options.get("max_tokens", 512))
    return LocalModel(load_spread(checkpoint), max_tokens, read_chat(chat_file) if chat_file else QUESTION_ALONE)


def _key(path: str | Path | None) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip() if path else ""
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"{path}: this file with the judge's key can't be read; give a text file.") from None
