"""Japanese MT-Bench: 80 questions of two turns in eight categories, five drawn answers each, graded by a judge.

    DIR/mt_bench_ja/question.jsonl          question_id, category, turns [2]      (the set that Swallow's evaluation uses: Nejumi mtbench_ja v4)
    DIR/mt_bench_ja/reference_answer.jsonl  question_id, choices [{"turns": [2]}]  (FastChat's form), for coding, math and reasoning

Temperatures, lengths and the way the grades are averaged are Swallow's (facts of swallow-evaluation v202411); the judge's instructions
are in our own words, so grades are comparable between our runs with the same judge alone.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ja_llm import sharding
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation.continuations import load_spread, parse_mesh
from ja_llm.evaluation.examples import Sources
from ja_llm.evaluation.generation import Generator
from ja_llm.evaluation.judge import MAX_FAILED, Endpoint, Judge, LocalModel, Replay, ratings
from ja_llm.evaluation.raw_files import RawFolder, Record
from ja_llm.evaluation.requests import weights_fingerprint
from ja_llm.evaluation.samples import TaskFiles
from ja_llm.evaluation.sampling import Sampling
from ja_llm.evaluation.statistics import Statistic, described
from ja_llm.files import read_json
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

_TASK = (
    "You grade the answer of an assistant to a user's {what}. Be impartial. Look at how helpful, relevant, accurate, deep and detailed "
    "the answer is{also}. An answer in another language than Japanese is a bad one, unless the user asked for it. Write a short "
    "explanation first, then the grade from 1 to 10 in double brackets, such as: Grade: [[5]]\n\n"
)
_CORRECT = ", and above all whether it agrees with the reference answer, which is right; point out its mistakes"


@dataclasses.dataclass(frozen=True)
class Chat:
    """How a conversation becomes a prompt.

    Attributes:
      user: stands around the user's text, which is written {text}.
      assistant: stands before the assistant's answer; with it a prompt ends.
      between: stands behind an answer.
      stop: texts at which an answer ends.
    """

    user: str = "ユーザー: {text}\n"
    assistant: str = "アシスタント: "
    between: str = "\n"
    stop: tuple[str, ...] = ("\nユーザー:",)

    def prompt(self, said: Sequence[str]) -> str:
        """The prompt for the next answer; `said` alternates, the user's text first and last."""
        text = "".join(
            self.user.replace("{text}", t) if n % 2 == 0 else f"{self.assistant}{t}{self.between}" for n, t in enumerate(said)
        )
        return text + self.assistant


def load(folder: RawFolder) -> list[Record]:
    """The questions: {"id", "category", "turns" [2], "references" [2] or []}.

    Raises:
      JaLlmError: files are missing, partial or altered; or a question of mathematics, code or reasoning has no reference.
    """
    references = {}
    for row in folder.json_lines(FILES[1]):
        choices = folder.gold(FILES[1], row, "choices", row.get("question_id"))
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


def write_answers(
    loaded: Any, questions: Sequence[Record], files: TaskFiles, *, chat: Chat, runs: int, batch_size: int
) -> list[list[Record]]:
    """Both turns' answers to each question in each run: [runs][questions] of {"id", "answers" [2]}; finished runs are taken from disk."""
    generator = Generator(loaded, batch_size)
    new_tokens = min(NEW_TOKENS, loaded.config.max_length // 2)
    done = files.resume()[:runs]
    with Progress(f"eval {NAME}", runs * len(questions), "answer", initial=len(done) * len(questions)) as progress:
        for run in range(len(done), runs):
            said: list[list[str]] = [[q["turns"][0]] for q in questions]
            for turn in range(2):
                if turn:
                    said = [[*texts, q["turns"][1]] for texts, q in zip(said, questions, strict=True)]
                for temperature in sorted(set(TEMPERATURES.values())):
                    places = [n for n, q in enumerate(questions) if TEMPERATURES[q["category"]] == temperature]
                    tokenizer = loaded.tokenizer
                    prompts = [[tokenizer.bos_id, *tokenizer.encode(chat.prompt(said[n]))] for n in places]
                    texts = generator.continue_ids(
                        prompts,
                        new_tokens,
                        chat.stop,
                        sampling=Sampling(temperature=temperature),
                        seed=run,
                        cut_prompts=True,
                        numbers=[2 * n + turn for n in places],
                    )
                    for place, text in zip(places, texts, strict=True):
                        said[place].append(text.strip())
            chunk = [{"id": q["id"], "answers": texts[1::2]} for q, texts in zip(questions, said, strict=True)]
            files.append(chunk)
            done.append(chunk)
            progress.update(len(chunk))
    return done


def summarise(questions: Sequence[Record], runs: Sequence[Sequence[Record]], grades: np.ndarray) -> dict[str, Any]:
    """Scores in 0..1 from grades 1..10, float [runs, questions, turns], NaN where one is missing.

    The score is the mean over the valid grades within a run, then over runs; its interval is of the bootstrap over questions.

    Raises:
      JaLlmError: no grade is valid.
    """
    if not np.isfinite(grades).any(axis=(1, 2)).all():
        raise JaLlmError("a run has no valid grade at all; ask the judge again.")
    of_runs = np.nanmean(grades, axis=(1, 2)) / 10
    rows = grades.transpose(1, 0, 2).reshape(len(questions), -1) / 10
    sums = Statistic(np.stack([np.nansum(rows, axis=1), np.isfinite(rows).sum(axis=1)], axis=1), "ratio")
    low, high = described(sums)["interval"]
    categories = {c: [n for n, q in enumerate(questions) if q["category"] == c] for c in TEMPERATURES}
    texts = [answer for run in runs for sample in run for answer in sample["answers"]]
    return {
        "score": float(of_runs.mean()),
        "score_low": low,
        "score_high": high,
        "score_deviation_of_runs": float(of_runs.std(ddof=1)) if len(of_runs) > 1 else 0.0,
        **{
            f"turn_{turn + 1}": float(np.nanmean(grades[:, :, turn]) / 10)
            for turn in range(2)
            if np.isfinite(grades[:, :, turn]).any()
        },
        **{
            c: float(np.nanmean(grades[:, places]) / 10)
            for c, places in categories.items()
            if np.isfinite(grades[:, places]).any()
        },
        "japanese_share": _japanese_share(texts),
        "empty_answers": float(sum(not text for text in texts)),
        "n_valid": float(np.isfinite(grades).sum()),
        "n": float(grades.size),
    }


def _japanese_share(texts: Sequence[str]) -> float:
    """Share of Japanese characters among all letters of the answers."""
    counts = [scripts.count(text) for text in texts]
    letters = sum(c.letters for c in counts)
    return sum(c.japanese for c in counts) / letters if letters else 0.0


def evaluate(
    loaded: Any,
    data: str | Path,
    out: str | Path,
    judge: Judge,
    *,
    chat: Chat | None = None,
    runs: int = RUNS,
    limit: int | None = None,
    batch_size: int = 16,
    max_failed: float = MAX_FAILED,
    identity: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure a model on the Japanese MT-Bench.

    Args:
      loaded: `ja_llm.train.checkpoints.LoadedModel`.
      data: folder of original files.
      out: where the answers and the results go (mt_bench_ja.samples.jsonl and .json); a killed call goes on there.
      judge: grades the answers; wrap it in `judge.Replay` to ask once.
      chat: how a conversation becomes a prompt.
      runs: drawn answers to each question.
      limit: questions at most.
      batch_size: rows in a forward pass.
      max_failed: share of grades that may be missing.
      identity: of the model, for the request that decides whether stored answers are taken over.

    Returns:
      `summarise`'s numbers with "judge", "interval" and "about", as it is also written.

    Raises:
      UsageError, JaLlmError: as of `load` and `ratings`.
    """
    if runs < 1:
        raise UsageError(f"{runs} runs are asked for; give at least 1.")
    chat, sources = chat or Chat(), Sources(data=data)
    questions = load(sources.raw())[:limit]
    request = {"task": NAME, "version": 1, "model": dict(identity or {}), "data": {"files": sources.raw().checksums(FILES)}}
    request |= {"chat": dataclasses.asdict(chat), "runs": runs, "examples": limit, "batch_size": batch_size}
    out = Path(out)
    found = write_answers(
        loaded, questions, TaskFiles(out, f"{NAME}.answers", request), chat=chat, runs=runs, batch_size=batch_size
    )
    asked = [
        judge_prompt(q, s["answers"][: turn + 1])
        for run in found
        for q, s in zip(questions, run, strict=True)
        for turn in range(2)
    ]
    given = ratings(judge, asked, max_failed=max_failed)
    grades = np.array([np.nan if g is None else g for g in given], np.float64).reshape(runs, len(questions), 2)
    numbers = summarise(questions, found, grades)
    about = {"lang": "ja", "headline": "score", "better": "higher", "signatures": {"judge": judge.name}}
    about["description"] = "A judge's grades of answers in conversations of two turns, / 10; comparable under one judge alone."
    samples = [
        {
            **sample,
            "run": number,
            "category": q["category"],
            "grades": [g if np.isfinite(g) else None for g in grades[number, place]],
        }
        for number, run in enumerate(found)
        for place, (q, sample) in enumerate(zip(questions, run, strict=True))
    ]
    result = {**numbers, "interval": [numbers["score_low"], numbers["score_high"]], "judge": judge.name, "about": about}
    return TaskFiles(out, NAME, {**request, "judge": judge.name}).finish(samples, result)


def evaluate_checkpoint(
    checkpoint: str,
    data: str | Path,
    out: str | Path | None,
    *,
    judge_url: str | None = None,
    judge_model: str = "",
    judge_key_file: str | Path | None = None,
    judge_checkpoint: str | None = None,
    chat_file: str | Path | None = None,
    limit: int | None = None,
    mesh: str | None = None,
) -> dict[str, Any]:
    """`ja-llm eval --task mt_bench_ja`: see `evaluate`. The judge's answers are kept in OUT/judge.jsonl and asked for once.

    Args:
      checkpoint: model directory, or DIR@STEP.
      data: folder of original files.
      out: where results go; CHECKPOINT/eval/step_N when None.
      judge_url: of an OpenAI-compatible endpoint.
      judge_model: its name there.
      judge_key_file: text file with the endpoint's key.
      judge_checkpoint: one of our checkpoints as the judge instead.
      chat_file: JSON object with the fields of `Chat`.
      limit: questions at most.
      mesh: devices along the mesh axes.

    Raises:
      UsageError: no judge, or two, or a file that can't be read; else as `evaluate`.
    """
    if bool(judge_url) == bool(judge_checkpoint):
        raise UsageError(f"{NAME}: this task needs one judge; give --judge_url with --judge_model, or --judge_checkpoint.")
    if judge_url and not judge_model:
        raise UsageError(f"{judge_url}: this judge needs the name of its model, which stands in the results; give --judge_model.")
    chat = Chat(**_chat(chat_file)) if chat_file else None
    grader: Judge = (
        Endpoint(judge_url, judge_model, _key(judge_key_file)) if judge_url else LocalModel(load_spread(str(judge_checkpoint)))
    )
    devices = sharding.make_mesh(parse_mesh(mesh)) if mesh else None
    with sharding.use(devices) if devices else contextlib.nullcontext():
        loaded = load_spread(checkpoint, devices)
        folder = Path(out) if out else loaded.directory / "eval" / f"step_{loaded.step}"
        identity = {
            "weights": weights_fingerprint(loaded.params),
            "vocabulary": loaded.tokenizer.fingerprint,
            "step": loaded.step,
        }
        return evaluate(loaded, data, folder, Replay(grader, folder / "judge.jsonl"), chat=chat, limit=limit, identity=identity)


def _chat(path: str | Path) -> dict[str, Any]:
    value = read_json(path, "chat format")
    names = {field.name for field in dataclasses.fields(Chat)}
    if not isinstance(value, dict) or set(value) - names or "{text}" not in value.get("user", "{text}"):
        raise UsageError(
            f"{path}: this chat format is no object of {', '.join(sorted(names))} with {{text}} in user; correct it."
        )
    return {**value, **({"stop": tuple(value["stop"])} if "stop" in value else {})}


def _key(path: str | Path | None) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip() if path else ""
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"{path}: this file with the judge's key can't be read; give a text file.") from None


def format_result(result: Mapping[str, Any]) -> str:
    """A few lines for the terminal."""
    low, high = result["interval"]
    lines = [
        f"{NAME}, judged by {result['judge']}",
        f"  score {result['score']:.4f}  [{low:.4f}, {high:.4f}], deviation of runs {result['score_deviation_of_runs']:.4f}",
        f"  n_valid {result['n_valid']:.0f} of {result['n']:.0f} grades",
    ]
    lines += [f"  {c:<12}{result[c]:.4f}" for c in TEMPERATURES if c in result]
    return "\n".join(lines)
