"""Where text comes from: the quickstart's embedded pages, and what can be fetched."""

from pathlib import Path

from ja_llm.command_line import path
from ja_llm.commands.parsing import add_group, add_verb, device_flag, set_device


def quickstart(verbs) -> None:
    def handler(args, rest):
        set_device(args.device)
        from ja_llm.quickstart.run import quickstart

        quickstart(Path(args.out), workers=args.workers, base=args.base, pages=args.pages)

    parser = add_verb(
        verbs,
        "quickstart",
        handler,
        "The whole path on embedded pages and an embedded English base; ends with a table and report.html.",
        "ja-llm quickstart --out quickstart\n  ja-llm quickstart --out mine --pages my-site/ --base path/to/hf-llama",
    )
    parser.add_argument("--out", type=path, default="quickstart", help="folder for everything it makes (default: quickstart)")
    parser.add_argument(
        "--pages",
        type=path,
        metavar="P",
        help="your own pages: a WARC file, or a folder of WARC or HTML files; Japanese and English ones",
    )
    parser.add_argument(
        "--base",
        type=path,
        metavar="DIR",
        help="your own base: folder of a Hugging Face model (Llama, SentencePiece BPE vocabulary)",
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="Beam worker processes, 0 = one a core (the numbers do not depend on it)"
    )
    device_flag(parser)


def fetch(verbs) -> None:
    group = add_group(verbs, "fetch", "Fetch real, freely licensed input.")
    _eval_data(group)

    def debian_docs(args, rest):
        from ja_llm.fetch.debian_docs import fetch_debian_docs, format_summary

        print(
            format_summary(
                fetch_debian_docs(
                    args.out, mirror=args.mirror, families=args.family or None, backend=args.backend, suite=args.suite
                )
            )
        )

    parser = add_verb(
        group,
        "debian-docs",
        debian_docs,
        "Japanese, English and other documentation packages of Debian as WARC files, with aligned pairs.",
        "ja-llm fetch debian-docs --out data/debian-docs",
    )
    parser.add_argument("--out", type=path, required=True, help="output folder")
    parser.add_argument("--family", action="append", help="only this family of packages, e.g. gimp (repeat; default: all)")
    parser.add_argument(
        "--backend", choices=("auto", "apt", "mirror"), default="auto", help="apt where it exists, else a mirror over HTTPS"
    )
    parser.add_argument("--suite", default="bookworm", help="Debian release on the mirror (default: bookworm)")
    parser.add_argument("--mirror", default="https://deb.debian.org/debian", help="Debian mirror for the mirror backend")


def _eval_data(group) -> None:
    def handler(args, rest):
        from ja_llm.fetch.eval_data import fetch_eval_data, format_summary

        print(format_summary(fetch_eval_data(args.out, args.set or ())))

    parser = add_verb(
        group,
        "eval-data",
        handler,
        "Original files of published evaluation sets, from their authors' servers, with licence notes and checksums.",
        "ja-llm fetch eval-data --out data/eval --set jglue --set gsm8k",
    )
    parser.add_argument("--out", type=path, required=True, help="folder for all sets; what `ja-llm eval --data` takes")
    parser.add_argument("--set", action="append", metavar="NAME", help="only this set, e.g. jglue (repeat; default: all)")
