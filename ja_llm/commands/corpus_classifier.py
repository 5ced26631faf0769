"""`ja-llm corpus train-classifier`: a classifier of good text, for the corpus job's stages `classify` and `top_share`."""

from ja_llm.command_line import path
from ja_llm.commands.parsing import add_verb


def train_classifier(group) -> None:
    def train(args, rest):
        from beam_pipelines.train_classifier import format_card, load_settings, read_categories
        from beam_pipelines.train_classifier import train_classifier as run

        categories = read_categories(args.categories) if args.categories else []
        card = run(args.positives, args.negatives, args.output, categories, load_settings(args.bindings))
        print(format_card(card, args.output))

    parser = add_verb(
        group,
        "train-classifier",
        train,
        "Train a fastText classifier of good text: articles of an encyclopaedia against pages of a crawl.",
        "ja-llm corpus train-classifier --positives data/wikipedia --categories academic.txt --negatives data/corpus --output data/education",
    )
    parser.add_argument("--positives", type=path, required=True, metavar="DIR", help="document set of good text")
    parser.add_argument(
        "--categories", type=path, metavar="FILE", help="take only articles in these categories: one a line, * matches"
    )
    parser.add_argument("--negatives", type=path, required=True, metavar="DIR", help="document set of a crawl")
    parser.add_argument("--output", type=path, required=True, metavar="DIR", help="folder for model.bin and its card")
    parser.add_argument(
        "--gin_bindings",
        dest="bindings",
        action="append",
        default=[],
        metavar="B",
        help='change one setting, e.g. "corpus.ClassifierTraining.epochs = 3" (repeat)',
    )
