"""Metric functions in seqio's form: (targets, scores) or (targets, predictions) -> flat {name: number}.

Targets are what `postprocess` makes of an example; an interval stands as NAME_low and NAME_high (95 %), a standard error as
NAME_standard_error. The classes are metrics with a name that also give their rows (`statistic`), for a suite's mean and for
the paired test of two runs; they are in 0..1.
"""

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ja_llm.errors import JaLlmError
from ja_llm.evaluation import segmenters, text_metrics
from ja_llm.evaluation.bits_per_byte import summarise
from ja_llm.evaluation.statistics import Statistic, described, proportion

_RESAMPLES = 1000
_DOMAINS = 30


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


def raw_postprocess(decoded: Any, example: Any = None, is_target: bool = False) -> Any:
    """As `postprocess`, but a prediction stays as it was written: where an answer ends, or that code is indented, is the metric's."""
    return postprocess(decoded, example, is_target) if is_target else decoded


class DocumentBits:
    """Bits per byte of whole documents; scores are log-probabilities in nats."""

    name, signature = "bits_per_byte", None

    def statistic(self, targets: Sequence[dict[str, Any]], scores: Sequence[float]) -> Statistic:
        """Bits and bytes of each document that has any."""
        rows = _bits(targets, scores)
        return Statistic([(row["bits"], row["bytes"]) for row in rows if row["bytes"]], "ratio")

    def parts(self, targets: Sequence[dict[str, Any]], scores: Sequence[float]) -> dict[str, dict[str, Any]]:
        """The same of each domain (the notes' "domain"), the largest _DOMAINS of them: {"documents", "bytes", and `described`'s}."""
        rows: dict[str, list[tuple[float, float]]] = {}
        for target, row in zip(targets, _bits(targets, scores), strict=True):
            if row["bytes"] and target.get("domain"):
                rows.setdefault(target["domain"], []).append((row["bits"], row["bytes"]))
        sizes = {domain: sum(size for _, size in found) for domain, found in rows.items()}
        return {
            domain: {"documents": len(rows[domain]), "bytes": sizes[domain], **described(Statistic(rows[domain], "ratio"))}
            for domain in sorted(sizes, key=lambda domain: (-sizes[domain], domain))[:_DOMAINS]
        }

    def __call__(self, targets: Sequence[dict[str, Any]], scores: Sequence[float]) -> dict[str, float]:
        error = described(self.statistic(targets, scores))["standard_error"] if any(t["bytes"] for t in targets) else 0.0
        return {**_flat(summarise(_bits(targets, scores)), self.name), f"{self.name}_standard_error": error}


document_bits = DocumentBits()


def _bits(targets: Sequence[dict[str, Any]], scores: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {"bits": -float(score) / float(np.log(2.0)), "bytes": t["bytes"], "tokens": t["tokens"], "unknown": t["unknown"]}
        for t, score in zip(targets, scores, strict=True)
    ]


class ChoiceAccuracy:
    """Accuracy over questions whose candidates are rows: by log-likelihood, and by log-likelihood per UTF-8 byte.

    On a tie the first candidate counts as chosen.
    """

    name, signature = "accuracy", None

    def statistic(self, targets: Sequence[dict[str, Any]], scores: Sequence[float]) -> Statistic:
        """One row a question: by log-likelihood."""
        return ChoiceMetric(self.name).statistic(targets, scores)

    def __call__(self, targets: Sequence[dict[str, Any]], scores: Sequence[float]) -> dict[str, float]:
        hits, by_byte = (ChoiceMetric("", per).statistic(targets, scores).rows[:, 0] for per in ("", "bytes"))
        choices = Counter(target["question"] for target in targets)
        return {
            **_named("accuracy", proportion(hits)),
            **_named("accuracy_per_byte", proportion(by_byte)),
            "questions": float(len(choices)),
            "chance": float(np.mean([1 / count for count in choices.values()])),
        }


choice_accuracy = ChoiceAccuracy()


class TranslationQuality:
    """chrF and BLEU over characters by sacrebleu (0..100), with seeded bootstrap intervals over texts, and exact matches."""

    name = "chrf"

    def signature(self) -> str:
        """sacrebleu's."""
        return translation_signatures()[self.name]

    def statistic(self, targets: Sequence[dict[str, Any]], predictions: Sequence[str]) -> Statistic:
        """sacrebleu's chrF statistics of each text."""
        references = [t["reference"] for t in targets]
        return Statistic(_translation_metrics()[self.name]._extract_corpus_statistics(list(predictions), [references]), self.name)

    def __call__(self, targets: Sequence[dict[str, Any]], predictions: Sequence[str]) -> dict[str, float]:
        references = [t["reference"] for t in targets]
        result: dict[str, float] = {}
        for name, metric in _translation_metrics().items():
            score = float(metric.corpus_score(list(predictions), [references]).score)
            error, low, high = _corpus_spread(metric, list(predictions), references)
            result |= {name: score, f"{name}_standard_error": error, f"{name}_low": low, f"{name}_high": high}
        exact = np.array([p == r for p, r in zip(predictions, references, strict=True)])
        return {
            **result,
            **_named("exact_match", proportion(exact)),
            "texts": float(len(references)),
            "empty": float(sum(not p for p in predictions)),
            "left_out": float(targets[0].get("left_out", 0)),
        }


translation_quality = TranslationQuality()


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


def _corpus_spread(metric: Any, predictions: list[str], references: list[str]) -> tuple[float, float, float]:
    """Standard error and ends of the 95 % percentile interval of a corpus score, texts drawn with replacement.

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
    return float(np.std(scores, ddof=1)), float(low), float(high)


def _named(name: str, value: dict[str, Any]) -> dict[str, float]:
    low, high = value["interval"]
    return {name: value["value"], f"{name}_standard_error": value["standard_error"], f"{name}_low": low, f"{name}_high": high}


def _flat(value: dict[str, Any], name: str) -> dict[str, float]:
    low, high = value["interval"]
    rest = {key: float(number) for key, number in value.items() if key != "interval"}
    return {**rest, f"{name}_low": low, f"{name}_high": high}


Target = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class PredictionMetric:
    """A metric of single predictions.

    Attributes:
      name: in the results.
      item: (target, prediction) -> the item's number, or its row of numbers.
      aggregate: makes the metric of all rows (`statistics.AGGREGATES`).
      signature: what the numbers depend on besides the texts.
    """

    name: str
    item: Callable[[Target, Any], float | Sequence[float]]
    aggregate: str = "mean"
    signature: Callable[[], str] | None = None

    def statistic(self, targets: Sequence[Target], predictions: Sequence[Any]) -> Statistic:
        """One row a prediction."""
        rows = [self.item(target, prediction) for target, prediction in zip(targets, predictions, strict=True)]
        return Statistic(np.array(rows, np.float64), self.aggregate)

    def __call__(self, targets: Sequence[Target], predictions: Sequence[Any]) -> dict[str, float]:
        return _named(self.name, described(self.statistic(targets, predictions)))

    def bound(self, tokenizer: Any) -> "PredictionMetric":
        """The metric for the model with this tokenizer."""
        return self


def text_metric(
    name: str,
    measure: Callable[[str, str], float],
    answer: Callable[[str], str],
    golds: Callable[[Target], Sequence[str]],
) -> PredictionMetric:
    """The mean over items of the best `measure` of the text's `answer` against the target's `golds`."""

    def item(target: Target, prediction: str) -> float:
        text = answer(prediction)
        return max(measure(text, gold) for gold in golds(target))

    return PredictionMetric(name, item)


@dataclasses.dataclass(frozen=True)
class Rouge2(PredictionMetric):
    """ROUGE-2 F over units of a segmenter (`segmenters.py`), averaged over the texts without a bootstrap's own noise.

    The target's "reference" is its gold. `bound` gives the segmenter "model" its tokenizer.
    """

    segmenter: str = "mecab"

    def bound(self, tokenizer: Any) -> "Rouge2":
        """The metric with its segmenter at hand.

        Raises:
          UsageError, JaLlmError: as `segmenters.segmenter`.
        """
        cut = segmenters.segmenter(self.segmenter, tokenizer)
        units = segmenters.version(self.segmenter)
        if self.segmenter == "model":  # two vocabularies cut into two kinds of units
            units += f"-{tokenizer.fingerprint[:12]}"

        def item(target: Target, prediction: str) -> float:
            return text_metrics.rouge_n(cut(prediction), cut(target["reference"]))

        return dataclasses.replace(self, item=item, signature=lambda: f"rouge2|units:{units}")


def rouge2(segmenter: str) -> Rouge2:
    """ROUGE-2 over units of the named segmenter; to be `bound` before use."""
    return Rouge2("rouge2", _unbound, segmenter=segmenter)


def _unbound(target: Target, prediction: str) -> float:
    raise TypeError("this metric has to be bound to a tokenizer first.")


def bleu(tokenize: str = "13a", segmenter: str = "") -> PredictionMetric:
    """Corpus BLEU / 100 by sacrebleu with its defaults (exponential smoothing), against one "reference" a target.

    Args:
      tokenize: sacrebleu's tokenizer: "13a", "char", "ja-mecab".
      segmenter: cuts both texts first; its units are joined by spaces ("nagisa" before "13a" is Swallow's BLEU into Japanese).
    """
    name = f"bleu_{(segmenter or tokenize).replace('-', '_')}"
    return PredictionMetric(
        name,
        functools.partial(_bleu_row, tokenize, segmenter),
        "bleu",
        functools.partial(_bleu_signature, tokenize, segmenter),
    )


@functools.cache
def _sacrebleu(tokenize: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    try:
        return BLEU(tokenize=tokenize)
    except (ImportError, RuntimeError):
        raise JaLlmError(
            f"{tokenize}: this tokenizer of sacrebleu needs packages that are not installed; pip install 'ja_llm[eval-ja]'."
        ) from None


def _bleu_row(tokenize: str, segmenter: str, target: Target, prediction: str) -> Sequence[float]:
    texts = [prediction, target["reference"]]
    if segmenter:
        texts = [" ".join(segmenters.segmenter(segmenter)(text)) for text in texts]
    return _sacrebleu(tokenize)._extract_corpus_statistics(texts[:1], [texts[1:]])[0]


def _bleu_signature(tokenize: str, segmenter: str) -> str:
    metric = _sacrebleu(tokenize)
    metric.corpus_score(["ab"], [["ab"]])
    before = f"segmented:{segmenters.version(segmenter)}|" if segmenter else ""
    return f"{before}{metric.get_signature()}"


@dataclasses.dataclass(frozen=True)
class ChoiceMetric:
    """Accuracy by log-likelihood over questions whose candidates are rows next to each other; on a tie the first one counts.

    Attributes:
      name: in the results.
      per: what a candidate's log-likelihood is divided by: "" (nothing), or the target's "bytes", "characters" or "tokens".
    """

    name: str
    per: str = ""
    signature: Callable[[], str] | None = None

    def statistic(self, targets: Sequence[Target], scores: Sequence[float]) -> Statistic:
        """One row a question, in the order of their first candidates.

        Raises:
          JaLlmError: two questions have one id.
        """
        best: dict[str, tuple[float, int]] = {}
        seen: set[tuple[str, int]] = set()
        labels: dict[str, int] = {}
        for target, score in zip(targets, scores, strict=True):
            value = float(score) / target[self.per] if self.per else float(score)
            question, rank = target["question"], (value, -target["choice"])
            if (question, target["choice"]) in seen:
                raise JaLlmError(
                    f"question {question} has candidate {target['choice']} twice; give each question an id of its own."
                )
            seen.add((question, target["choice"]))
            best[question] = max(best.get(question, rank), rank)
            labels[question] = target["label"]
        return Statistic(np.array([-best[question][1] == label for question, label in labels.items()], np.float64))

    def __call__(self, targets: Sequence[Target], scores: Sequence[float]) -> dict[str, float]:
        return _named(self.name, described(self.statistic(targets, scores)))

    def bound(self, tokenizer: Any) -> "ChoiceMetric":
        """The metric for the model with this tokenizer."""
        return self


@dataclasses.dataclass(frozen=True)
class BestThresholdMetric:
    """SQuAD 2.0's best_exact or best_f1: see `statistics.AGGREGATES["best_threshold"]`.

    The targets' "golds" are the answers, [] where there is none; `aux_values["scores"]` are log-probabilities (nats) of the
    word for "no answer".

    Attributes:
      name: in the results.
      score: `text_metrics.squad_exact` or `squad_f1`.
      answer: generated text -> answer.
    """

    name: str
    score: Callable[[str, Sequence[str]], float]
    answer: Callable[[str], str] = str.strip
    signature: Callable[[], str] | None = None

    def statistic(
        self, targets: Sequence[Target], predictions: Sequence[str], aux_values: Mapping[str, Sequence[float]]
    ) -> Statistic:
        """One row a question."""
        rows = [
            (self.score(text, target["golds"]), float(bool(target["golds"])), float(bool(text)), float(np.exp(score)))
            for target, text, score in zip(targets, map(self.answer, predictions), aux_values["scores"], strict=True)
        ]
        return Statistic(np.array(rows, np.float64), "best_threshold")

    def __call__(
        self, targets: Sequence[Target], predictions: Sequence[str], aux_values: Mapping[str, Sequence[float]]
    ) -> dict[str, float]:
        return _named(self.name, described(self.statistic(targets, predictions, aux_values)))

    def bound(self, tokenizer: Any) -> "BestThresholdMetric":
        """The metric for the model with this tokenizer."""
        return self
