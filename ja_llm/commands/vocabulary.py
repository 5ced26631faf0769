"""`ja-llm vocab`: train, expand and certify vocabularies."""

from ja_llm.command_line import path
from ja_llm.commands.parsing import add_group, add_verb, set_device


def vocab(verbs) -> None:
    group = add_group(verbs, "vocab", "Train, expand and certify vocabularies.")

    def train(args, rest):
        from ja_llm.vocab.train import train_on_documents

        tokenizer = train_on_documents(args.documents, args.out, lang=args.lang, vocab_size=args.size, model_type=args.type)
        print(f"{args.out}: {tokenizer.vocab_size} pieces, fingerprint {tokenizer.fingerprint[:12]}")

    parser = add_verb(
        group,
        "train",
        train,
        "Train a SentencePiece vocabulary on a document set.",
        "ja-llm vocab train --documents data/corpus --lang en --size 4000 --out data/vocab_en",
    )
    parser.add_argument("--documents", type=path, required=True, metavar="DIR", help="document set")
    parser.add_argument("--lang", default="en")
    parser.add_argument("--size", type=int, required=True, help="pieces in all")
    parser.add_argument("--type", choices=("bpe", "unigram"), default="bpe")
    parser.add_argument("--out", type=path, required=True)

    def expand(args, rest):
        set_device("cpu")
        from ja_llm.vocab.certify import format_certificate
        from ja_llm.vocab.surgery import expand_model

        print(format_certificate(expand_model(args.model, args.documents, args.out, new_pieces=args.pieces, lang=args.lang)))

    parser = add_verb(
        group,
        "expand",
        expand,
        "Add Japanese pieces to a model: new rows are the mean of the old pieces' rows; writes a certificate.",
        "ja-llm vocab expand --model models/base --documents data/corpus --pieces 4000 --out models/expanded",
    )
    parser.add_argument("--model", type=path, required=True, metavar="DIR", help="model directory, or DIR@STEP")
    parser.add_argument("--documents", type=path, required=True, metavar="DIR", help="document set; its train split is used")
    parser.add_argument("--lang", default="ja")
    parser.add_argument("--pieces", type=int, required=True, help="how many pieces to add")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="model directory to write")

    def certify(args, rest):
        set_device("cpu")
        from ja_llm.vocab.certify import format_certificate
        from ja_llm.vocab.surgery import certify_models

        report = certify_models(args.old, args.new, args.documents)
        print(format_certificate(report))
        return 0 if report["passed"] else 1

    parser = add_verb(
        group,
        "certify",
        certify,
        "Check an expanded model against its base: old ids, old rows, new rows, reachability.",
        "ja-llm vocab certify --old models/base --new models/expanded --documents data/corpus",
    )
    parser.add_argument("--old", type=path, required=True, metavar="DIR")
    parser.add_argument("--new", type=path, required=True, metavar="DIR")
    parser.add_argument("--documents", type=path, required=True, metavar="DIR", help="document set for sample texts")
