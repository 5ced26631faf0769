"""Metric functions in seqio's form: (targets, scores) or (targets, predictions) -> flat {name: number}.

Targets are what `postprocess` makes of an example; an interval stands as NAME_low and NAME_high (95 %).
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ja_llm.evaluation.bits_per_byte import summarise
from ja_llm.evaluation.statistics import proportion

_RESAMPLES = 1000


def postprocess(decoded: Any, example: Any = None, is_target: bool = False) -> Any:
    """seqio postprocess function of all tasks.

    A target is read from the example's own notes, never from its decoded tokens: what a vocabulary can't write must not
    become the reference. A prediction is text, without white space around it.
    """
    if not is_target:
        return decoded.strip() if isinstance(decoded, str) else decoded
    meta = example["meta"]
    value = json.loads(meta if isinstance(meta, str | bytes) else bytes(meta))
    return {**value, "tokens": int(np.size(example["targets"])), "unknown": int(example["unknown"])}


def document_bits(targets: Sequence[dict[str, Any]], scores: Sequence[float]) -> dict[str, float]:
    """Bits per byte of whole documents; scores are log-probabilities in nats."""
    rows = [
        {"bits": -float(score) / float(np.log(2.0)), "bytes": t["bytes"], "tokens": t["tokens"], "unknown": t["unknown"]}
        for t, score in zip(targets, scores, strict=True)
    ]
    return _flat(summarise(rows), "bits_per_byte")


def choice_accuracy(targets: Sequence[dict[str, Any]], scores: Sequence[float]) -> dict[str, float]:
    """Accuracy over questions whose candidates are rows: by log-likelihood, and by log-likelihood per UTF-8 byte.

    On a tie the first candidate counts as chosen.
    """
    questions: dict[str, dict[int, tuple[float, float]]] = {}
    labels: dict[str, int] = {}
    for target, score in zip(targets, scores, strict=True):
        rows = questions.setdefault(target["question"], {})
        rows[target["choice"]] = (float(score), float(score) / target["bytes"])
        labels[target["question"]] = target["label"]

    def hits(which: int) -> np.ndarray:
        right = []
        for question, rows in questions.items():
            best = max(row[which] for row in rows.values())
            right.append(min(choice for choice, row in rows.items() if row[which] == best) == labels[question])
        return np.array(right)

    return {
        **_named("accuracy", proportion(hits(0))),
        **_named("accuracy_per_byte", proportion(hits(1))),
        "questions": float(len(questions)),
        "chance": float(np.mean([1 / len(rows) for rows in questions.values()])),
    }


def translation_quality(targets: Sequence[dict[str, Any]], predictions: Sequence[str]) -> dict[str, float]:
    """chrF and BLEU over characters by sacrebleu, with seeded bootstrap intervals over texts, and exact matches."""
    references = [t["reference"] for t in targets]
    result: dict[str, float] = {}
    for name, metric in _translation_metrics().items():
        result[name] = float(metric.corpus_score(list(predictions), [references]).score)
        result[f"{name}_low"], result[f"{name}_high"] = _corpus_interval(metric, list(predictions), references)
    exact = np.array([p == r for p, r in zip(predictions, references, strict=True)])
    return {
        **result,
        **_named("exact_match", proportion(exact)),
        "texts": float(len(references)),
        "empty": float(sum(not p for p in predictions)),
        "left_out": float(targets[0].get("left_out", 0)),
    }


def translation_signatures() -> dict[str, str]:
    """sacrebleu's signatures of what `translation_quality` computes."""
    found = {}
    for name, metric in _translation_metrics().items():
        metric.corpus_score(["ab"], [["ab"]])
        found[name] = str(metric.get_signature())
    return found


def _translation_metrics() -> dict[str, Any]:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return {"chrf": CHRF(), "bleu": BLEU(tokenize="char")}


def _corpus_interval(metric: Any, predictions: list[str], references: list[str]) -> tuple[float, float]:
    """95 % percentile interval of a corpus score, texts drawn with replacement.

    From sacrebleu's own statistics of each text. Its own bootstrap (sacrebleu 2.6) fails where numpy 2 gives float32 scores
    beside a plain 0.0 (`statistics.mean` does not mix them), and draws by an environment variable's seed.
    """
    rows = np.array(metric._extract_corpus_statistics(predictions, [references]), np.int64)
    generator = np.random.default_rng(0)
    scores = []
    for _ in range(_RESAMPLES):
        total = rows[generator.integers(0, len(rows), len(rows))].sum(0)
        scores.append(float(metric._compute_score_from_stats(total.tolist()).score))
    low, high = np.quantile(scores, [0.025, 0.975])
    return float(low), float(high)


def _named(name: str, value: dict[str, Any]) -> dict[str, float]:
    low, high = value["interval"]
    return {name: value["value"], f"{name}_standard_error": value["standard_error"], f"{name}_low": low, f"{name}_high": high}


def _flat(value: dict[str, Any], name: str) -> dict[str, float]:
    low, high = value["interval"]
    rest = {key: float(number) for key, number in value.items() if key != "interval"}
    return {**rest, f"{name}_low": low, f"{name}_high": high}
