"""Loaders of the Japanese sets in their original formats: folder -> (records to ask, records to take shots from).

A record is {"id", "gold" (what is compared with), and the fields that a prompt shows}. Counts are of the originals, as Swallow's
evaluation (v202407) uses them.
"""

import random
from xml.etree import ElementTree

from ja_llm.errors import JaLlmError
from ja_llm.evaluation.raw_files import RawFolder, Record

Splits = tuple[list[Record], list[Record]]

JCOMMONSENSEQA = ("jglue/jcommonsenseqa-v1.1/valid-v1.1.json", "jglue/jcommonsenseqa-v1.1/train-v1.1.json")
JSQUAD = ("jglue/jsquad-v1.1/valid-v1.1.json", "jglue/jsquad-v1.1/train-v1.1.json")
JEMHOPQA = ("jemhopqa/corpus/dev.json", "jemhopqa/corpus/train.json")
NIILC = ("niilc/NIILC-ECQA2015_test.xml", "niilc/NIILC-ECQA2015_dev.xml")
XLSUM = ("xlsum_ja/data/test.csv", "xlsum_ja/data/train.csv")
MGSM = ("mgsm/mgsm_ja.tsv", "mgsm/train_ja.jsonl")
JMMLU = ("jmmlu/JMMLU/*.csv",)
JHUMANEVAL = ("jhumaneval/data/jhuman-eval.jsonl",)
# Swallow leaves them out: their licence forbids derived works.
JMMLU_EXCLUDED = ("japanese_civics", "japanese_geography", "japanese_idiom")


def wmt20_files(pair: str) -> tuple[str, str]:
    """Source and reference of "en-ja" or "ja-en", as sacrebleu names them."""
    return f"wmt20/wmt20.{pair}.src", f"wmt20/wmt20.{pair}.ref"


def jcommonsenseqa(folder: RawFolder) -> Splits:
    """JCommonsenseQA v1.1 (JGLUE; CC BY-SA 4.0): JSON lines q_id, question, choice0..choice4, label."""

    def read(name: str, expected: int) -> list[Record]:
        found = []
        for row in folder.json_lines(name, expected):
            label = folder.gold(name, row, "label", row.get("q_id"))
            choices = [str(folder.gold(name, row, f"choice{n}", row.get("q_id"))) for n in range(5)]
            found.append({"id": str(row["q_id"]), "question": row["question"], "choices": choices, "label": int(label)})
        return found

    return read(JCOMMONSENSEQA[0], 1119), read(JCOMMONSENSEQA[1], 8939)


def jsquad(folder: RawFolder) -> Splits:
    """JSQuAD v1.1 (JGLUE; CC BY-SA 4.0): SQuAD 1.1 JSON; a context is title, " [SEP] ", paragraph."""

    def read(name: str, expected: int) -> list[Record]:
        found = [
            {
                "id": qa["id"],
                "context": paragraph["context"],
                "question": qa["question"],
                "golds": [answer["text"] for answer in folder.gold(name, qa, "answers", qa.get("id"))],
            }
            for article in folder.json(name)["data"]
            for paragraph in article["paragraphs"]
            for qa in paragraph["qas"]
        ]
        return folder.complete(name, found, expected)

    return read(JSQUAD[0], 4442), read(JSQUAD[1], 62859)


def jemhopqa(folder: RawFolder) -> Splits:
    """JEMHopQA v1.0 (CC BY-SA 4.0): a JSON list of qid, question, answer."""

    def read(name: str, expected: int) -> list[Record]:
        rows = folder.complete(name, folder.json(name), expected)
        return [
            {"id": str(r["qid"]), "question": r["question"], "golds": [folder.gold(name, r, "answer", r["qid"])]} for r in rows
        ]

    return read(JEMHOPQA[0], 120), read(JEMHOPQA[1], 1059)


def niilc(folder: RawFolder) -> Splits:
    """NIILC-QA (CC BY-SA 4.0): XML questions/question@id with text and answers/answer; the answer "-" is none."""

    def read(name: str, expected: int) -> list[Record]:
        try:
            root = ElementTree.fromstring(folder.text(name))
        except ElementTree.ParseError:
            raise JaLlmError(f"{folder.root / name}: this file is no XML (cut off?); fetch the original again.") from None
        found = []
        for question in root.iter("question"):
            golds = [text for a in question.iter("answer") if (text := "".join(a.itertext()).strip()) not in ("", "-")]
            text = (question.findtext("text") or "").strip()
            if golds and text:  # the original has questions that nobody could answer
                found.append({"id": question.get("id", ""), "question": text, "golds": golds})
        return folder.complete(name, found, expected)

    return read(NIILC[0], 198), read(NIILC[1], 0)


def xlsum(folder: RawFolder) -> Splits:
    """Japanese XL-Sum, filtered for overlap (CC BY-NC-SA 4.0): CSV with the columns text and summary."""

    def read(name: str, expected: int) -> list[Record]:
        head, *rows = folder.csv_rows(name, 2)
        if not {"text", "summary"} <= set(head):
            raise JaLlmError(f"{folder.root / name}: the columns text and summary are not there; fetch the original again.")
        records = [dict(zip(head, row, strict=False)) for row in rows]
        found = [
            {"id": r.get("id") or str(n), "text": r["text"], "reference": folder.gold(name, r, "summary", r.get("id") or n)}
            for n, r in enumerate(records)
        ]
        return folder.complete(name, found, expected)

    return read(XLSUM[0], 766), read(XLSUM[1], 4215)


def mgsm(folder: RawFolder) -> Splits:
    """MGSM ja (CC BY-SA 4.0): TSV of question and number; shots as JSON lines question, answer, answer_number.

    The original's eight worked examples carry labels in front of question and answer; a prompt sets its own, so they are cut.
    """
    rows = folder.csv_rows(MGSM[0], 2, 250, "\t")
    asked = []
    for number, (question, answer, *_) in enumerate(rows):
        try:
            gold = float(answer.replace(",", ""))
        except ValueError:
            raise JaLlmError(f"{folder.root / MGSM[0]}: row {number + 1} has no number as its answer; fetch it again.") from None
        asked.append({"id": str(number), "question": question, "gold": gold})
    shots = [
        {
            "id": f"train {n}",
            "question": _without_label(row["question"]),
            "solution": _without_label(folder.gold(MGSM[1], row, "answer", n)),
        }
        for n, row in enumerate(folder.json_lines(MGSM[1], 8))
    ]
    return asked, shots


def _without_label(text: str) -> str:
    """The text behind a short label that ends in a colon, such as "Question:" in Japanese."""
    for colon in (":", "："):
        label, found, rest = text.partition(colon)
        if found and len(label) <= 14 and "\n" not in label:
            return rest.strip()
    return text.strip()


def wmt20(folder: RawFolder, pair: str) -> Splits:
    """WMT20 news test (research use): two files of lines that belong together. Shots come from the test itself, as published."""
    names = wmt20_files(pair)
    expected = {"en-ja": 1000, "ja-en": 993}[pair]
    source, reference = (folder.complete(name, folder.text(name).rstrip("\n").split("\n"), expected) for name in names)
    if len(source) != len(reference):
        raise JaLlmError(
            f"{folder.root / names[1]}: {len(reference)} lines against {len(source)} of the source; fetch both files again."
        )
    found = []
    for number, (a, b) in enumerate(zip(source, reference, strict=True)):
        folder.gold(names[1], {"reference": b.strip()}, "reference", number + 1)
        found.append({"id": str(number), "source": a.strip(), "reference": b.strip()})
    return found, found


def jmmlu(folder: RawFolder) -> Splits:
    """JMMLU (CC BY-SA 4.0 but for some subjects): CSV without head: question, A, B, C, D, letter; a file a subject.

    llm-jp-eval 1.3's split: one generator seeded with 42; each subject is shuffled and halved, the two pools are shuffled; 16 of
    each pool go away as training records and the rest of the second is asked. Its order of the subjects is its own list's and
    not known here: ours is by name, so the halves are others of the same kind.
    """
    generator = random.Random(42)
    development: list[Record] = []
    test: list[Record] = []
    names = [n for n in folder.names(JMMLU[0]) if n.rsplit("/", 1)[-1].removesuffix(".csv") not in JMMLU_EXCLUDED]
    for name in names:
        subject = name.rsplit("/", 1)[-1].removesuffix(".csv")
        rows = [letter_record(folder, name, subject, n, row) for n, row in enumerate(folder.csv_rows(name, 6))]
        generator.shuffle(rows)
        development += rows[: len(rows) // 2]
        test += rows[len(rows) // 2 :]
    folder.complete("jmmlu/JMMLU", development + test, 7097)
    generator.shuffle(development)
    generator.shuffle(test)
    return folder.complete("jmmlu/JMMLU", test[16:], 0), development


def letter_record(folder: RawFolder, name: str, subject: str, number: int, row: list[str]) -> Record:
    """A row question, A, B, C, D, letter of (J)MMLU.

    Raises:
      JaLlmError: there is no such letter.
    """
    if row[5].strip() not in ("A", "B", "C", "D"):
        raise JaLlmError(f"{folder.root / name}: row {number + 1} has no letter A to D as its answer; fetch the original again.")
    return {
        "id": f"{subject}:{number}",
        "subject": subject,
        "question": row[0].strip(),
        "choices": [cell.strip() for cell in row[1:5]],
        "label": "ABCD".index(row[5].strip()),
    }


def jhumaneval(folder: RawFolder) -> Splits:
    """JHumanEval (MIT): HumanEval's fields, the docstring of `prompt` in Japanese."""
    return humaneval_records(folder, JHUMANEVAL[0]), []


def humaneval_records(folder: RawFolder, name: str) -> list[Record]:
    """JSON lines task_id, prompt, entry_point, canonical_solution, test."""
    fields = ("prompt", "entry_point", "canonical_solution", "test")
    return [
        {"id": row["task_id"], **{field: folder.gold(name, row, field, row.get("task_id")) for field in fields}}
        for row in folder.json_lines(name, 164)
    ]
