"""`ja-llm quickstart`: the whole path on embedded pages and a tiny base that it trains first."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ja_llm.quickstart.pages import write_warc
from ja_llm.quickstart.walk import MODELS, Walk, WalkConfig

# What so few held-out pages can tell; a choice between English continuations would need more of them.
TASKS = ["bits_per_byte_ja", "bits_per_byte_en", "continuation_choice_ja"]
PROMPTS = ("朝の庭では、", "むかし、この町には", "In the morning,")


def sizes(warc: Path) -> WalkConfig:
    """About a minute of English for the base and a minute of Japanese on two cores: enough to see the idea, not a good model."""
    return WalkConfig(
        inputs=(str(warc),),
        preset="quickstart",
        model="models/tiny_1m.gin",
        base_pieces=700,
        new_pieces=400,
        length=128,
        batch_size=8,
        base_steps=200,
        steps=150,
        base_rate=3e-3,
        rate=2e-3,
        eval_period=50,
        eval_limit=20,
    )


def quickstart(out: str | Path, workers: int = 1, sizes: Callable[[Path], WalkConfig] = sizes) -> dict[str, Any]:
    """Walk the path in `out`, print the closing table, write `out/report.html`.

    Args:
      out: folder for everything; a walk that was begun there goes on.
      workers: Beam worker processes; no number depends on it.
      sizes: path of the WARC -> sizes of the walk.

    Returns:
      {"corpus": manifest, "certificate": ..., "results": {model: results}}.

    Raises:
      UsageError: `out` holds something else.
    """
    out = Path(out).absolute()
    warc = out / "pages.warc.gz"
    walk = Walk(out, sizes(warc), workers)
    if not warc.exists():
        write_warc(warc)
    corpus = walk.corpus()
    walk.base()
    certificate = walk.expand()
    walk.tokens()
    run = walk.continual()
    walk.scratch()
    results = {name: walk.evaluate(model, TASKS) for name, model in MODELS.items()}
    export = walk.export()
    report = walk.report(samples=walk.generate(PROMPTS))
    print(closing_table(corpus, certificate, results))
    print(
        f"\nreport  {report}\nexport  {export} (transformers loads it)\nnext    ja-llm generate --checkpoint {run} --prompt 朝の"
    )
    return {"corpus": corpus, "certificate": certificate, "results": results}


_NAMES = {"base": "English base", "expanded": "after expansion", "trained": "after training", "scratch": "from scratch"}


def closing_table(corpus: dict[str, Any], certificate: dict[str, Any], results: dict[str, Any]) -> str:
    """Tokens per character and bits per byte of each model, as lines of at most 80 columns.

    Args:
      corpus: the document set's manifest.
      certificate: of the expansion.
      results: model name -> `evaluate`'s results.
    """
    tokens = certificate["checks"]["tokens_per_japanese_character"]
    kept = sum(shard["documents"] for shard in corpus["shards"])
    lines = [
        "",
        f"documents kept                    {kept:8d}   (ja-llm corpus stats says why the others went)",
        f"tokens per Japanese character     {tokens['before']:8.2f}   before, {tokens['after']:.2f} after expansion",
        "",
        "bits per byte on held-out pages (lower is better)   Japanese     English",
    ]
    for name, result in results.items():
        ja, en = (result["tasks"][f"bits_per_byte_{lang}"]["bits_per_byte"] for lang in ("ja", "en"))
        lines.append(f"  {_NAMES[name]:<48}{ja:10.3f}  {en:10.3f}")
    return "\n".join(lines)
