"""`ja-llm quickstart`: the whole path on embedded pages and a tiny base that it trains first."""

from pathlib import Path
from typing import Any

from ja_llm.files import read_json
from ja_llm.quickstart.pages import write_warc
from ja_llm.quickstart.path import PathConfig, Walk

PROMPTS = ("朝の", "川の")


def quickstart(out: Path, workers: int = 1) -> dict[str, Any]:
    """Walk the path in `out`, print the closing table, write `out/report.html`.

    Args:
      out: folder for everything; a walk that was begun there goes on.
      workers: Beam worker processes.

    Returns:
      The numbers of the table.

    Raises:
      UsageError: `out` holds something else.
    """
    from ja_llm.evaluation.report import write_report

    out = Path(out)
    walk = Walk(out, _config(out.absolute() / "pages.warc.gz"), workers)
    if not (out / "pages.warc.gz").exists():
        write_warc(out / "pages.warc.gz")
    corpus = walk.corpus()
    walk.base()
    certificate = walk.expand()
    walk.tokens()
    run = walk.continual()
    walk.scratch()
    results = {name: walk.evaluate(model) for name, model in MODELS.items()}
    export = walk.export()
    samples = _samples(out)
    report = write_report(
        [run, out / "runs/scratch"], out / "report.html", corpus=out / "corpus", certificate=out / "models/expanded/certificate.json", samples=samples
    )
    print(closing_table(corpus, certificate, results))
    print(f"\nreport   {report}\nexport   {export}  (transformers.AutoModelForCausalLM.from_pretrained)\nnext     ja-llm generate --checkpoint {run} --prompt 朝の")
    return {"corpus": corpus["totals"], "results": results}


MODELS = {"base": "models/base", "expanded": "models/expanded", "trained": "runs/ja", "from scratch": "runs/scratch"}


def _config(warc: Path) -> PathConfig:
    """About a minute of English for the base and a minute of Japanese on two cores: enough to see the idea, not a good model."""
    return PathConfig(
        inputs=(str(warc),),
        preset="quickstart",
        model="models/tiny_1m.gin",
        base_pieces=800,
        new_pieces=800,
        length=128,
        batch_size=8,
        base_steps=300,
        steps=200,
        base_rate=3e-3,
        rate=2e-3,
        eval_period=50,
        eval_limit=20,
    )


def _samples(out: Path) -> dict[str, Any]:
    """What base and result make of the same prompts, greedily."""
    from ja_llm.evaluation.generation import generate
    from ja_llm.train.checkpoints import load_model

    path = out / "samples.json"
    if path.exists():
        return read_json(path)
    from ja_llm.files import write_json

    texts = {name: generate(load_model(out / MODELS[name]), list(PROMPTS), max_new_tokens=32) for name in ("base", "trained")}
    write_json(path, {"prompts": list(PROMPTS), **texts})
    return read_json(path)


def closing_table(corpus: dict[str, Any], certificate: dict[str, Any], results: dict[str, Any]) -> str:
    """Pages in and kept, tokens per character, bits per byte of each model; 80 columns."""
    rows = []
    for name, result in results.items():
        tasks = result["tasks"]
        ja, en = tasks["bits_per_byte_ja"]["bits_per_byte"], tasks["bits_per_byte_en"]["bits_per_byte"]
        rows.append(f"  {name:<14}{ja:>12.3f}{en:>12.3f}")
    return "\n".join(["", "bits per byte on held-out pages (lower is better)", f"  {'model':<14}{'Japanese':>12}{'English':>12}", *rows])
