"""`ja-llm mixture`: in which shares the stores of a cache are read."""

from ja_llm.command_line import path
from ja_llm.commands.parsing import add_group, add_verb, count, device_flag, set_device


def mixture(verbs) -> None:
    group = add_group(verbs, "mixture", "In which shares a cache's sources are read: by rule, and tried.")
    _rates(group)
    _sweep(group)


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
        "  ja-llm mixture rates data/tokens --method temperature --temperature 3 --max_epochs 4 --tokens 20M\n"
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
    parser.add_argument(
        "--max_epochs",
        type=float,
        metavar="N",
        help="how often a source may be read at most; with temperature the others share in proportion what it gives up",
    )
    parser.add_argument("--source", action="append", default=[], metavar="NAME", help="a replayed source (repeat)")
    parser.add_argument("--share", type=float, metavar="S", help="share of the tokens that the replayed sources have together")


def _sweep(verbs) -> None:
    from ja_llm.gin_utils import add_gin_flags, split_gin_flags

    def handler(args, rest):
        rest, bindings = split_gin_flags(rest)
        if rest:
            args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
        set_device(args.device)
        from ja_llm.recipes.replay_sweep import format_sweep, sweep

        value = sweep(
            args.gin_file,
            args.gin_bindings + bindings,
            sources=args.source,
            shares=args.share,
            seeds=range(args.seeds),
            out=args.out,
            search_paths=args.gin_search_paths,
        )
        print(f"{format_sweep(value)}\n{args.out}/sweep.html")

    parser = add_verb(
        verbs,
        "sweep",
        handler,
        "One continual run at several shares of replayed sources, with paired seeds: bits per byte of each source, with intervals. Goes on where it was.",
        "ja-llm mixture sweep --gin_file=runs/continue.gin --gin.INITIAL_CHECKPOINT_PATH=models/expanded \\\n"
        "    --gin.MIXTURE_OR_TASK_NAME=swallow_ja90_en10 --gin.CACHE_DIR=data/tokens \\\n"
        "    --gin.TASK_FEATURE_LENGTHS=\"{'targets': 256}\" --gin.TRAIN_STEPS=200 \\\n"
        "    --source web_en --share 0 0.1 0.3 --seeds 3 --out runs/replay",
        takes_rest=True,
    )
    add_gin_flags(parser)
    parser.add_argument("--source", action="append", required=True, metavar="NAME", help="a replayed source (repeat)")
    parser.add_argument(
        "--share",
        type=float,
        nargs="+",
        required=True,
        metavar="S",
        help="theirs of the tokens, in each stage that has one of them; the first is what others are compared with",
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs a share (default: 3)")
    parser.add_argument(
        "--out", type=path, required=True, metavar="DIR", help="where runs, sweep.json and sweep.html are written"
    )
    device_flag(parser)
