"""The certificate of a vocabulary expansion: what must hold before a step of training, checked and written down.

Every check computes what it compares with by itself, not with the code that made the expansion.
"""

import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ja_llm.errors import JaLlmError
from ja_llm.progress import Progress, track
from ja_llm.text import scripts
from ja_llm.vocab.base import Tokenizer
from ja_llm.vocab.initialise import MEAN, RowRule, tables
from ja_llm.vocab.japanese import JAPANESE
from ja_llm.vocab.kinds import LISTED, Kind, kind_of
from ja_llm.vocab.prove_rows import prove_rows

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

HARD = {  # for the round trip
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f3fd \U0001f1ef\U0001f1f5 \u2764\ufe0f \u0031\ufe0f\u20e3",
    "half-width kana, full-width letters": "\uff76\uff9e\uff77\uff9f \uff8a\uff9d\uff76\uff78\uff76\uff85 \uff01\uff1f \uff21\uff22\uff23\uff11\uff12\uff13",
    "rare and astral kanji": "\U00020bb7\u91ce\u5bb6\u3067\u9aca\u9c3b\u3092\u98df\u3079\u308b \U0002000b\U0002a6d6\U00030edd\U000312a8 \u9f98\u9eb5",
    "control characters": "\u0001\u0004\u0006\u0007\u001b[31m\u007f\u0085\u200b\u200f\ufeff\u2028",
    "mixed scripts": "\u65e5\u672c\u8a9e\u3068English\u3068\ud55c\uad6d\uc5b4\u3068\u0440\u0443\u0441\u0441\u043a\u0438\u0439123\u3067\u3059\u3002\u0939\u093f\u0928\u094d\u0926\u0940",
    "wide spaces, combining and lengthening marks": "\u3000\u3000\u5168\u89d2\u3000\u7a7a\u767d \u3072\u3089\u304b\u3099\u306a\uff5e\u301c\u30fc\u30fc\u2015\u2026\u3031\u3035",
    "Japanese and Latin letter by letter": "a\u3042b\u3044c\u3046 d\u6f22e\u5b57 \u3042 \u3044 \u3046",
}


@dataclasses.dataclass
class Report:
    """The checks of a certificate as they are made."""

    progress: Progress | None = None
    checks: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def add(self, name: str, passed: bool, reason: str, **values: Any) -> None:
        """Note one check: whether it passed, the clause that says what is wrong if it did not, and its figures."""
        if self.progress is not None:
            self.progress.update(note=name)
        self.checks[name] = {"passed": bool(passed), **values} | ({} if passed else {"reason": reason})


def certify(
    old: Tokenizer,
    new: Tokenizer,
    sources: Sequence[Sequence[int]],
    old_params: Mapping[str, Any],
    new_params: Mapping[str, Any],
    samples: Mapping[str, Iterable[str]],
    *,
    rules: Mapping[str, RowRule] | None = None,
    padding: int = 0,
    fingerprints: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Check an expansion.

    Args:
      old: tokenizer before.
      new: tokenizer after.
      sources: old ids that each new row is the mean of.
      old_params: Decoder parameter tree before.
      new_params: the same after.
      samples: texts of each domain ("ja", "en", "code"), some of them Japanese; lines without Japanese serve as English and code,
        beside built-in ones.
      rules: how the new rows of "embedding" and "head" were made; by the mean where nothing is said.
      padding: rows behind the last id, which the model says that it masks.
      fingerprints: what the new vocabulary's has to be, by where that is known from ("recorded", "rebuilt"): the only check that sees
        a score of a unigram model that is a little off, or merges that make no piece of their own in another order.

    Returns:
      {"passed": bool, "failures": [sentences], "checks": {name: {"passed", figures, "reason" if it failed}}, "domains": characters
      and bytes per token, "examples": a line cut by both, "base_loses": clauses, and the two vocabularies' sizes and
      fingerprints}. Plain JSON values.
    """
    domains = {name: list(texts) for name, texts in samples.items()}
    texts = [text for group in domains.values() for text in group]
    lines = [line for text in texts for line in text.split("\n") if line]
    with Progress("certify", None, "check") as progress:
        report = Report(progress)
        kind = kind_of(old)
        fits = _check_pieces(report, kind, old, new, sources)
        for name, wanted in (fingerprints or {}).items():
            reason = f"the fingerprint is {new.fingerprint[:12]}, not {wanted[:12]}: a piece, score, merge or rule is another one"
            report.add(name, new.fingerprint == wanted, reason)
        if fits:
            _check_reachable(report, kind, new)
            _check_sources(report, kind, old, new, sources)
        _check_segmentation(report, kind, old, new, lines)
        _check_round_trip(report, old, new, texts)
        _check_gain(report, old, new, lines)
        if fits:
            _check_tables(report, old, sources, old_params, new_params, rules or {}, padding)
    return summary(report, old, new) | {
        "domains": {name: lengths(old, new, group) for name, group in domains.items()},
        "examples": examples(old, new, lines),
        "base_loses": kind.losses(),
        "padding": padding,
        "rows": {name: rule.to_json() for name, rule in (rules or {}).items()},
    }


def summary(report: Report, old: Tokenizer, new: Tokenizer) -> dict[str, Any]:
    """What every certificate tells: passed or not, why not, the checks, and both vocabularies."""
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
            f"the new vocabulary fails its certificate ({reasons}); nothing was written, make it again from the base model."
        )


def _check_pieces(report: Report, kind: Kind, old: Tokenizer, new: Tokenizer, sources: Sequence) -> bool:
    count = new.vocab_size - old.vocab_size
    wrong = kind.changes(new) if type(new) is type(old) else ["the kind of tokenizer changed"]
    if count != len(sources):
        wrong.insert(0, f"{count} pieces were added but {len(sources)} sources given")
    report.add("pieces", not wrong, "; ".join(wrong), added=count)
    return type(new) is type(old) and count == len(sources) and count >= 0


def _check_reachable(report: Report, kind: Kind, new: Tokenizer) -> None:
    dead = kind.dead(new)
    report.add("reachable", not dead, f"{len(dead)} new pieces are never used: {dead[:LISTED]}", dead=len(dead), dead_pieces=dead)


def _check_sources(report: Report, kind: Kind, old: Tokenizer, new: Tokenizer, sources: Sequence) -> None:
    names = [new.id_to_piece(i) for i in range(old.vocab_size, new.vocab_size)]
    wrong = [n for n, ids, given in zip(names, kind.sources(new), sources, strict=True) if ids != list(given)]
    report.add("sources", not wrong, f"the old tokenizer spells these otherwise: {wrong[:LISTED]}", wrong=len(wrong))


def _check_segmentation(report: Report, kind: Kind, old: Tokenizer, new: Tokenizer, lines: list[str]) -> None:
    """Ids of texts without Japanese: given lines, built-in ones, every old piece, random sequences of old pieces."""
    surfaces = [s for s in kind.surfaces() if not kind.touched(s)]
    draw = random.Random(0)
    mixed = ["".join(draw.choices(surfaces, k=16)) for _ in range(1000)] if surfaces else []
    given = [line for line in lines if not kind.touched(line)]
    texts = [*given, *ENGLISH_AND_CODE, *surfaces, *mixed]
    differ = [t for t, a, b in zip(texts, old.encode_batch(texts), new.encode_batch(texts), strict=True) if a != b]
    share = 1.0 - len(differ) / len(texts)
    reason = f"{len(differ)} of {len(texts)} texts without Japanese got other ids, e.g. {differ[:3]}"
    figures = {"share": share, "texts": len(texts), "given_lines": len(given), "lines_with_japanese": len(lines) - len(given)}
    report.add("english_and_code_identical", not differ, reason, **figures, exceptions=differ[:LISTED])


def _check_round_trip(report: Report, old: Tokenizer, new: Tokenizer, samples: list[str]) -> None:
    """Texts come back. Where the base itself loses something (a normaliser, no byte fallback), the new one loses nothing more."""
    texts = [*samples, *ENGLISH_AND_CODE, *HARD.values()]
    lost, as_the_base = [], set()
    for text, ids in zip(texts, new.encode_batch(texts), strict=True):
        back = new.decode(ids)
        if back != text:
            before = old.decode(old.encode(text))
            if before == text or Counter(before) & Counter(text) - Counter(back):
                lost.append(text)
            else:
                as_the_base.add(text)
    hard = {name: "lost" if x in lost else "as with the base" if x in as_the_base else "whole" for name, x in HARD.items()}
    reason = f"{len(lost)} texts do not come back, e.g. {lost[:3]}"
    report.add("round_trip", not lost, reason, texts=len(texts), lost=len(lost), as_with_the_base=len(as_the_base), hard=hard)


def _check_gain(report: Report, old: Tokenizer, new: Tokenizer, lines: list[str]) -> None:
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


def lengths(old: Tokenizer, new: Tokenizer, texts: Sequence[str]) -> dict[str, Any]:
    """Characters, and characters and UTF-8 bytes per token, before and after; None where the texts are empty."""
    characters, size = sum(map(len, texts)), sum(len(text.encode("utf-8")) for text in texts)
    tokens = {"before": sum(map(len, old.encode_batch(texts))), "after": sum(map(len, new.encode_batch(texts)))}
    return {
        "characters": characters,
        "characters_per_token": {when: characters / count if count else None for when, count in tokens.items()},
        "bytes_per_token": {when: size / count if count else None for when, count in tokens.items()},
    }


def examples(old: Tokenizer, new: Tokenizer, lines: Sequence[str], count: int = 3) -> list[dict[str, Any]]:
    """The first lines that are mostly Japanese and of some length, as each tokenizer cuts them."""
    found = (line for line in lines if 20 <= len(line) <= 60 and 2 * len(JAPANESE.findall(line)) > len(line))
    return [{"text": x, "before": _cut(old, x), "after": _cut(new, x)} for x in itertools.islice(found, count)]


def _cut(tokenizer: Tokenizer, text: str) -> list[str]:
    """What each token covers of the text; "+" for a further token on the same character."""
    shown, last = [], 0
    for start, end in tokenizer.encode_with_offsets(text)[1]:
        shown.append("+" if start < end <= last else text[start:end])
        last = max(last, end)
    return shown


def _check_tables(
    report: Report,
    old: Tokenizer,
    sources: Sequence[Sequence[int]],
    old_params: Mapping[str, Any],
    new_params: Mapping[str, Any],
    rules: Mapping[str, RowRule],
    padding: int,
) -> None:
    before, after = tables(old_params), tables(new_params)
    if "embedding" not in before or before.keys() != after.keys():
        report.add("tables", False, f"vocabulary tables are {sorted(before)} before and {sorted(after)} after")
        return
    size = old.vocab_size
    for stream, (name, table) in enumerate(sorted(before.items())):
        grown = after[name]
        wanted = (size + len(sources) + padding, table.shape[1])
        if table.shape[0] < size or grown.shape != wanted or grown.dtype != table.dtype:
            report.add(
                f"{name}_rows",
                False,
                f"{table.dtype}{table.shape} became {grown.dtype}{grown.shape} for {size} old ids, {len(sources)} new ones "
                f"and {padding} that pad",
            )
            continue
        kept = np.ascontiguousarray(grown[:size]).tobytes() == np.ascontiguousarray(table[:size]).tobytes()
        report.add(f"old_{name}_rows_identical", kept, "old rows changed", base_padding_dropped=table.shape[0] - size)
        rows = grown[size : size + len(sources)]
        prove_rows(report.add, name, table[:size], rows, sources, rules.get(name, MEAN), stream)
        if padding:
            zero = not np.any(grown[size + len(sources) :])
            report.add(f"{name}_padding_is_zero", zero, "rows that pad the table are not zero", rows=padding)


def format_certificate(certificate: Mapping[str, Any]) -> str:
    """The certificate as lines of text: sizes, then one line a check with its figures."""
    lines = [f"vocabulary {certificate['old']['vocab_size']} -> {certificate['new']['vocab_size']}"]
    for name, check in certificate["checks"].items():
        figures = ", ".join(
            f"{k} {_figure(v)}" for k, v in check.items() if k not in ("passed", "reason") and not isinstance(v, list | dict)
        )
        lines.append(f"  {'ok    ' if check['passed'] else 'FAILED'} {name}{': ' + figures if figures else ''}")
        if not check["passed"]:
            lines.append(f"         {check['reason']}")
    for name, domain in certificate.get("domains", {}).items():
        before, after = (domain["characters_per_token"][when] for when in ("before", "after"))
        if before and after:
            lines.append(f"  {name}: {before:.3f} -> {after:.3f} characters per token")
    lines += [f"  the base itself loses text: {clause}" for clause in certificate.get("base_loses", [])]
    lines.append("certificate: " + ("passed" if certificate["passed"] else "FAILED"))
    return "\n".join(lines)


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
