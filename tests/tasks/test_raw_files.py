"""The published sets' files in their original formats: what is read of them, what ends an answer, and which damage is refused."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation import answers, loaders_english, loaders_japanese, registry
from ja_llm.evaluation.examples import Sources
from ja_llm.evaluation.raw_files import RawFolder

RAW = Path(__file__).parent.parent / "evaluation" / "raw"


def examples(name, limit=None):
    return registry.resolve(name)[0].examples(Sources(data=RAW), limit)


def test_details_of_the_formats():
    folder = RawFolder(RAW)
    bracketed = loaders_english.hellaswag(folder)[0][1]["context"]
    assert bracketed == "Planting a tree: How to plant a tree. Dig a hole. Choose a place with sun. Then"
    assert [r["id"] for r in loaders_japanese.niilc(folder)[0]] == ["1", "2", "3", "5"]  # nobody answered the fourth
    assert sum(map(len, loaders_japanese.jmmlu(folder))) == 3 * 13 - 16
    assert not any("japanese_idiom" in r["id"] for split in loaders_japanese.jmmlu(folder) for r in split)
    first = loaders_japanese.mgsm(folder)[1][0]
    assert first["question"].startswith("緑さんは") and first["solution"].startswith("はじめに8個あり")
    assert [r["gold"] for r in loaders_japanese.mgsm(folder)[0]] == [3, 5, 7, 9, 1011]
    impossible = loaders_english.squad2(folder)[0][1]
    assert impossible["golds"] == [] and impossible["title"] == "Mill Valley"
    assert [e["meta"]["choice"] for e in examples("xwino_en")[:2]] == [0, 1]
    one, two = examples("xwino_en")[:2]
    assert one["targets"] == two["targets"] == " was too big." and one["inputs"].endswith("cup") and two["inputs"].endswith("box")
    assert all("canary" not in e["inputs"].lower() for e in examples("bbh"))


@pytest.mark.parametrize(
    "text, anywhere, plain",
    [
        ("答えは1,234です", 1234, 1234),
        ("-5.0", -5, -5),
        ("3.5個", None, None),
        ("12.", 12, 12),
        ("なし", None, None),
        ("3と4で7", 7, 7),
        ("答えは5です. ", None, 5),  # the published rule takes the lone dot for the last number
        ("", None, None),
    ],
)
def test_last_number(text, anywhere, plain):
    assert answers.last_number(text) == anywhere and answers.last_number(text, anywhere=False) == plain


def test_other_answers():
    assert answers.llmjp_answer(" ３\n\n説明") == "3" and answers.llmjp_answer("\n\n3") == ""
    assert answers.marked_number("so #### 1,200.\n#### 7") == "1200" and answers.marked_number("12") == answers.INVALID
    assert answers.phrase_answer("So the answer is (A).\nthe answer is B.") == "(A)"
    assert answers.phrase_answer("I do not know") == answers.INVALID
    assert answers.quiz_answer(" The U.K. ") == "the uk"
    assert answers.boxed(r"\boxed{1} and \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert answers.boxed(r"\boxed{1") == answers.INVALID == answers.boxed("1")
    assert answers.plain_mathematics(r"$\left( \dfrac{1}{2},\, 3\text{ cm} \right)$") == r"(\frac{1}{2},3cm)"
    assert answers.plain_mathematics("1,234") == "1234"


ONE = "jglue/jcommonsenseqa-v1.1/valid-v1.1.json"
DAMAGE = [
    ("jcommonsenseqa", ONE, None, False, r"valid-v1.1.json: this evaluation file is missing"),
    ("jcommonsenseqa", ONE, lambda b: b[:-30], False, "altered or cut off"),
    ("jcommonsenseqa", ONE, lambda b: b.replace("傘".encode(), "笠".encode()), False, "altered or cut off"),
    ("jcommonsenseqa", ONE, lambda b: b[:-30], True, "line 6 is no JSON"),
    ("jcommonsenseqa", ONE, lambda b: b"", True, "there is no record"),
    ("jcommonsenseqa", ONE, lambda b: b"[1]\n", True, "no JSON object"),
    ("jcommonsenseqa", ONE, lambda b: b.replace(b', "label": 0', b"", 1), True, "record 8000 has no 'label'"),
    ("jcommonsenseqa", ONE, lambda b: b.replace(b"question", b"frage"), True, "not the original's fields"),
    ("jcommonsenseqa", ONE, lambda b: b"\xff\xfe" + b, True, "can't be read"),
    ("jsquad", "jglue/jsquad-v1.1/valid-v1.1.json", lambda b: b[: len(b) // 2], True, "is no JSON"),
    ("jsquad", "jglue/jsquad-v1.1/valid-v1.1.json", lambda b: b.replace(b'"answers"', b'"antworten"'), True, "has no 'answers'"),
    ("niilc", "niilc/NIILC-ECQA2015_test.xml", lambda b: b[:-20], True, "is no XML"),
    ("xlsum_ja", "xlsum_ja/data/test.csv", lambda b: b.replace(b"summary", b"gist"), True, "columns text and summary"),
    ("mgsm_ja", "mgsm/mgsm_ja.tsv", lambda b: b.replace(b"\t3\n", b"\tdrei\n"), True, "row 1 has no number"),
    ("mgsm_ja", "mgsm/mgsm_ja.tsv", lambda b: b.replace(b"\t3\n", b"\n"), True, "row 1 has 1 of 2 columns"),
    ("wmt20_en_ja", "wmt20/wmt20.en-ja.ref", lambda b: b[: b.rindex(b"\n", 0, -1) + 1], True, "6 lines against 7"),
    ("jmmlu", "jmmlu/JMMLU/astronomy.csv", lambda b: b.replace(b",A\n", b",E\n"), True, "no letter A to D"),
    (
        "openbookqa",
        "openbookqa/Main/test.jsonl",
        lambda b: b.replace(b'"answerKey": "B"', b'"answerKey": "Z"'),
        True,
        "no choice of it",
    ),
    ("xwino_en", "xwino/test/en.jsonl", lambda b: b.replace(b"_", b"-"), True, "no gap"),
    ("gsm8k", "gsm8k/test.jsonl", lambda b: b.replace(b"####", b"=="), True, "has no 'number'"),
    ("bbh", "bbh/cot-prompts/word_sorting.txt", None, True, "has no 'word_sorting'"),
    (
        "squad2",
        "squad2/train-v2.0.json",
        lambda b: json.dumps({"data": json.loads(b)["data"][:1]}).encode(),
        True,
        "2 records to take 4 shots",
    ),
    ("triviaqa", "triviaqa/qa/web-dev.json", lambda b: b.replace(b'"Value"', b'"Wert"'), True, "has no 'Value'"),
]


@pytest.mark.parametrize("task, name, change, sums, sentence", DAMAGE)
def test_bad_files_are_a_sentence(edited, task, name, change, sums, sentence):
    raw = edited(name, change, sums)
    template = registry.resolve(task)[0]
    with pytest.raises(JaLlmError, match=sentence) as error:
        template.data(Sources(data=raw))
        template.examples(Sources(data=raw), None)
    assert str(raw) in str(error.value) and "\n" not in str(error.value)


def test_without_checksums_a_part_is_no_whole(tmp_path):
    raw = shutil.copytree(RAW, tmp_path / "raw")
    (raw / "SHA256SUMS").unlink()
    counts = {"jcommonsenseqa": 1119, "jsquad": 4442, "xlsum_ja": 766, "mgsm_ja": 250, "wmt20_ja_en": 993, "jmmlu": 7097}
    counts |= {"openbookqa": 500, "triviaqa": 17944, "hellaswag": 10042, "squad2": 11873, "xwino_en": 2325, "mmlu": 14042}
    counts |= {"gsm8k": 1319, "math": 500, "bbh": 6511, "jemhopqa": 120, "niilc": 198, "wmt20_en_ja": 1000}
    counts |= {"humaneval": 164, "jhumaneval": 164}
    assert set(counts) == set(registry.suites()["swallow"])
    for name, count in counts.items():
        with pytest.raises(JaLlmError, match=f"records instead of the original's {count}"):
            registry.resolve(name)[0].examples(Sources(data=raw), None)
    with pytest.raises(UsageError, match="does not exist"):
        Sources(data=tmp_path / "none").raw()
    with pytest.raises(UsageError, match="--data DIR"):
        Sources().raw()
    (raw / "SHA256SUMS").write_text("nonsense\n")
    with pytest.raises(JaLlmError, match="can't be read"):
        registry.resolve("math")[0].data(Sources(data=raw))


def test_gzip_that_is_cut_off(edited):
    raw = edited("humaneval/HumanEval.jsonl.gz", lambda b: b[:-12])
    with pytest.raises(JaLlmError, match="can't be read"):
        loaders_english.humaneval(RawFolder(raw))
    assert len(loaders_english.humaneval(RawFolder(RAW))[0]) == 4
    assert gzip.decompress((RAW / "humaneval/HumanEval.jsonl.gz").read_bytes()).count(b"\n") == 4


def test_equal_answers_of_math_are_equal():
    """Pairs that the comparison of MATH's authors takes for equal, and some that it does not."""
    same = lambda a, b: answers.plain_mathematics(a) == answers.plain_mathematics(b)  # noqa: E731
    halves = ("\\frac12", "\\dfrac{1}{2}", "1/2", "0.5", ".5", "\\frac1{2}", "$\\frac{1}2$")
    assert all(same(a, "\\frac{1}{2}") for a in halves)
    assert (
        same("-3/4", "-\\frac{3}{4}")
        and same("2\\sqrt3", "2\\sqrt{3}")
        and same("x = .25", "x=0.25")
        and same("\\frac{x+1}2", "\\frac{x+1}{2}")
    )
    assert (
        not same("0.25", "\\frac{1}{4}")
        and not same("1/2", "1/3")
        and not same("x/2", "\\frac{y}{2}")
        and not same("1.5", "10.5")
    )
    assert answers.boxed("so $\\boxed 5$.") == "5" and answers.boxed("\\boxed{1} then \\boxed{\\frac{a}{b}}") == "\\frac{a}{b}"
    assert answers.boxed("\\boxed") == answers.boxed("none") == answers.boxed("\\boxed{1") == answers.INVALID
