"""Makes the quickstart's embedded base: a small English model, trained by this trainer on Debian's English documentation.

    python -m ja_llm.quickstart.make_base --out build/base        # about an hour of two cores; killed, it goes on

What is finished is kept in --out. In the end the Hugging Face folder `ja_llm/quickstart/base` is written anew: bfloat16
weights, tokenizer, model card with the licences of the texts, ledger (`ja_llm_ledger.json`); and beside it the run's log,
`base.metrics.jsonl`.
"""

import argparse
import shutil
from pathlib import Path

from ja_llm.commands.parsing import set_device
from ja_llm.quickstart.run import embedded_base
from ja_llm.quickstart.walk import NewBase, Walk, WalkConfig


def config(fetched: Path) -> WalkConfig:
    """Three epochs or so of 4.3M English tokens; what follows the base in a walk is not used."""
    return WalkConfig(
        inputs=(str(fetched / "warc" / "*.warc.gz"),),
        preset="debian_docs",
        base=NewBase("models/tiny_2m.gin", pieces=3000, steps=STEPS, rate=2e-3),
        new_pieces=0,
        length=256,
        batch_size=16,
        steps=0,
        rate=0.0,
        twin_rate=0.0,
        eval_period=200,
        eval_limit=0,
    )


STEPS = 3000


def make_base(out: Path, fetched: Path, target: Path, workers: int = 2) -> Path:
    """Fetch, clean, train, and write the base.

    Args:
      out: folder of the walk.
      fetched: output of `ja-llm fetch debian-docs`; fetched if it is not there.
      target: the Hugging Face folder to write.
      workers: Beam worker processes.
    """
    from ja_llm.fetch.debian_docs import fetch_debian_docs
    from ja_llm.interop.hf import export_hf

    fetch_debian_docs(fetched)
    walk = Walk(out / "walk", config(fetched), workers)
    walk.corpus()
    base = walk.config.base
    assert isinstance(base, NewBase)
    run = walk.new_base(base)
    export_hf(run, target, dtype="bfloat16")
    shutil.copyfile(run / "metrics.jsonl", target.with_name(f"{target.name}.metrics.jsonl"))
    return target


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/base"))
    parser.add_argument("--fetched", type=Path, help="output of `ja-llm fetch debian-docs`, if it is elsewhere")
    parser.add_argument("--target", type=Path, default=embedded_base(), help="Hugging Face folder to write")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    set_device("cpu")
    print(make_base(args.out.absolute(), (args.fetched or args.out / "debian-docs").absolute(), args.target, args.workers))


if __name__ == "__main__":
    main()
