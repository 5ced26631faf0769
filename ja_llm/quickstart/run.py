"""`ja-llm quickstart`: the whole path on embedded pages and an embedded English base."""

import importlib.resources
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import shown
from ja_llm.quickstart.own_pages import embedded_pages, own_pages
from ja_llm.quickstart.walk import (
    Walk,
    WalkConfig,
    check_languages,
    dropped_by_reason,
    kept_by_language,
    pages_in,
)

# What so few held-out pages can tell; a choice between English continuations would need more of them.
TASKS = ["bits_per_byte_ja", "bits_per_byte_en", "continuation_choice_ja"]
PROMPTS = ("朝の庭では、", "むかし、この町には", "In the morning,")
_STAGES = 10


def embedded_base() -> Path:
    """The English base that comes with the package, a Hugging Face folder; `make_base` remakes it."""
    return Path(str(importlib.resources.files("ja_llm.quickstart"))) / "base"


def sizes(inputs: tuple[str, ...], base: str) -> WalkConfig:
    """About a minute of Japanese on two cores, and as much for the twin: enough to see the idea, not a good model.

    The rates come from `benchmarks/quickstart_rate.py`, which measures on pages that are not held out here.
    """
    return WalkConfig(
        inputs=inputs,
        preset="quickstart",
        base=base,
        new_pieces=400,
        length=128,
        batch_size=8,
        steps=200,
        rate=1.6e-3,
        twin_rate=8e-4,
        eval_period=50,
        eval_limit=20,
    )


def quickstart(
    out: str | Path,
    workers: int = 1,
    base: str | Path | None = None,
    pages: str | Path | None = None,
    sizes: Callable[[tuple[str, ...], str], WalkConfig] = sizes,
) -> dict[str, Any]:
    """Walk the path in `out`, print the closing table, write `out/report.html`.

    Args:
      out: folder for everything; a walk that was begun there goes on.
      workers: Beam worker processes; no number depends on it.
      base: folder of a Hugging Face model; the embedded one when None.
      pages: WARC file, or folder of WARC or of HTML files; the embedded ones when None.
      sizes: (WARC files, base) -> sizes of the walk.

    Returns:
      {"corpus": manifest, "certificate": ..., "results": {model: results}}.

    Raises:
      UsageError: `out` holds something else; there is no such base or there are no such pages.
      JaLlmError: too few pages of a language are left, or a stage failed; Ctrl-C.
    """
    if workers < 0:
        raise UsageError(f"--workers {workers}: give a number of processes, or 0 for one a core.")
    out = Path(out).absolute()
    start = time.monotonic()
    warc = out / "pages.warc.gz"
    chosen = embedded_pages(warc) if pages is None else own_pages(Path(pages).absolute(), warc)
    base = embedded_base() if base is None else Path(base).absolute()
    walk = Walk(out, sizes(chosen.inputs, str(base)), workers, _STAGES, pages=chosen.digest)
    _greet(out)
    try:
        if not warc.exists():
            chosen.write()
        result = _walk(walk)
    except KeyboardInterrupt:
        raise JaLlmError(
            f"stopped; the finished stages and the last checkpoint are kept in {shown(out)}, the same command goes on from there."
        ) from None
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    print(f"\nthis call took {minutes} min {seconds} s", file=sys.stderr)
    return result


def _walk(walk: Walk) -> dict[str, Any]:
    corpus = walk.corpus()
    check_languages(corpus, shown(walk.out / "corpus"))
    walk.base()
    certificate = walk.expand()
    walk.tokens()
    run = walk.continual()
    walk.scratch()
    results = walk.evaluate(TASKS)
    samples = walk.generate(PROMPTS)
    export = walk.export()
    report = walk.report(samples=samples)
    print("\n" + closing_table(corpus, certificate, results))
    print(closing_words(results))
    print(_entry("report", f"{shown(report)} (open it in a browser)"))
    print(_entry("export", f"{shown(export)} (transformers loads it)"))
    print(_entry("next", f"ja-llm generate --checkpoint {shown(run)} --prompt 朝の"))
    print(_entry("", "docs/first_steps.md: the same path on real text"))
    return {"corpus": corpus, "certificate": certificate, "results": results}


def _greet(out: Path) -> None:
    here = Path(sys.argv[0])
    hint = ""
    if here.name == "ja-llm" and not shutil.which("ja-llm"):
        hint = f" To type them yourself: . {shown(here.parent)}/activate"
    text = (
        f"From web pages to a better Japanese model, in {_STAGES} stages; everything goes into {shown(out)}. "
        f"After each $ stands the command that does the stage.{hint}"
    )
    print(textwrap.fill(text, 80, break_on_hyphens=False, break_long_words=False), file=sys.stderr, flush=True)


_NAMES = {
    "base": "base",
    "expanded": "after expansion, untrained",
    "trained": "after training (ja)",
    "scratch": "twin: the same training from random weights",
}


def closing_table(corpus: Mapping[str, Any], certificate: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Pages, tokens per character and bits per byte of each model, as lines of at most 80 columns.

    Args:
      corpus: the document set's manifest.
      certificate: of the expansion.
      results: model name -> `evaluate`'s results.
    """
    tokens = certificate["checks"]["tokens_per_japanese_character"]
    came, kept, dropped = pages_in(corpus), kept_by_language(corpus), dropped_by_reason(corpus)
    languages = ", ".join(f"{count:,} {lang}" for lang, count in kept.items())
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in dropped.items())
    before, after = tokens["before"], tokens["after"]
    held = [
        sum(s["documents"] for s in corpus["shards"] if (s["lang"], s["split"]) == (lang, "heldout")) for lang in ("ja", "en")
    ]
    lines = [
        _entry("pages", f"{came:,} in, {sum(kept.values()):,} kept ({languages}), {sum(dropped.values()):,} dropped"),
        *([_entry("", f"by reason: {reasons}")] if reasons else []),
        _entry("tokens", f"{before:.2f} per Japanese character before, {after:.2f} after expansion ({after / before - 1:+.0%})"),
        "",
        "bits per byte on held-out pages (lower is better)",
        f"  {'':<52}{f'{held[0]} Japanese':>12}{f'{held[1]} English':>12}",
    ]
    for name, result in results.items():
        ja, en = (_bits(result, lang) for lang in ("ja", "en"))
        lines.append(f"  {_NAMES[name]:<52}{ja:12.3f}{en:12.3f}")
    return "\n".join(lines) + "\n"


def closing_words(results: Mapping[str, Any]) -> str:
    """What was learnt and what was forgotten, from the same figures."""
    base, trained, twin = ({lang: _bits(results[n], lang) for lang in ("ja", "en")} for n in ("base", "trained", "scratch"))
    learnt = f"Japanese text costs {_change(trained['ja'], base['ja'])} bits than for the base, {_change(trained['ja'], twin['ja'])} than for the twin"
    forgot = f"English text of these pages' kind costs {_change(trained['en'], base['en'])} bits than for the base"
    verb = "forgot" if trained["en"] > base["en"] else "English"
    why = (
        ""
        if verb == "forgot"
        else ": a tenth of the training text was of this kind; what was lost of others is not measured here"
    )
    return f"{_entry('learnt', learnt)}\n{_entry(verb, forgot + why)}"


def _change(new: float, old: float) -> str:
    return f"{abs(new / old - 1):.1%} {'fewer' if new <= old else 'more'}"


def _bits(result: Mapping[str, Any], lang: str) -> float:
    return result["tasks"][f"bits_per_byte_{lang}"]["bits_per_byte"]


def _entry(name: str, text: str) -> str:
    """A named line, wrapped at 80 columns."""
    return textwrap.fill(f"{name:<9}{text}", 80, subsequent_indent=" " * 9, break_on_hyphens=False, break_long_words=False)
