"""The certificate of a vocabulary expansion: what must hold before a step of training, checked and written down.

Every check computes what it compares with by itself, not with the code that made the expansion.
"""

import dataclasses
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ja_llm.errors import JaLlmError
from ja_llm.progress import Progress, track
from ja_llm.text import scripts
from ja_llm.vocab.base import Tokenizer
from ja_llm.vocab.expand import JAPANESE, dead_pieces, expected_scores, piece_sources
from ja_llm.vocab.initialise import tables
from ja_llm.vocab.sentencepiece_tokenizer import BYTE, NORMAL, WORD_START, SentencePieceTokenizer

_LISTED = 20  # how many offenders a report names
_KANA_AND_KANJI = (scripts.HIRAGANA, scripts.KATAKANA, scripts.KANJI, scripts.HALFWIDTH_KANA)

ENGLISH_AND_CODE = (
    "The ferry leaves at 7:45 and comes back before dark, weather permitting.",
    "   Two spaces  inside, three in front; tabs\tand trailing ones  ",
    "She said \u201cwe'll see\u201d \u2014 and didn\u2019t come back\u2026",
    "Na\u00efve caf\u00e9 owners in Malm\u00f6 pay 3,50 \u20ac for \u00bd a litre.",
    'def area(width: float, height: float = 1.0) -> float:\n    """Square metres."""\n    return width * height\n',
    "for (int i = 0; i < n; ++i) {\n\t\tsum += a[i] * b[i];  // dot product\n}\n",
    '<p class="note">5 &lt; 6 &amp; 7 &gt; 2</p>\r\n<!-- </s> <s> <unk> <0x0A> -->',
    "SELECT name, COUNT(*) FROM visits WHERE day >= '2024-02-29' GROUP BY name;",
    "https://example.org/a/b.html?q=1%20&x=y#top  mailto:someone@example.org",
    "E = mc^2, \u2211_{i=1}^{n} i = n(n+1)/2, \u03b1\u2264\u03b2, \u221a2 \u2248 1.41421356",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1f3\U0001f1f4 ok\u2705",
    "",
    " ",
    "\n\n\n",
    "0x1F 1e-9 1_000_000 $PATH ~/.config/app.toml {{ template }} [[link]]",
)


@dataclasses.dataclass
class _Report:
    progress: Progress
    checks: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def add(self, name: str, passed: bool, reason: str, **values: Any) -> None:
        self.progress.update(note=name)
        self.checks[name] = {"passed": bool(passed), **values} | ({} if passed else {"reason": reason})


def certify(
    old: SentencePieceTokenizer,
    new: SentencePieceTokenizer,
    sources: Sequence[Sequence[int]],
    old_params: Mapping[str, Any],
    new_params: Mapping[str, Any],
    sample_texts: Iterable[str],
) -> dict[str, Any]:
    """Check an expansion.

    Args:
      old: tokenizer before.
      new: tokenizer after.
      sources: old ids that each new row is the mean of.
      old_params: Decoder parameter tree before.
      new_params: the same after.
      sample_texts: texts, some of them Japanese; lines without Japanese serve as English and code, beside built-in ones.

    Returns:
      {"passed": bool, "failures": [sentences], "checks": {name: {"passed", figures, "reason" if it failed}}, and the two
      vocabularies' sizes and fingerprints}. Plain JSON values.
    """
    samples = list(sample_texts)
    lines = [line for text in samples for line in text.split("\n") if line]
    with Progress("certify", None, "check") as progress:
        report = _Report(progress)
        fits = _check_pieces(report, old, new, sources)
        if fits:
            _check_reachable(report, old, new)
            _check_sources(report, old, new, sources)
        _check_segmentation(report, old, new, lines)
        _check_round_trip(report, old, new, samples)
        _check_gain(report, old, new, lines)
        if fits:
            _check_tables(report, old, sources, old_params, new_params)
    failures = [f"{name}: {check['reason']}" for name, check in report.checks.items() if not check["passed"]]
    return {
        "passed": not failures,
        "failures": failures,
        "checks": report.checks,
        "old": {"vocab_size": old.vocab_size, "fingerprint": old.fingerprint},
        "new": {"vocab_size": new.vocab_size, "fingerprint": new.fingerprint},
    }


def require(certificate: Mapping[str, Any]) -> None:
    """Raise JaLlmError with the reasons if the certificate did not pass."""
    if not certificate["passed"]:
        reasons = "; ".join(certificate["failures"][:3])
        raise JaLlmError(
            f"the expanded vocabulary fails its certificate ({reasons}); nothing was written, expand again from the base model."
        )


def _check_pieces(report: _Report, old: SentencePieceTokenizer, new: SentencePieceTokenizer, sources: Sequence) -> bool:
    """Old pieces, scores, types and rules as they were; new ones appended, Japanese, ranked below; BOS, EOS kept."""
    before, after = old.proto, new.proto
    size, count = len(before.pieces), len(after.pieces) - len(before.pieces)
    wrong = []
    if count != len(sources):
        wrong.append(f"{count} pieces were added but {len(sources)} sources given")
    changed = [p.piece for p, q in zip(before.pieces, after.pieces, strict=False) if p != q]
    if changed:
        wrong.append(f"old pieces changed: {changed[:_LISTED]}")
    if before.normalizer_spec != after.normalizer_spec or before.denormalizer_spec != after.denormalizer_spec:
        wrong.append("the normaliser changed")
    specs = [type(p.trainer_spec).FromString(p.trainer_spec.SerializeToString()) for p in (before, after)]
    for spec in specs:
        spec.ClearField("vocab_size")
    if specs[0] != specs[1] or (old.bos_id, old.eos_id) != (new.bos_id, new.eos_id):
        wrong.append("the special pieces or the model type changed")
    added = list(after.pieces)[size:]
    scores = expected_scores(old, max(count, 0))
    wrong_scores = [p.piece for p, score in zip(added, scores, strict=False) if p.score != score or p.type != NORMAL]
    if wrong_scores:
        wrong.append(f"scores or types of new pieces are not the ranks below the base: {wrong_scores[:_LISTED]}")
    foreign = [p.piece for p in added if not p.piece or not all(JAPANESE.match(c) for c in p.piece)]
    if foreign:
        wrong.append(f"new pieces with other than Japanese characters: {foreign[:_LISTED]}")
    report.add("pieces", not wrong, "; ".join(wrong), added=count)
    return count == len(sources) and count >= 0


def _check_reachable(report: _Report, old: SentencePieceTokenizer, new: SentencePieceTokenizer) -> None:
    dead = dead_pieces(new, old.vocab_size)
    report.add(
        "reachable", not dead, f"{len(dead)} new pieces are never used: {dead[:_LISTED]}", dead=len(dead), dead_pieces=dead
    )


def _check_sources(report: _Report, old: SentencePieceTokenizer, new: SentencePieceTokenizer, sources: Sequence) -> None:
    names = [new.id_to_piece(i) for i in range(old.vocab_size, new.vocab_size)]
    wrong = [n for n, ids, given in zip(names, piece_sources(old, names), sources, strict=True) if ids != list(given)]
    report.add("sources", not wrong, f"the old tokenizer spells these otherwise: {wrong[:_LISTED]}", wrong=len(wrong))


def _check_segmentation(report: _Report, old: Tokenizer, new: Tokenizer, lines: list[str]) -> None:
    """Ids of texts without Japanese: given lines, built-in ones, every old piece, random sequences of old pieces."""
    proto = old.proto if isinstance(old, SentencePieceTokenizer) else None
    surfaces = [p.piece.replace(WORD_START, " ") for p in proto.pieces if p.type in (NORMAL, BYTE)] if proto else []
    surfaces = [s for s in surfaces if not JAPANESE.search(s)]
    draw = random.Random(0)
    mixed = ["".join(draw.choices(surfaces, k=16)) for _ in range(1000)] if surfaces else []
    given = [line for line in lines if not JAPANESE.search(line)]
    texts = [*given, *ENGLISH_AND_CODE, *surfaces, *mixed]
    differ = [t for t, a, b in zip(texts, old.encode_batch(texts), new.encode_batch(texts), strict=True) if a != b]
    share = 1.0 - len(differ) / len(texts)
    reason = f"{len(differ)} of {len(texts)} texts without Japanese got other ids, e.g. {differ[:3]}"
    report.add("english_and_code_identical", not differ, reason, share=share, texts=len(texts), given_lines=len(given))


def _check_round_trip(report: _Report, old: Tokenizer, new: Tokenizer, samples: list[str]) -> None:
    texts = [*samples, *ENGLISH_AND_CODE]
    ids = new.encode_batch(texts)
    # Where the base itself is lossy (a normaliser, no byte fallback) the new one may lose the same and no more.
    lost = [t for t, i in zip(texts, ids, strict=True) if (back := new.decode(i)) != t and back != old.decode(old.encode(t))]
    report.add("round_trip", not lost, f"{len(lost)} texts do not come back, e.g. {lost[:3]}", texts=len(texts), lost=len(lost))


def _check_gain(report: _Report, old: Tokenizer, new: Tokenizer, lines: list[str]) -> None:
    japanese = [line for line in lines if JAPANESE.search(line)]
    before, after = (
        tokens_per_character(tokenizer, track(japanese, f"count tokens of the {which} vocabulary", "line"))
        for which, tokenizer in (("old", old), ("new", new))
    )
    fewer = before is None or after is None or after <= before
    report.add(
        "tokens_per_japanese_character",
        fewer,
        f"Japanese takes more tokens than before: {before} -> {after}",
        before=before,
        after=after,
    )


def tokens_per_character(tokenizer: Tokenizer, texts: Iterable[str]) -> float | None:
    """Tokens that touch kana or kanji, per kana or kanji character; None where the texts have none.

    Counted by offsets, so Latin text between Japanese does not count, and each byte piece counts as a token.
    """
    tokens = characters = 0
    for text in texts:
        marks = np.isin(scripts.classes(text), _KANA_AND_KANJI)
        before = np.concatenate([[0], np.cumsum(marks)])  # before[i]: Japanese characters among text[:i]
        if before[-1]:
            tokens += sum(1 for start, end in tokenizer.encode_with_offsets(text)[1] if before[end] > before[start])
            characters += int(before[-1])
    return tokens / characters if characters else None


def _check_tables(
    report: _Report,
    old: Tokenizer,
    sources: Sequence[Sequence[int]],
    old_params: Mapping[str, Any],
    new_params: Mapping[str, Any],
) -> None:
    before, after = tables(old_params), tables(new_params)
    if "embedding" not in before or before.keys() != after.keys():
        report.add("tables", False, f"vocabulary tables are {sorted(before)} before and {sorted(after)} after")
        return
    for name, table in before.items():
        grown = after[name]
        wanted = (table.shape[0] + len(sources), table.shape[1])
        if table.shape[0] != old.vocab_size or grown.shape != wanted or grown.dtype != table.dtype:
            report.add(
                f"{name}_rows",
                False,
                f"{table.dtype}{table.shape} became {grown.dtype}{grown.shape} for {old.vocab_size} old ids",
            )
            continue
        kept = np.ascontiguousarray(grown[: table.shape[0]]).tobytes() == np.ascontiguousarray(table).tobytes()
        report.add(f"old_{name}_rows_identical", kept, "old rows changed")
        _check_means(report, name, table, grown[table.shape[0] :], sources)


def _check_means(report: _Report, name: str, table: np.ndarray, rows: np.ndarray, sources: Sequence[Sequence[int]]) -> None:
    """No element of a new row may lie further from the float64 mean than the mean rounded to the table's dtype does."""
    worst, wrong = 0.0, []
    noise = 1e-12 * float(np.abs(table).max(initial=0))  # of summing in another order in float64
    for i, ids in enumerate(sources):
        mean = np.mean([table[j].astype(np.float64) for j in ids], axis=0)
        error = np.abs(rows[i].astype(np.float64) - mean)
        allowed = np.abs(mean.astype(table.dtype).astype(np.float64) - mean) + noise
        worst = max(worst, float(error.max()))
        if not np.all(error <= allowed):  # not (<=): a NaN must fail
            wrong.append(i)
    report.add(
        f"{name}_rows_are_means",
        not wrong,
        f"{len(wrong)} new rows are not the mean of their sources, e.g. new pieces {wrong[:_LISTED]}",
        max_abs_error=worst if np.isfinite(worst) else None,
        wrong=len(wrong),
    )


def format_certificate(certificate: Mapping[str, Any]) -> str:
    """The certificate as lines of text: sizes, then one line a check with its figures."""
    lines = [f"vocabulary {certificate['old']['vocab_size']} -> {certificate['new']['vocab_size']}"]
    for name, check in certificate["checks"].items():
        figures = ", ".join(
            f"{k} {_figure(v)}" for k, v in check.items() if k not in ("passed", "reason") and not isinstance(v, list)
        )
        lines.append(f"  {'ok    ' if check['passed'] else 'FAILED'} {name}{': ' + figures if figures else ''}")
        if not check["passed"]:
            lines.append(f"         {check['reason']}")
    lines.append("certificate: " + ("passed" if certificate["passed"] else "FAILED"))
    return "\n".join(lines)


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
