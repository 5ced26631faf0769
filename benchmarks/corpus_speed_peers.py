"""The peers' side of `benchmarks/corpus_speed.py`, run by the python of their environment: nothing of this project is imported.

python corpus_speed_peers.py pages IN OUT | filters WAY TEXTS OUT | versions
"""

import functools
import importlib.metadata
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = ("datatrove", "hojichar", "trafilatura", "lxml", "warcio", "py3langid", "spacy", "sudachipy", "numpy")
KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa]")
LETTERS = re.compile(r"[^\W\d_]")
CANDIDATES = ["en", "zh", "ko", "de", "fr", "es", "it", "pt", "nl", "ru", "pl"]


def japanese(document) -> bool:
    """Our language rule in their filter: the share of kana decides, the classifier is asked about the rest."""
    text = document.text
    letters = len(LETTERS.findall(text))
    if letters < 10:
        return False
    if len(KANA.findall(text)) >= 0.05 * letters:
        return True
    identifier().classify(text[:20_000])
    return False


@functools.cache
def identifier():
    """py3langid's model, loaded once."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    model.set_languages(CANDIDATES)
    return model


def pages(source: str, target: str) -> None:
    """datatrove's pipeline over a folder of WARC files, one task."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter, LambdaFilter
    from datatrove.pipeline.readers import WarcReader
    from datatrove.pipeline.writers import JsonlWriter

    executor = LocalPipelineExecutor(
        pipeline=[
            WarcReader(source, glob_pattern="*.warc.gz"),
            Trafilatura(favour_precision=False, deduplicate=False, include_tables=False, timeout=20),
            LambdaFilter(japanese),
            # English words: the fastest of datatrove's splitters, so that its Japanese morphemes do not decide the comparison.
            GopherRepetitionFilter(),
            GopherQualityFilter(
                min_stop_words=None,
                min_avg_word_length=None,
                max_avg_word_length=None,
                min_doc_words=None,
                max_non_alpha_words_ratio=None,
            ),
            JsonlWriter(f"{target}/out"),
        ],
        tasks=1,
        logging_dir=f"{target}/logs",
    )
    stats = executor.run()
    counts = {s.name: {"seconds": s.time_stats.total, **{k: metric.total for k, metric in s.stats.items()}} for s in stats.stats}
    (Path(target) / "counts.json").write_text(json.dumps(counts, default=str))


def filters(way: str, texts: str, target: str) -> None:
    """Time a system's rules over texts."""
    chosen = json.loads(Path(texts).read_text(encoding="utf-8"))
    ways = {
        "hojichar": lambda: hojichar(range(2, 11)),
        "hojichar, n-grams of one length": lambda: hojichar([5]),
        "datatrove, Japanese words": lambda: datatrove("jpn"),
        "datatrove, English splitter": lambda: datatrove("eng"),
    }
    apply, names = ways[way]()
    apply(chosen[0])
    start = time.process_time()
    kept = sum(bool(apply(text)) for text in chosen)
    seconds = time.process_time() - start
    Path(target).write_text(json.dumps({"seconds": seconds, "kept": kept, "rules": names}))


def hojichar(lengths):
    """(text -> kept, names): the rules of HojiChar that are nearest to ours, without its dictionaries of words.

    Every rule is asked about every document, as our annotations measure all statistics of each: by default HojiChar asks a document's
    rules up to the first that rejects it. `lengths`: of the n-grams whose repetition it looks at, a rule each.
    """
    from hojichar import Compose, Document, document_filters

    every = {"skip_rejected": False}
    chosen = [
        document_filters.DocumentLengthFilter(min_doc_len=400, **every),
        document_filters.AcceptJapanese(**every),
        document_filters.DiscardRareKuten(max_average_sentence_length=100, **every),
        *(document_filters.CharRepetitionRatioFilter(threshold=0.33, ngram_size=n, **every) for n in lengths),
        document_filters.SingleCharacterRepetitionFilter(threshold=200, **every),
        document_filters.DiscardTooManyEndingEllipsis(threshold=0.7, **every),
        document_filters.DiscardTooShortLines(threshold=0.5, **every),
    ]
    compose = Compose(chosen)

    def apply(text):
        return not compose.apply(Document(text)).is_rejected

    return apply, [type(rule).__name__ for rule in chosen]


def datatrove(language: str):
    """(text -> kept, names): Gopher's rules with the words of a language."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter

    chosen = [
        GopherRepetitionFilter(language=language),
        GopherQualityFilter(language=language, min_stop_words=None, min_avg_word_length=None, max_avg_word_length=None),
    ]

    def apply(text):
        document = Document(text=text, id="0")
        return all(rule.filter(document) is True for rule in chosen)

    return apply, [type(rule).__name__ for rule in chosen]


def versions() -> None:
    """Print the versions of what was compared with."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    print(json.dumps(found))


COMMANDS: dict[str, Callable[..., None]] = {"pages": pages, "filters": filters, "versions": versions}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
