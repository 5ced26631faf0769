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
    _common_crawl(group)
    _wikipedia(group)

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
        from ja_llm.fetch.eval_data import SetsFailed, fetch_eval_data, format_summary

        try:
            print(format_summary(fetch_eval_data(args.out, args.set or ())))
        except SetsFailed as error:
            print(format_summary(error.told))
            raise

    parser = add_verb(
        group,
        "eval-data",
        handler,
        "Original files of published evaluation sets, from their authors' servers, with licence notes and checksums.",
        "ja-llm fetch eval-data --out data/eval --set jglue --set gsm8k",
    )
    parser.add_argument("--out", type=path, required=True, help="folder for all sets; what `ja-llm eval --data` takes")
    parser.add_argument("--set", action="append", metavar="NAME", help="only this set, e.g. jglue (repeat; default: all)")


def _common_crawl(group) -> None:
    def handler(args, rest):
        from ja_llm.fetch.common_crawl import Wish, fetch_common_crawl, format_summary

        index = args.index or ("cdx" if args.url else "columnar")
        wish = Wish(args.crawl, tuple(args.url or ()), index, args.language, args.parts, args.limit, args.records_per_file)
        print(format_summary(fetch_common_crawl(args.out, wish, data=args.mirror, index=args.index_server, rate=args.rate)))

    parser = add_verb(
        group,
        "common-crawl",
        handler,
        "Records of one Common Crawl whose main language is Japanese, by byte range, as WARC files; a broken run goes on.",
        "ja-llm fetch common-crawl --crawl CC-MAIN-2024-10 --url '*.go.jp' --limit 1000 --out data/cc\n"
        "  ja-llm fetch common-crawl --crawl CC-MAIN-2024-10 --parts 1 --out data/cc",
    )
    parser.add_argument("--out", type=path, required=True, help="output folder")
    parser.add_argument("--crawl", required=True, help="name of the crawl, e.g. CC-MAIN-2024-10")
    parser.add_argument(
        "--url", action="append", metavar="PATTERN", help="only these sites, by the CDX server: '*.example.jp' (repeat)"
    )
    parser.add_argument("--index", choices=("cdx", "columnar"), help="default: cdx with --url, else columnar (needs pyarrow)")
    parser.add_argument("--language", default="jpn", help="ISO 639-3 code of the main language (default: jpn)")
    parser.add_argument("--parts", type=int, default=0, help="only the first N files (of 300) of the columnar index")
    parser.add_argument("--limit", type=int, default=0, help="at most N records")
    parser.add_argument("--records_per_file", type=int, default=10_000, help="records in a WARC file (default: 10000)")
    parser.add_argument("--rate", type=float, default=2.0, help="requests a second at most (default: 2)")
    parser.add_argument("--mirror", default="https://data.commoncrawl.org", help="data server")
    parser.add_argument("--index_server", default="https://index.commoncrawl.org", help="CDX server")


def _wikipedia(group) -> None:
    def handler(args, rest):
        from ja_llm.fetch.wikipedia import fetch_wikipedia, format_summary

        how = {"date": args.date, "form": args.format, "base": args.mirror, "limit_files": args.limit_files}
        print(format_summary(fetch_wikipedia(args.out, args.wiki, **how)))

    parser = add_verb(
        group,
        "wikipedia",
        handler,
        "The newest finished dump of a Wikipedia's articles, checked by its checksums; a broken run goes on.",
        "ja-llm fetch wikipedia --wiki jawiki --out data/jawiki\n  ja-llm fetch wikipedia --format cirrus --date 20240101 --out data/cirrus",
    )
    parser.add_argument("--out", type=path, required=True, help="output folder")
    parser.add_argument("--wiki", default="jawiki", help="name of the wiki in the dumps (default: jawiki)")
    parser.add_argument("--date", default="latest", help="YYYYMMDD, or latest (default)")
    parser.add_argument(
        "--format", choices=("xml", "cirrus"), default="xml", help="wikitext as XML, or CirrusSearch's plain text"
    )
    parser.add_argument("--limit_files", type=int, default=0, help="only the first N files of the dump")
    parser.add_argument("--mirror", default="https://dumps.wikimedia.org", help="dump server, or a mirror with its layout")
