"""Evaluation examples made from held-out documents and aligned pairs: text in, text out, no tokenizer, no chance.

An example is {"id": str, "inputs": str, "targets": str, "meta": dict}. Equal sources and limit give equal examples in equal
order: documents go by their id (a hash, so the first N are a fair sample), choices are drawn with the document's id as seed.
"""

import functools
import hashlib
import json
import re
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ja_llm import documents as documents_lib
from ja_llm import manifest
from ja_llm.documents import Document
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation.raw_files import RawFolder
from ja_llm.files import sha256_file

Example = dict[str, Any]

# After a full stop (Japanese, or Latin before white space) or a line end, with the white space that follows.
_SENTENCE_END = re.compile(r"(?:[。．！？]|[.!?](?=\s)|\n)\s*")
_JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")


class Sources:
    """What evaluation examples are made from.

    Args:
      root: document set with a held-out split, or None.
      pairs: JSONL of {"en", "ja"} objects, or None.
      data: folder of original files of evaluation sets (`raw_files.py`), or None.
      judge: who grades conversations (`judge.Judge`), or None.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        pairs: str | Path | None = None,
        data: str | Path | None = None,
        judge: Any = None,
    ):
        self.judge = judge
        self.root = Path(root) if root else None
        self.pairs = Path(pairs) if pairs else None
        self.data = Path(data) if data else None
        self._documents: dict[tuple[str, str], list[Document]] = {}

    def documents(self, lang: str, split: str = "heldout") -> list[Document]:
        """The documents of a language and split, by id; none is an empty list.

        Raises:
          UsageError: no document set was given.
          JaLlmError: the set is unfinished or damaged.
        """
        if self.root is None:
            raise UsageError("this task needs a document set; give the corpus job's output folder (--documents DIR).")
        if (lang, split) not in self._documents:
            shards = [s for s in self._manifest["shards"] if s.get("lang") == lang and s.get("split") == split]
            found = [d for s in shards for d in documents_lib.read_documents(self.root / s["name"])]
            self._documents[lang, split] = sorted(found, key=lambda d: d.id)
        return self._documents[lang, split]

    def training_texts(self) -> Iterator[str]:
        """Texts of every training document of every language; none when there is no document set. Read anew, not kept."""
        if self.root is None:
            return
        for shard in self._manifest["shards"]:
            if shard.get("split") == "train":
                yield from (d.text for d in documents_lib.read_documents(self.root / shard["name"]))

    def raw(self) -> RawFolder:
        """The folder of original files.

        Raises:
          UsageError: none was given, or it does not exist.
        """
        if self.data is None:
            raise UsageError("this task needs the original files of its set; give their folder (--data DIR).")
        return self._raw

    @functools.cached_property
    def _raw(self) -> RawFolder:
        assert self.data is not None
        return RawFolder(self.data)

    @functools.cached_property
    def _manifest(self) -> dict[str, Any]:
        assert self.root is not None
        return manifest.read(self.root, manifest.DOCUMENTS)

    def fingerprint(self) -> dict[str, str]:
        """Identity of the documents and pairs that were given; that of original files is each task's own (`RawFolder.checksums`)."""
        value = {}
        if self.root is not None:
            value["documents"] = manifest.fingerprint(self._manifest)
        if self.pairs is not None:
            if not self.pairs.is_file():
                raise UsageError(
                    f"{self.pairs}: this file of aligned pairs does not exist; `ja-llm fetch debian-docs` writes one."
                )
            value["pairs"] = sha256_file(self.pairs)
        return value


ExamplesFn = Callable[[Sources, int | None], list[Example]]


def whole_documents(sources: Sources, limit: int | None, *, lang: str) -> list[Example]:
    """One example a held-out document, all of it to be predicted."""
    documents = _heldout(sources, lang)[:limit]
    return [
        {
            "id": d.id,
            "inputs": "",
            "targets": d.text,
            "meta": {"bytes": len(d.text.encode("utf-8")), "url": d.url, "domain": domain(d)},
        }
        for d in documents
    ]


def domain(document: Document) -> str:
    """Where a document is from: its page's host, or else its source."""
    try:
        host = urllib.parse.urlsplit(document.url).hostname
    except ValueError:  # no address
        host = None
    return host or document.source


def continuation_choices(
    sources: Sources, limit: int | None, *, lang: str, prefix: tuple[int, int], span: int, choices: int = 4
) -> list[Example]:
    """Which of several spans continues the document? `choices` examples (rows) a question, next to each other.

    A question is the document up to a sentence end; its candidates are the next `span` characters and, from other held-out
    documents of the language, spans of equally many characters that begin at a sentence, too. All are cut at the same length,
    so how a span ends says nothing.

    Args:
      sources: gives the held-out documents.
      limit: questions at most; None for all.
      lang: language of the documents.
      prefix: fewest and most characters before the cut.
      span: characters of a candidate.
      choices: candidates, the true one included.

    Raises:
      JaLlmError: fewer than `choices` documents are long enough.
    """
    documents = [d for d in _heldout(sources, lang) if len(d.text) >= prefix[0] + span]
    starts = [_sentence_starts(d.text, span) for d in documents]
    usable = [number for number, places in enumerate(starts) if places]
    if len(usable) < choices:
        raise JaLlmError(
            f"{sources.root}: {len(usable)} held-out {lang!r} documents are long enough, but a question takes {choices}; "
            "build a larger document set."
        )
    examples: list[Example] = []
    asked = 0
    for number in usable:
        if limit is not None and asked >= limit:
            break
        document = documents[number]
        generator = np.random.Generator(np.random.PCG64(_seed(document.id)))
        cuts = [place for place in starts[number] if prefix[0] <= place <= prefix[1]]
        if not cuts:
            continue
        cut = cuts[int(generator.integers(len(cuts)))]
        true = document.text[cut : cut + span]
        candidates = _distractors(documents, starts, usable, number, true, span, choices - 1, generator)
        if len(candidates) < choices - 1:
            continue
        label = int(generator.integers(choices))
        candidates.insert(label, true)
        for choice, text in enumerate(candidates):
            meta = {"question": document.id, "choice": choice, "label": label, "bytes": len(text.encode("utf-8"))}
            examples.append({"id": f"{document.id}:{choice}", "inputs": document.text[:cut], "targets": text, "meta": meta})
        asked += 1
    if not examples:
        raise JaLlmError(
            f"{sources.root}: no held-out {lang!r} document has a sentence end between its characters {prefix[0]} and {prefix[1]}."
        )
    return examples


def _distractors(
    documents: Sequence[Document],
    starts: Sequence[Sequence[int]],
    usable: Sequence[int],
    own: int,
    true: str,
    span: int,
    wanted: int,
    generator: np.random.Generator,
) -> list[str]:
    """`wanted` different spans from other documents; fewer when a small set holds no more."""
    found: list[str] = []
    for index in generator.permutation(len(usable)):
        other = usable[index]
        if other == own:
            continue
        place = starts[other][int(generator.integers(len(starts[other])))]
        text = documents[other].text[place : place + span]
        if text != true and text not in found:
            found.append(text)
        if len(found) == wanted:
            break
    return found


def _sentence_starts(text: str, span: int) -> list[int]:
    """Places behind a sentence end from which `span` more characters stand."""
    return [place for match in _SENTENCE_END.finditer(text) if (place := match.end()) + span <= len(text)]


def translations(
    sources: Sources, limit: int | None, *, shots: Sequence[tuple[str, str]], english: tuple[int, int], default_limit: int = 200
) -> list[Example]:
    """Short English user-interface texts to translate, after a few fixed examples.

    Pairs whose English or Japanese stands in a training document are left out (as a substring: strict for short texts); which
    of the others are asked is decided by a hash of the English text.

    Args:
      sources: gives the pairs, and the training documents to compare with (no document set: nothing is compared).
      limit: pairs at most; None for `default_limit`.
      shots: (English, Japanese) examples in the prompt.
      english: fewest and most characters of the English text.
      default_limit: see `limit`.

    Raises:
      UsageError: no pairs were given.
      JaLlmError: the file can't be read, or no pair is usable.
    """
    if sources.pairs is None:
        raise UsageError(
            "this task needs aligned pairs; give the pairs file that `ja-llm fetch debian-docs` writes (--pairs FILE)."
        )
    wanted = default_limit if limit is None else limit
    ordered = sorted(_usable_pairs(sources.pairs, english, {en for en, _ in shots}).items(), key=lambda pair: _seed(pair[0]))
    kept: list[tuple[str, str]] = []
    seen = block = 0
    while len(kept) < wanted and block < len(ordered):
        part = ordered[block : block + 2 * wanted]
        clean = _not_in_training(part, sources)
        kept += clean
        seen += len(part) - len(clean)
        block += len(part)
    if not kept:
        raise JaLlmError(f"{sources.pairs}: no pair is usable ({seen} stand in the training documents); fetch more pairs.")
    prompt = "".join(f"English: {en}\nJapanese: {ja}\n\n" for en, ja in shots)
    return [
        {
            "id": f"{_seed(en):016x}",
            "inputs": f"{prompt}English: {en}\nJapanese:",
            "targets": ja,
            "meta": {"source": en, "reference": ja, "left_out": seen},
        }
        for en, ja in kept[:wanted]
    ]


def _usable_pairs(path: Path, english: tuple[int, int], shots: set[str]) -> dict[str, str]:
    """English -> Japanese for one-line pairs of fitting length whose Japanese is Japanese; the first of equal English."""
    pairs: dict[str, str] = {}
    bad = 0
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UsageError(
            f"{path}: these aligned pairs can't be read ({error.strerror}); give a JSONL file of en/ja pairs."
        ) from None
    for line in lines:
        try:
            value = json.loads(line)
            en, ja = value["en"].strip(), value["ja"].strip()
        except (ValueError, KeyError, TypeError, AttributeError):
            bad += 1
            continue
        one_line = "\n" not in en + ja and "\ufffd" not in en + ja
        if one_line and english[0] <= len(en) <= english[1] and _JAPANESE.search(ja) and en not in shots:
            pairs.setdefault(en, ja)
    if bad > len(lines) // 2:
        raise JaLlmError(
            f'{path}: {bad} of {len(lines)} lines are no en/ja pair; give a JSONL file of {{"en": ..., "ja": ...}} objects.'
        )
    return pairs


def _not_in_training(pairs: Sequence[tuple[str, str]], sources: Sources) -> list[tuple[str, str]]:
    left = list(pairs)
    for text in sources.training_texts():
        left = [(en, ja) for en, ja in left if en not in text and ja not in text]
        if not left:
            break
    return left


def _heldout(sources: Sources, lang: str) -> list[Document]:
    documents = sources.documents(lang)
    if not documents:
        raise JaLlmError(f"{sources.root}: there is no held-out {lang!r} document; build the set with a held-out share above 0.")
    return documents


def _seed(text: str) -> int:
    """64 bits that depend on nothing but the text."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "big")
