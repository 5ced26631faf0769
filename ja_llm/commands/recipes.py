"""`ja-llm recipes`: the published runs that are installed as gin files."""

from ja_llm.commands.parsing import add_verb


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


def _mfu_flag(parser) -> None:
    parser.add_argument(
        "--mfu", type=float, default=0.4, metavar="M", help="share of the chips' peak that the chip-hours assume (default: 0.4)"
    )
