"""`ja-llm vocab`: train, expand, trim and certify vocabularies."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ja_llm.command_line import path
from ja_llm.commands.parsing import add_group, add_verb, set_device, spare_rows_flag


def vocab(verbs) -> None:
    group = add_group(verbs, "vocab", "Train, expand, trim and certify vocabularies.")
    _train(group)
    _expand(group)
    _certify(group)
    _trim(group)
    _rollback(group)
    _sweep(group)


@contextlib.contextmanager
def _bound(args, rest) -> Iterator[None]:
    """What the verb's gin flags bind, for the length of the block; import what they name before it."""
    from ja_llm.gin_utils import parsed, split_gin_flags

    rest, bindings = split_gin_flags(rest)
    if rest:
        args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    with parsed(args.gin_file, [*args.gin_bindings, *bindings], args.gin_search_paths):
        yield


def _given(**values: Any) -> dict[str, Any]:
    """Flags that were given; for the others the function's own value holds, or one bound by gin."""
    return {name: value for name, value in values.items() if value is not None}


def _train(group) -> None:
    def train(args, rest):
        from ja_llm.errors import UsageError
        from ja_llm.vocab.train_documents import train_on_documents

        size, several = _size(args.size), "=" in args.size
        if several and args.lang:
            raise UsageError(f"--lang {args.lang}: --size {args.size} names the languages itself; leave --lang out.")
        shares = {name: float(share) for name, share in _pairs("--source", args.source or [], "wiki=1").items()}
        options = _given(lang=args.lang, shares=shares or None, segments=args.segments)
        options |= _given(model_type=args.type or ("unigram" if several else None))
        with _bound(args, rest):
            tokenizer = train_on_documents(args.documents, args.out, vocab_size=size, **options)
        print(f"{args.out}: {tokenizer.vocab_size} pieces, fingerprint {tokenizer.fingerprint[:12]}")
        asked = sum(size.values()) if isinstance(size, dict) else size
        if tokenizer.vocab_size < asked:
            print(_fewer(asked, "and some stand in several languages" if several else ""))
        _say_if_not_exportable(args.out)

    parser = add_verb(
        group,
        "train",
        train,
        "Train a vocabulary on a document set.",
        "ja-llm vocab train --documents data/corpus --lang en --size 4000 --out data/vocab_en\n"
        "  ja-llm vocab train --documents data/corpus --size ja=30000,en=20000 --segments morpheme --out data/vocab",
        takes_rest=True,
    )
    parser.add_argument("--documents", type=path, required=True, metavar="DIR", help="document set")
    parser.add_argument("--lang", help="of the documents (default: en); not with --size LANG=N")
    parser.add_argument(
        "--size",
        required=True,
        metavar="N|LANG=N,...",
        help="pieces in all; or of a unigram model for each language, which are then joined and their scores estimated anew",
    )
    parser.add_argument(
        "--type", choices=("bpe", "unigram", "byte_level"), help="default: bpe, and unigram for several languages"
    )
    parser.add_argument(
        "--source",
        action="append",
        metavar="NAME=SHARE",
        help="share of a source in the sample, e.g. wiki=1; several times; others are left out",
    )
    _segments(parser, "no piece crosses Japanese words found in this way (default: script changes; for several languages word)")
    parser.add_argument("--out", type=path, required=True)
    _gin_flags(parser, "train_sentencepiece.character_coverage=0.9999", "train_joint.epochs=4", "train_byte_level.min_count=3")


def _gin_flags(parser, *examples: str) -> None:
    from ja_llm.gin_utils import add_gin_flags

    told = "\n".join(f"  --gin.{example}" for example in examples)
    add_gin_flags(parser.add_argument_group("other values, by gin", f"such as\n{told}"))


def _fewer(asked: int, why: str = "") -> str:
    return f"fewer than the {asked} that were asked for: the text has no more{', ' if why else ''}{why}, or the number was rounded down"


def _say_if_not_exportable(folder: str | Path) -> None:
    """Before any training rests on the vocabulary."""
    from ja_llm.vocab.base import load_tokenizer
    from ja_llm.vocab.export import not_exportable

    if reason := not_exportable(load_tokenizer(folder)):
        print(f"note for `ja-llm export`: {reason}")


def _segments(parser, text: str) -> None:
    parser.add_argument("--segments", choices=("word", "script", "none", "morpheme"), help=text)


def _size(value: str) -> int | dict[str, int]:
    from ja_llm.errors import UsageError

    try:
        named = _pairs("--size", value.split(","), "ja=30000") if "=" in value else {"": value}
        sizes = {lang: int(size) for lang, size in named.items()}
    except ValueError:
        sizes = {"": 0}
    if min(sizes.values()) < 1:
        raise UsageError(f"--size {value}: give a whole number from 1, or one for each language as in ja=30000,en=20000.")
    return sizes if "=" in value else sizes[""]


def _pairs(flag: str, values: list[str], example: str) -> dict[str, str]:
    """NAME=NUMBER several times."""
    from ja_llm.errors import UsageError

    pairs: dict[str, str] = {}
    for value in values:
        name, equals, number = value.partition("=")
        if not name or not equals or name in pairs or not re.fullmatch(r"[0-9]+\.?[0-9]*|\.[0-9]+", number):
            raise UsageError(f"{flag} {value}: give each name once with a number, such as {example}.")
        pairs[name] = number
    return pairs


def _expand(group) -> None:
    def expand(args, rest):
        set_device("cpu")
        from ja_llm.vocab.certify import format_certificate
        from ja_llm.vocab.surgery import expand_model

        options = _given(lang=args.lang, pad_to=args.pad_to, embedding_init=args.init, head_init=args.head_init)
        options |= _given(segments=args.segments, spare_rows=args.spare_rows)
        with _bound(args, rest):
            certificate = expand_model(args.model, args.documents, args.out, new_pieces=args.pieces, **options)
        print(format_certificate(certificate))
        if certificate["checks"]["pieces"]["added"] < args.pieces:
            print(_fewer(args.pieces))
        _say_if_not_exportable(Path(args.out) / "vocab")

    parser = add_verb(
        group,
        "expand",
        expand,
        "Add Japanese pieces to a model (SentencePiece or byte-level BPE); writes a certificate.",
        "ja-llm vocab expand --model models/base --documents data/corpus --pieces 4000 --out models/expanded",
        takes_rest=True,
    )
    parser.add_argument("--model", type=path, required=True, metavar="DIR", help="model directory, or DIR@STEP")
    parser.add_argument("--documents", type=path, required=True, metavar="DIR", help="document set; its train split is used")
    parser.add_argument("--lang", help="language of the documents to learn pieces from (default: ja)")
    parser.add_argument("--pieces", type=int, required=True, help="how many pieces to add")
    _pad_to(parser)
    spare_rows_flag(parser)
    rules = ("mean", "frequency", "nearest", "random")
    parser.add_argument("--init", choices=rules, help="new rows from the old pieces' rows (default: their mean)")
    parser.add_argument("--head_init", choices=rules, help="the same for a head of its own (default: as --init)")
    _segments(parser, "new pieces cross no Japanese word found in this way; morpheme needs ja_llm[eval-ja] (default: word)")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="model directory to write")
    _gin_flags(
        parser, "expand_byte_level.align=8", "expand_sentencepiece.min_count=5", "expand_unigram.epochs=8", "expand_model.seed=1"
    )


def _pad_to(parser) -> None:
    parser.add_argument(
        "--pad_to", type=int, metavar="N", help="pad the tables with masked rows of zeros to a multiple of N (default: 128)"
    )


def _certify(group) -> None:
    def certify(args, rest):
        set_device("cpu")
        from ja_llm.vocab.certify import format_certificate
        from ja_llm.vocab.surgery import certify_models

        options = _given(spare_rows=args.spare_rows)
        report = certify_models(args.old, args.new, args.documents, rebuild=args.rebuild, **options)
        print(format_certificate(report))
        if args.out:
            from ja_llm.files import atomic_write, write_json
            from ja_llm.vocab.certificate_page import PAGE, page

            write_json(Path(args.out) / "certificate.json", report)
            with atomic_write(Path(args.out) / PAGE) as file:
                file.write(page(report, f"{Path(args.old).name} \u2192 {Path(args.new).name}").encode("utf-8"))
        return 0 if report["passed"] else 1

    parser = add_verb(
        group,
        "certify",
        certify,
        "Check an expanded model against its base: old ids, old rows, new rows, reachability.",
        "ja-llm vocab certify --old models/base --new models/expanded --documents data/corpus --out certificate",
    )
    parser.add_argument("--old", type=path, required=True, metavar="DIR")
    parser.add_argument("--new", type=path, required=True, metavar="DIR")
    parser.add_argument("--documents", type=path, required=True, metavar="DIR", help="document set for sample texts")
    spare_rows_flag(parser)
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="learn the pieces again from the same documents and compare, so that no score or merge rests on the ledger's word",
    )
    parser.add_argument("--out", type=path, metavar="DIR", help="folder for certificate.json and certificate.html")


def _trim(group) -> None:
    def trim(args, rest):
        set_device("cpu")
        from ja_llm.vocab.certify import format_certificate
        from ja_llm.vocab.trim_model import trim_model

        options = _given(min_count=args.min_count, keep_file=args.keep, pad_to=args.pad_to, spare_rows=args.spare_rows)
        with _bound(args, rest):
            certificate = trim_model(args.model, args.documents, args.out, **options)
        print(format_certificate(certificate))

    parser = add_verb(
        group,
        "trim",
        trim,
        "Drop the pieces that a document set does not use; what is kept is spelt and scored as before.",
        "ja-llm vocab trim --model models/base --documents data/corpus --min_count 2 --out models/small",
        takes_rest=True,
    )
    parser.add_argument("--model", type=path, required=True, metavar="DIR", help="model directory, or DIR@STEP")
    parser.add_argument("--documents", type=path, required=True, metavar="DIR", help="document set whose pieces are kept")
    parser.add_argument("--min_count", type=int, metavar="N", help="keep pieces that stand there N times (default: 1)")
    parser.add_argument("--keep", type=path, metavar="FILE", help="JSON list of ids to keep, in place of counting")
    _pad_to(parser)
    spare_rows_flag(parser)
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="model directory to write")
    _gin_flags(parser, "trim_model.limit_chars=10000000")


def _rollback(group) -> None:
    def rollback(args, rest):
        set_device("cpu")
        from ja_llm.vocab.trim_model import rollback_model

        rows = rollback_model(args.model, args.base, args.out)
        print(
            f"{args.out}: {rows['from_model']} rows of the model, {rows['from_base']} of the base, {rows['dropped']} pieces dropped"
        )

    parser = add_verb(
        group,
        "rollback",
        rollback,
        "Bring an expanded or trimmed model back to its base's vocabulary, with what it has learnt.",
        "ja-llm vocab rollback --model runs/main --base models/base --out models/back",
    )
    parser.add_argument("--model", type=path, required=True, metavar="DIR", help="model directory, run, or DIR@STEP")
    parser.add_argument("--base", type=path, required=True, metavar="DIR", help="model directory that it came from")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="model directory to write")


def _sweep(group) -> None:
    def sweep(args, rest):
        from ja_llm.errors import UsageError
        from ja_llm.vocab.sweep import format_sweep, sweep_model, write_sweep

        try:
            sizes = [int(size) for size in args.sizes.split(",")]
        except ValueError:
            raise UsageError(f"--sizes {args.sizes}: give whole numbers with commas between them, e.g. 2000,4000.") from None
        set_device("cpu")
        options = _given(lang=args.lang, share=args.share, other_lang=args.other_lang, pad_to=args.pad_to)
        with _bound(args, rest):
            result = sweep_model(args.model, args.documents, sizes, **options)
        write_sweep(result, Path(args.out), sweep_plot(result))
        print(format_sweep(result))

    parser = add_verb(
        group,
        "sweep",
        sweep,
        "Say what each number of new pieces would save in tokens and cost in tables, as FLOPs per byte.",
        "ja-llm vocab sweep --model models/base --documents data/corpus --sizes 1000,2000,4000 --out sweep",
        takes_rest=True,
    )
    parser.add_argument("--model", type=path, required=True, metavar="DIR", help="model directory")
    parser.add_argument("--documents", type=path, required=True, metavar="DIR", help="document set")
    parser.add_argument("--sizes", required=True, metavar="N,N,...", help="numbers of pieces to add")
    parser.add_argument("--lang", help="language to add pieces for (default: ja)")
    parser.add_argument("--share", type=float, help="share of --lang in the training mixture's bytes (default: 0.9)")
    parser.add_argument("--other_lang", metavar="LANG", help="language of the rest; not needed with --share 1 (default: en)")
    _pad_to(parser)
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="folder for sweep.json and sweep.svg")
    _gin_flags(parser, "sweep_model.tolerance=0.01", "expand_byte_level.min_count=5")


def sweep_plot(result) -> str:
    """The sweep as an SVG file: costs and tokens over the number of new pieces, relative to none."""
    from ja_llm.pages.svg import Line, standalone

    rows, lang = result["rows"], result["settings"]["lang"]

    def line(name: str, value) -> Line:
        return Line(name, [(row["added"], value(row) / value(rows[0])) for row in rows])

    lines = [
        line("training FLOPs per byte of the mixture", lambda row: row["training_flops_per_byte"]),
        line(f"decoding FLOPs per byte ({lang})", lambda row: row["decoding_flops_per_byte"]),
        line(f"tokens per byte ({lang})", lambda row: row["tokens_per_byte"][lang]),
    ]
    note = f"recommended: {result['recommended']} pieces"
    return standalone("Vocabulary size", lines, "pieces added", "relative to none", note)
