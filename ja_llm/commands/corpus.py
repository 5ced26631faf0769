"""`ja-llm corpus`: build a document set, and look into it."""

from beam_pipelines.flags import bindings, build_flags
from ja_llm.command_line import path, sigterm_leaves
from ja_llm.commands.corpus_classifier import train_classifier
from ja_llm.commands.parsing import add_group, add_verb


def corpus(verbs) -> None:
    group = add_group(verbs, "corpus", "Build and look into a document set.")

    def build(args, rest):
        from beam_pipelines.corpus import build_corpus, plan
        from beam_pipelines.stats import format_yields

        how = {"preset": args.preset, "gin_bindings": bindings(args), "beam_args": rest, "workers": args.workers}
        if args.dry_run:
            print(plan(args.input, args.output, **how))
        else:
            # Beam would wait for over a minute for workers that have just started; a build may be killed at any moment.
            with sigterm_leaves("ja-llm"):
                print(format_yields(build_corpus(args.input, args.output, formats=args.format, **how)))

    parser = add_verb(
        group,
        "build",
        build,
        "Web archives, dumps, records or source code to filtered, deduplicated documents (Apache Beam); other options go to Beam.",
        "ja-llm corpus build --input 'data/debian-docs/warc/*.warc.gz' --output data/corpus --preset swallow_v2",
        takes_rest=True,
    )
    build_flags(parser)

    _look(group)
    _make(group)
    train_classifier(group)


def _look(group) -> None:
    """The verbs that read what a run left."""

    def stats(args, rest):
        from beam_pipelines.stats import format_timings, format_yields
        from ja_llm import manifest

        value = manifest.read(args.directory, manifest.DOCUMENTS)
        parts = [] if args.dropped else [format_yields(value)]
        if args.timings:
            parts.append(format_timings(args.directory))
        if args.dropped:
            from beam_pipelines.samples import sample

            parts.append(sample(args.directory, [args.dropped], number=1000))
        print("\n\n".join(parts))  # at the end: a wrong reason is one sentence, not one below a table

    parser = add_verb(
        group,
        "stats",
        stats,
        "Yields per stage and reason; with --dropped REASON only samples of what was dropped for it.",
        "ja-llm corpus stats data/corpus --dropped duplicate_near",
    )
    parser.add_argument("directory", type=path, metavar="DIR")
    parser.add_argument("--dropped", metavar="REASON")
    parser.add_argument("--timings", action="store_true", help="seconds of work and documents a second for each stage, too")

    def sample(args, rest):
        from beam_pipelines.samples import sample as show

        print(show(args.directory, args.reason, args.number, args.kept, args.seed))

    parser = add_verb(
        group,
        "sample",
        sample,
        "Samples to read of what was dropped or changed, for each reason, and of what was kept.",
        "ja-llm corpus sample data/corpus --reason ja_letters_low --kept 2",
    )
    parser.add_argument("directory", type=path, metavar="DIR")
    parser.add_argument("--reason", action="append", default=[], help="of dropping or changing (repeat; default: every one)")
    parser.add_argument("--number", type=int, default=3, metavar="N", help="samples of each reason (default: 3)")
    parser.add_argument("--kept", type=int, default=0, metavar="N", help="documents of the set to show (default: 0)")
    parser.add_argument("--seed", type=int, default=1, help="which of the kept ones")

    def diff(args, rest):
        from beam_pipelines.compare import compare, format_comparison

        value = compare(args.first, args.second)
        if args.json:
            import json

            print(json.dumps(value, ensure_ascii=False, indent=1))
        else:
            print(format_comparison(value, args.first, args.second))

    parser = add_verb(
        group,
        "diff",
        diff,
        "Two runs side by side: configuration, yields, documents that stand in one of them only.",
        "ja-llm corpus diff data/corpus data/corpus-strict",
    )
    parser.add_argument("first", type=path, metavar="A")
    parser.add_argument("second", type=path, metavar="B")
    parser.add_argument("--json", action="store_true", help="as JSON")

    def trace(args, rest):
        from beam_pipelines.trace import trace as trace_document

        print(trace_document(args.directory, args.document))

    parser = add_verb(
        group,
        "trace",
        trace,
        "A document's way through every stage, kept or dropped: measures, changes, where it came from and where it stands.",
        "ja-llm corpus trace data/corpus 0123456789abcdef0123456789abcdef",
    )
    parser.add_argument("directory", type=path, metavar="DIR")
    parser.add_argument("document", metavar="ID_OR_URL")


def _make(group) -> None:
    """The verbs that write something beside a finished set."""

    def card(args, rest):
        from beam_pipelines.card import write_card

        print(write_card(args.directory))

    parser = add_verb(
        group,
        "card",
        card,
        "Write the data card (card.html, card.md) of a set anew; a build does it by itself.",
        "ja-llm corpus card data/corpus",
    )
    parser.add_argument("directory", type=path, metavar="DIR")

    def copy(args, rest):
        from beam_pipelines.formats import write_copies
        from beam_pipelines.runner import check_options

        check_options(rest)
        entries = write_copies(args.directory, args.format, rest, args.workers)
        print("\n".join(f"{entry['name']}  {entry['documents']} documents, {entry['bytes']:,} bytes" for entry in entries))

    parser = add_verb(
        group,
        "copy",
        copy,
        "Copies of a set's shards in other formats beside them, in place of other copies. Other options go to Beam.",
        "ja-llm corpus copy data/corpus --format parquet --format jsonl.zst",
        takes_rest=True,
    )
    parser.add_argument("directory", type=path, metavar="DIR")
    parser.add_argument(
        "--format", action="append", default=[], metavar="F", help="jsonl.zst, parquet, or tfrecord for none (repeat)"
    )
    parser.add_argument("--workers", type=int, default=1, help="local worker processes; 0 = one a core")

    def items(args, rest):
        from ja_llm.evaluation.item_file import write_items

        written, left_out = write_items(args.out, args.data, args.tasks)
        for task, count in written.items():
            print(f"{task:<24}{count:>8} items")
        for task, reason in left_out.items():
            print(f"{task:<24}left out: {reason}")

    parser = add_verb(
        group,
        "items",
        items,
        "The items of published evaluation sets as a file, which the stage `decontaminate` looks for in documents.",
        "ja-llm corpus items --data data/eval --tasks swallow --out data/items.jsonl",
    )
    parser.add_argument("--data", type=path, required=True, metavar="DIR", help="folder of the original evaluation files")
    parser.add_argument("--tasks", nargs="+", default=["swallow"], metavar="NAME", help="tasks or suites (default: swallow)")
    parser.add_argument("--out", type=path, required=True, metavar="FILE", help="JSON lines, an item a line")
