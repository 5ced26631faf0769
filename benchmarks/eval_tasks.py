"""Generated documents in the published sets' own fields, and lm-evaluation-harness's task definitions that read them from local files.

The words are drawn, so a model knows nothing of them; what counts is the shape: so many shots, so many choices, so long. The shots of a set
are the same for all of its documents, as llm-jp-eval, MMLU and BIG-bench Hard have them.
"""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Document = dict[str, Any]
ENGLISH = ("river", "stone", "market", "window", "letter", "garden", "bridge", "winter", "paper", "doctor", "engine", "island")
JAPANESE = "川石窓庭橋冬紙島森銀港城旅数朝村花夏春空海山雨雪机本"
LETTERS = "ABCD"


def english(draw: random.Random, words: int) -> str:
    """A sentence of so many words."""
    return " ".join(draw.choices(ENGLISH, k=words)).capitalize() + "."


def japanese(draw: random.Random, words: int) -> str:
    """A sentence of so many words."""
    return "".join(word + draw.choice(("が", "を", "に", "の", "は")) for word in draw.choices(JAPANESE, k=words)) + "ある。"


def _jcommonsenseqa(draw: random.Random) -> Document:
    choices = {f"choice{n}": word for n, word in enumerate(draw.sample(JAPANESE, 5))}
    return {"question": japanese(draw, 8) + "それは何か。", **choices, "label": draw.randrange(5)}


def _jmmlu(draw: random.Random) -> Document:
    return {
        "question": japanese(draw, 20) + "正しいものはどれか。",
        **{letter: japanese(draw, 5) for letter in LETTERS},
        "answer": draw.choice(LETTERS),
    }


def _hellaswag(draw: random.Random) -> Document:
    endings = [english(draw, 14) for _ in range(4)]
    return {"activity_label": english(draw, 2), "ctx": english(draw, 24), "endings": endings, "label": draw.randrange(4)}


def _openbookqa(draw: random.Random) -> Document:
    choices = [{"text": english(draw, 3), "label": letter} for letter in LETTERS]
    return {"question": {"stem": english(draw, 12), "choices": choices}, "answerKey": draw.choice(LETTERS)}


def _last_words(draw: random.Random) -> Document:
    return {"text": english(draw, 60), "end": english(draw, 8)}


# Task -> what draws a document, and the harness's fields for it (https://github.com/EleutherAI/lm-evaluation-harness, docs/task_guide.md).
_CHOICE = {"output_type": "multiple_choice", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]}
_LISTED = "{{question}}\n" + "".join(f"{letter}. {{{{{letter}}}}}\n" for letter in LETTERS) + "答え:"
SHARED: dict[str, tuple[Callable[[random.Random], Document], dict[str, Any]]] = {
    "jcommonsenseqa": (
        _jcommonsenseqa,
        {
            **_CHOICE,
            "num_fewshot": 4,
            "doc_to_text": "質問:{{question}}\n選択肢:" + ",".join(f"{n}.{{{{choice{n}}}}}" for n in range(5)) + "\n答え:",
            "doc_to_choice": list("01234"),
            "doc_to_target": "label",
            "target_delimiter": "",
        },
    ),
    "jmmlu": (
        _jmmlu,
        {
            **_CHOICE,
            "num_fewshot": 5,
            "doc_to_text": _LISTED,
            "doc_to_choice": list(LETTERS),
            "doc_to_target": f"{{{{'{LETTERS}'.index(answer)}}}}",
            "target_delimiter": "",
        },
    ),
    "hellaswag": (
        _hellaswag,
        {
            **_CHOICE,
            "num_fewshot": 4,
            "doc_to_text": "{{activity_label}}: {{ctx}}",
            "doc_to_choice": "endings",
            "doc_to_target": "label",
        },
    ),
    "openbookqa": (
        _openbookqa,
        {
            **_CHOICE,
            "num_fewshot": 4,
            "doc_to_text": "{{question.stem}}",
            "doc_to_choice": "{{question.choices|map(attribute='text')|list}}",
            "doc_to_target": f"{{{{'{LETTERS}'.index(answerKey)}}}}",
        },
    ),
}
# Each document begins differently and has one text to score, so no token stands twice at the same place.
ALONE: dict[str, tuple[Callable[[random.Random], Document], dict[str, Any]]] = {
    "last_words": (
        _last_words,
        {
            "output_type": "loglikelihood",
            "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
            "num_fewshot": 0,
            "doc_to_text": "{{text}}",
            "doc_to_target": "{{end}}",
        },
    ),
}


def write(folder: Path, documents: int) -> dict[str, dict[str, Any]]:
    """Write the documents of every task, and give the harness's definition of each.

    Args:
      folder: gets TASK.train.jsonl (the shots) and TASK.test.jsonl.
      documents: of each task.
    """
    known: Mapping[str, tuple[Callable[[random.Random], Document], dict[str, Any]]] = {**SHARED, **ALONE}
    found = {}
    for name, (make, fields) in known.items():
        draw = random.Random(name)
        paths = {split: folder / f"{name}.{split}.jsonl" for split in ("train", "test")}
        for path, count in zip(paths.values(), (8, documents), strict=True):
            lines = [json.dumps(make(draw), ensure_ascii=False) + "\n" for _ in range(count)]
            path.write_text("".join(lines), encoding="utf-8")
        found[name] = {
            "task": f"local_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {s: str(p) for s, p in paths.items()}, "cache_dir": str(folder / "cache")},
            "test_split": "test",
            "fewshot_split": "train",
            "fewshot_config": {"sampler": "first_n"},
            **fields,
        }
    return found


def texts(folder: Path) -> list[str]:
    """What was written, document by document: the text that a tokenizer is trained on."""
    return [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()]
