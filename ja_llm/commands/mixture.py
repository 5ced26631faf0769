"""`ja-llm mixture`: in which shares the stores of a cache are read."""

from ja_llm.command_line import path
from ja_llm.commands.parsing import add_group, add_verb, count


def mixture(verbs) -> None:
    _rates(add_group(verbs, "mixture", "In which shares a cache's sources are read: by rule, and tried."))


def _rates(verbs) -> None:
    def handler(args, rest):
        from ja_llm.data.rate_table import format_rates, rates_of, rule

        chosen = rule(args.method, args.temperature, args.max_epochs, args.source, args.share)
        print(format_rates(rates_of(args.cache, chosen, args.tokens)))

    parser = add_verb(
        verbs,
        "rates",
        handler,
        "Shares of a cache's sources by a rule, how often each would be read, and the flag that gives them to a run.",
        "ja-llm mixture rates data/tokens --method unimax --max_epochs 4 --tokens 20M\n"
        "  ja-llm mixture rates data/tokens --method temperature --temperature 3\n"
        "  ja-llm mixture rates data/tokens --method replay --source web_en --share 0.25",
    )
    parser.add_argument("cache", type=path, metavar="CACHE", help="folder that `ja-llm cache` wrote")
    parser.add_argument(
        "--method",
        choices=("cached", "temperature", "unimax", "replay"),
        default="cached",
        help="cached: as the mixture has them (default); temperature: size^(1/T); unimax: as even as epoch caps allow; replay: so much of some sources",
    )
    parser.add_argument("--tokens", type=count, metavar="N", help="tokens that will be read, e.g. 20M (default: all once)")
    parser.add_argument("--temperature", type=float, metavar="T", help="1: by size; larger: more even")
    parser.add_argument("--max_epochs", type=float, metavar="N", help="how often a source may be read at most")
    parser.add_argument("--source", action="append", default=[], metavar="NAME", help="a replayed source (repeat)")
    parser.add_argument("--share", type=float, metavar="S", help="share of the tokens that the replayed sources have together")
