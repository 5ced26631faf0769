"""Loaders of the English sets in their original formats: folder -> (records to ask, records to take shots from).

See `loaders_japanese.py` for what a record is. Counts are of the originals that lm-evaluation-harness 0.4.2 reads.
"""

import re
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.evaluation.loaders_japanese import Splits, humaneval_records, letter_record
from ja_llm.evaluation.raw_files import RawFolder, Record

OPENBOOKQA = ("openbookqa/Main/test.jsonl", "openbookqa/Main/train.jsonl")
TRIVIAQA = ("triviaqa/qa/*-dev.json", "triviaqa/qa/*-train.json")
HELLASWAG = ("hellaswag/hellaswag_val.jsonl", "hellaswag/hellaswag_train.jsonl")
SQUAD2 = ("squad2/dev-v2.0.json", "squad2/train-v2.0.json")
XWINO = ("xwino/test/en.jsonl",)
MMLU = ("mmlu/data/test/*_test.csv", "mmlu/data/dev/*_dev.csv")
GSM8K = ("gsm8k/test.jsonl", "gsm8k/train.jsonl")
BBH = ("bbh/bbh/*.json", "bbh/cot-prompts/*.txt")
HUMANEVAL = ("humaneval/HumanEval.jsonl.gz",)
MATH = ("math/test.jsonl", "math/train/*/*.json")


def openbookqa(folder: RawFolder) -> Splits:
    """OpenBookQA (AI2; Apache-2.0): JSON lines id, question {stem, choices [{text, label}]}, answerKey."""

    def read(name: str, expected: int) -> list[Record]:
        found = []
        for row in folder.json_lines(name, expected):
            labels = [choice["label"] for choice in row["question"]["choices"]]
            key = folder.gold(name, row, "answerKey", row.get("id"))
            if key not in labels:
                raise JaLlmError(f"{folder.root / name}: record {row['id']} has the answer {key!r}, which is no choice of it.")
            choices = [choice["text"] for choice in row["question"]["choices"]]
            found.append({"id": row["id"], "question": row["question"]["stem"], "choices": choices, "label": labels.index(key)})
        return found

    return read(OPENBOOKQA[0], 500), read(OPENBOOKQA[1], 4957)


def triviaqa(folder: RawFolder) -> Splits:
    """TriviaQA rc without context: Data[] of Question, QuestionId, Answer {Value, Aliases}; web and Wikipedia files one after another."""

    def read(pattern: str, expected: int) -> list[Record]:
        found = [
            {
                "id": row["QuestionId"],
                "question": row["Question"],
                "answer": folder.gold(name, row.get("Answer") or {}, "Value", row.get("QuestionId")),
                "golds": folder.gold(name, row["Answer"], "Aliases", row.get("QuestionId")),
            }
            for name in folder.names(pattern)
            for row in folder.json(name)["Data"]
        ]
        return folder.complete(pattern, found, expected)

    return read(TRIVIAQA[0], 17944), read(TRIVIAQA[1], 138384)


def hellaswag(folder: RawFolder) -> Splits:
    """HellaSwag (MIT): JSON lines ind, activity_label, ctx_a, ctx_b, endings, label."""

    def read(name: str, expected: int) -> list[Record]:
        found = []
        for row in folder.json_lines(name, expected):
            label = int(folder.gold(name, row, "label", row.get("ind")))
            context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
            endings = [_without_brackets(ending) for ending in row["endings"]]
            found.append({"id": str(row["ind"]), "context": _without_brackets(context), "choices": endings, "label": label})
        return found

    return read(HELLASWAG[0], 10042), read(HELLASWAG[1], 39905)


def _without_brackets(text: str) -> str:
    """WikiHow's marks: " [title]" ends a sentence, other brackets go with what is in them."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def squad2(folder: RawFolder) -> Splits:
    """SQuAD 2.0 (CC BY-SA 4.0): a question that is_impossible has no gold."""

    def read(name: str, expected: int) -> list[Record]:
        found = [
            _squad_record(folder, name, article["title"], paragraph["context"], qa)
            for article in folder.json(name)["data"]
            for paragraph in article["paragraphs"]
            for qa in paragraph["qas"]
        ]
        return folder.complete(name, found, expected)

    return read(SQUAD2[0], 11873), read(SQUAD2[1], 130319)


def _squad_record(folder: RawFolder, name: str, title: str, context: str, qa: dict[str, Any]) -> Record:
    answers = [] if qa.get("is_impossible") else folder.gold(name, qa, "answers", qa.get("id"))
    golds = list(dict.fromkeys(answer["text"] for answer in answers))
    return {"id": qa["id"], "title": title.replace("_", " "), "context": context, "question": qa["question"], "golds": golds}


def xwino(folder: RawFolder) -> Splits:
    """XWinograd en (CC BY 4.0): JSON lines sentence with "_", option1, option2, answer "1" or "2". Shots come from the test itself."""
    found = []
    for number, row in enumerate(folder.json_lines(XWINO[0], 2325)):
        answer = str(folder.gold(XWINO[0], row, "answer", number))
        before, gap, after = row["sentence"].partition("_")
        if answer not in ("1", "2") or not gap:
            raise JaLlmError(
                f"{folder.root / XWINO[0]}: record {number} has no gap or no answer 1 or 2; fetch the original again."
            )
        options = [row["option1"], row["option2"]]
        found.append({"id": str(number), "before": before, "after": after.strip(), "choices": options, "label": int(answer) - 1})
    return found, found


def mmlu(folder: RawFolder) -> Splits:
    """MMLU (MIT): CSV without head: question, A, B, C, D, letter; a file a subject. Shots: each subject's own dev file, in order."""

    def read(pattern: str, expected: int, before: str = "") -> list[Record]:
        found = []
        for name in folder.names(pattern):
            subject = re.sub(r"_(test|dev)\.csv$", "", name.rsplit("/", 1)[-1])
            found += [letter_record(folder, name, subject, n, row) for n, row in enumerate(folder.csv_rows(name, 6))]
        return folder.complete(pattern, [{**record, "id": before + record["id"]} for record in found], expected)

    return read(MMLU[0], 14042), read(MMLU[1], 285, "dev ")


def gsm8k(folder: RawFolder) -> Splits:
    """GSM8K (MIT): JSON lines question, answer; the answer ends in "#### number"."""

    def read(name: str, expected: int, before: str = "") -> list[Record]:
        found = []
        for number, row in enumerate(folder.json_lines(name, expected)):
            solution = folder.gold(name, row, "answer", number)
            gold = folder.gold(name, {"number": solution.partition("####")[2].strip()}, "number", number)
            found.append({"id": f"{before}{number}", "question": row["question"], "solution": solution, "gold": gold})
        return found

    return read(GSM8K[0], 1319), read(GSM8K[1], 7473, "train ")


def bbh(folder: RawFolder) -> Splits:
    """BIG-bench Hard (MIT): {task}.json examples [{input, target}]; {task}.txt holds the task's prompt with its three worked examples."""
    prompts = {
        name.rsplit("/", 1)[-1].removesuffix(".txt"): folder.text(name).partition("-----\n")[2].strip()  # behind the canary
        for name in folder.names(BBH[1])
    }
    found = []
    for name in folder.names(BBH[0]):
        task = name.rsplit("/", 1)[-1].removesuffix(".json")
        folder.gold(BBH[1].replace("*", task), prompts, task, task)
        for number, row in enumerate(folder.json(name)["examples"]):
            gold = folder.gold(name, row, "target", number)
            found.append(
                {"id": f"{task}:{number}", "subject": task, "worked": prompts[task], "question": row["input"], "gold": gold}
            )
    return folder.complete(BBH[0], found, 6511), []


def humaneval(folder: RawFolder) -> Splits:
    """HumanEval (OpenAI; MIT)."""
    return humaneval_records(folder, HUMANEVAL[0]), []


def math(folder: RawFolder) -> Splits:
    """MATH-500 (MIT): JSON lines problem, solution, answer; shots from MATH's training files {problem, solution}, by path."""
    asked = [
        {"id": row.get("unique_id", str(n)), "problem": row["problem"], "gold": folder.gold(MATH[0], row, "answer", n)}
        for n, row in enumerate(folder.json_lines(MATH[0], 500))
    ]
    shots = [
        {"id": name, "problem": (row := folder.json(name))["problem"], "solution": folder.gold(name, row, "solution", name)}
        for name in folder.names(MATH[1])
    ]
    return asked, folder.complete(MATH[1], shots, 7500)
