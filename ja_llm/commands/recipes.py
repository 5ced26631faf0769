"""`ja-llm recipes`: the published runs that are installed as gin files."""

from ja_llm.command_line import path
from ja_llm.commands.parsing import add_verb, count


def recipes(verbs) -> None:
    def listed(args, rest):
        from ja_llm.recipes import catalogue, tables

        print(tables.listing(catalogue.catalogue(), args.mfu))

    parser = add_verb(
        verbs,
        "recipes",
        listed,
        "Published pre-training runs as gin files: tokens, batch, rates, hardware that fits, chip-hours (docs/recipes.md).",
        "ja-llm recipes",
    )
    _mfu_flag(parser)
    inner = parser.add_subparsers(dest="recipes_verb", metavar="WHAT")
    _show(inner)
    _shrink(inner)


def _show(verbs) -> None:
    def handler(args, rest):
        from ja_llm.recipes import catalogue, tables

        print(catalogue.text_of(args.name) if args.gin else tables.one(catalogue.resolve(args.name), args.mfu))

    parser = add_verb(
        verbs,
        "show",
        handler,
        "One recipe: its settings as they resolve, its mixture in tokens, what it would take.",
        "ja-llm recipes show swallow_llama31_8b_v02",
    )
    parser.add_argument("name", metavar="NAME", help="as `ja-llm recipes` lists it")
    parser.add_argument("--gin", action="store_true", help="print the gin file itself, with its sources and what is uncertain")
    _mfu_flag(parser)


def _shrink(verbs) -> None:
    def handler(args, rest):
        from pathlib import Path

        from ja_llm.recipes.twin import told, write_twin

        out = args.out or f"{args.name}_small"
        sizes = {"vocab_size": args.vocab_size, "length": args.length, "batch_size": args.batch_size}
        there = Path(out).exists()
        twin = write_twin(
            args.name, out, params=args.params, tokens=args.tokens, documents=args.documents, vocab=args.vocab, **sizes
        )
        print(told(twin, out, bool(args.documents), there))

    parser = add_verb(
        verbs,
        "shrink",
        handler,
        "A small twin of a recipe that a CPU or one GPU trains: a model of the same proportions, the same mixture, stages and shape of schedule.",
        "ja-llm recipes shrink swallow_llama31_8b_v02 --params 5M --tokens 20M --out swallow_small",
    )
    parser.add_argument("name", metavar="NAME", help="as `ja-llm recipes` lists it")
    parser.add_argument("--params", type=count, default=5_000_000, metavar="N", help="parameters, tables counted (default: 5M)")
    parser.add_argument("--tokens", type=count, default=20_000_000, metavar="N", help="tokens read in all (default: 20M)")
    parser.add_argument("--out", type=path, metavar="DIR", help="folder to write (default: NAME_small)")
    parser.add_argument(
        "--documents",
        type=path,
        action="append",
        default=[],
        metavar="DIR",
        help="document sets as `ja-llm cache` takes them, NAME=DIR or DIR for all others (default: embedded pages stand in for the sources)",
    )
    parser.add_argument(
        "--vocab", type=path, metavar="DIR", help="folder of a tokenizer (default: one is trained on the documents)"
    )
    parser.add_argument(
        "--vocab_size", type=int, default=2000, metavar="N", help="pieces of the one that is trained (default: 2000)"
    )
    parser.add_argument("--length", type=int, default=256, metavar="N", help="tokens in a row (default: 256)")
    parser.add_argument("--batch_size", type=int, default=16, metavar="N", help="rows a step (default: 16)")


def _mfu_flag(parser) -> None:
    parser.add_argument(
        "--mfu", type=float, default=0.4, metavar="M", help="share of the chips' peak that the chip-hours assume (default: 0.4)"
    )
