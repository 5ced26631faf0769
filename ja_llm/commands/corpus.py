"""`ja-llm corpus`: build a document set, and look into it."""

from beam_pipelines.flags import build_flags
from ja_llm.command_line import path
from ja_llm.commands.corpus_classifier import train_classifier
from ja_llm.commands.parsing import add_group, add_verb


def corpus(verbs) -> None:
    group = add_group(verbs, "corpus", "Build and look into a document set.")

    def build(args, rest):
        from beam_pipelines.corpus import build_corpus, plan
        from beam_pipelines.stats import format_yields

        how = {"preset": args.preset, "gin_bindings": args.bindings, "beam_args": rest, "workers": args.workers}
        if args.dry_run:
            print(plan(args.input, args.output, **how))
        else:
            print(format_yields(build_corpus(args.input, args.output, **how)))

    parser = add_verb(
        group,
        "build",
        build,
        "WARC files to filtered, deduplicated documents (Apache Beam); other options go to Beam.",
        "ja-llm corpus build --input 'data/debian-docs/warc/*.warc.gz' --output data/corpus --preset swallow_v2",
        takes_rest=True,
    )
    build_flags(parser)

    def stats(args, rest):
        from beam_pipelines.stats import dropped_samples, format_yields
        from ja_llm import manifest

        print(format_yields(manifest.read(args.directory, manifest.DOCUMENTS)))
        if args.dropped:
            print(dropped_samples(args.directory, args.dropped))

    parser = add_verb(
        group,
        "stats",
        stats,
        "Yields per stage and reason; with --dropped REASON samples of what was dropped for it.",
        "ja-llm corpus stats data/corpus --dropped duplicate_near",
    )
    parser.add_argument("directory", type=path, metavar="DIR")
    parser.add_argument("--dropped", metavar="REASON")

    def trace(args, rest):
        from beam_pipelines.stats import trace as trace_document

        print(trace_document(args.directory, args.id))

    parser = add_verb(
        group,
        "trace",
        trace,
        "Where a document came from: URL, package, licence, stages.",
        "ja-llm corpus trace data/corpus 0123456789abcdef0123456789abcdef",
    )
    parser.add_argument("directory", type=path, metavar="DIR")
    parser.add_argument("id", metavar="DOCUMENT_ID")

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

    train_classifier(group)
