"""Training SentencePiece models, and the sample of documents that they are trained on."""

import hashlib
import heapq
import io
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gin
import sentencepiece

from ja_llm import documents, manifest
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.progress import track
from ja_llm.vocab.japanese import Runs
from ja_llm.vocab.sentencepiece_tokenizer import SentencePieceTokenizer, parse_proto

# SentencePiece drops every sentence above max_sentence_length (4,192 bytes) without an error: longer lines are cut.
_MAX_LINE_CHARACTERS = 1000
DELIMITER = "\x1f"  # between what is cut before training; a control character that no text needs
MARKED: dict[str, Any] = {"pretokenization_delimiter": DELIMITER, "split_by_unicode_script": False}


def document_shards(root: str | os.PathLike, lang: str, split: str) -> list[Path]:
    """Shards of one language and split of a document set, in the manifest's order.

    Raises:
      JaLlmError: the set's manifest is missing or contradicted by its files.
      UsageError: the set has no such language or split.
    """
    return [Path(root) / shard["name"] for shard in _shards(Path(root), lang, split)]


def _shards(root: Path, lang: str, split: str) -> list[dict[str, Any]]:
    """The manifest's entries of `document_shards`."""
    shards = manifest.read(root, manifest.DOCUMENTS)["shards"]
    chosen = [s for s in shards if s.get("lang") == lang and s.get("split") == split]
    if not chosen:
        splits = sorted({str(s.get("split")) for s in shards if s.get("lang") == lang})
        if splits:
            raise UsageError(f"{root}: this document set has no {split} documents in {lang!r}, only {', '.join(splits)}.")
        languages = sorted({str(s.get("lang")) for s in shards if s.get("split") == split})
        there = f"it has {', '.join(map(repr, languages))}; choose one of these" if languages else "or in any other language"
        raise UsageError(f"{root}: this document set has no {split} documents in the language {lang!r}; {there}.")
    return chosen


def iter_texts(
    root: str | os.PathLike,
    lang: str,
    split: str = "train",
    limit_chars: int | None = None,
    seed: int = 0,
    shares: Mapping[str, float] | None = None,
) -> Iterator[str]:
    """Texts of a document set, or a random sample of them.

    The sample takes whole documents in the order of a keyed hash of their ids until `limit_chars` characters are
    reached, so it does not depend on how the set is cut into shards, and it needs memory for the sample only.

    Args:
      root: folder of the document set.
      lang: BCP 47 primary language, e.g. "ja".
      split: "train" or "heldout".
      limit_chars: characters to take; None streams the whole set in stored order.
      seed: of the sample.
      shares: for each `source` of a document its share of the sample's characters, in any unit; other sources are left out. The
        sample is as large as `limit_chars` and the scarcest source allow, nothing twice.

    Raises:
      JaLlmError: the set is unfinished or damaged.
      UsageError: the set has no such language, split or source, or a share is not above 0.
    """
    shards = _shards(Path(root), lang, split)
    total = sum(s["documents"] for s in shards) if all("documents" in s for s in shards) else None
    stored = (document for s in shards for document in documents.read_documents(Path(root) / s["name"]))
    read = track(stored, f"read {lang}/{split}", "document", total)
    if shares is not None:
        yield from sample_by_source(
            ((document.source, f"{document.id}", document.text) for document in read), shares, limit_chars, seed
        )
    elif limit_chars is None:
        yield from (document.text for document in read)
    else:
        yield from sample(((f"{document.id}", document.text) for document in read), limit_chars, seed)


class Sample:
    """Random sample of the texts that go by: just `limit` characters or more, and no more held in memory.

    The ones with the smallest hashes of seed and key, so equal keys and texts give an equal sample in any order.
    """

    def __init__(self, limit: float, seed: int):
        self._kept: list[tuple[int, str]] = []  # heap; negated hashes, so that the largest hash is on top and leaves first
        self._held, self._limit, self._seed = 0, limit, seed

    def add(self, key: str, text: str) -> None:
        """Offer a text."""
        digest = hashlib.blake2b(f"{self._seed}:{key}".encode(), digest_size=8).digest()
        heapq.heappush(self._kept, (-int.from_bytes(digest, "big"), text))
        self._held += len(text)
        self.shrink(self._limit)

    def shrink(self, limit: float) -> None:
        """Leave what a sample of so many characters would be."""
        while self._kept and self._held - len(self._kept[0][1]) >= limit:
            self._held -= len(heapq.heappop(self._kept)[1])

    def texts(self) -> Iterator[str]:
        """The sample in the order of the hashes."""
        for _, text in sorted(self._kept, reverse=True):
            yield text


def sample(keyed: Iterable[tuple[str, str]], limit_chars: int, seed: int) -> Iterator[str]:
    """`Sample` of (key, text) pairs."""
    kept = Sample(limit_chars, seed)
    for key, text in keyed:
        kept.add(key, text)
    yield from kept.texts()


def sample_by_source(
    entries: Iterable[tuple[str, str, str]], shares: Mapping[str, float], limit_chars: int | None, seed: int
) -> Iterator[str]:
    """Random sample of (source, key, text) in which each source has its share of the characters.

    Of each of these sources no more is held in memory than `limit_chars` allows it; all of it where that is None.

    Raises:
      UsageError: a source has no text, or a share is not above 0.
    """
    if not shares or min(shares.values()) <= 0:
        raise UsageError(
            f"the shares of sources {dict(shares)} must be numbers above 0, such as wiki=1 and web=3; give such ones."
        )
    whole = sum(shares.values())

    def part(total: float, source: str) -> int:
        return max(1, round(total * shares[source] / whole))

    kept = {source: Sample(math.inf if limit_chars is None else part(limit_chars, source), seed) for source in shares}
    sizes: Counter[str] = Counter()
    for source, key, text in entries:
        sizes[source] += len(text)
        if source in kept:
            kept[source].add(key, text)
    if missing := [source for source in shares if not sizes[source]]:
        there = ", ".join(sorted(source for source, size in sizes.items() if size)) or "none"
        raise UsageError(f"there is no text of the source {missing[0]!r}; the sources here are {there}.")
    scarcest = min(sizes[source] * whole / share for source, share in shares.items())
    total = scarcest if limit_chars is None else min(limit_chars, scarcest)
    for source in sorted(shares):
        kept[source].shrink(part(total, source))
        yield from kept[source].texts()


def lines_of(texts: Iterable[str]) -> Iterator[str]:
    """Lines of the texts that are not blank, cut where they are longer than SentencePiece would take."""
    for text in texts:
        for line in text.split("\n"):
            if line.strip():
                for start in range(0, len(line), _MAX_LINE_CHARACTERS):
                    yield line[start : start + _MAX_LINE_CHARACTERS]


def marked_lines(lines: Iterable[str], segments: str | None) -> Iterable[str]:
    """Lines with the delimiter before and after each run of Japanese; the trainer takes it out and joins nothing across it.

    Args:
      lines: training lines.
      segments: see `ja_llm.vocab.japanese.Runs`; None leaves the lines as they are.
    """
    if segments is None:
        return lines
    run = Runs(segments)

    def marked(line: str) -> str:
        line = line.replace(DELIMITER, " ")
        parts, last = [], 0
        for start, end in run.spans(line):
            parts += [line[last:start], line[start:end]]
            last = end
        return DELIMITER.join(part for part in (*parts, line[last:]) if part)

    return map(marked, lines)


def train_model(lines: Iterable[str], vocab_size: int, model_type: str = "bpe", **options: Any) -> bytes:
    """Run the SentencePiece trainer on `lines` with one thread (so that equal lines give equal bytes).

    Args:
      lines: training sentences; all of them are used.
      vocab_size: wanted number of pieces; fewer come back where the text has no more.
      model_type: "bpe" or "unigram".
      **options: further trainer options.

    Returns:
      serialised ModelProto.

    Raises:
      JaLlmError: there is no text, or the trainer refuses (its own reason is in the sentence).
    """
    writer = io.BytesIO()
    count = 0

    def counted() -> Iterator[str]:
        # The trainer reads all lines before it begins, and then can't say how far it is.
        nonlocal count
        for line in track(lines, "read by SentencePiece, which then trains in silence", "line"):
            count += 1
            yield line.encode("utf-8", "replace").decode("utf-8")

    sentencepiece.set_min_log_level(2)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=counted(),
            model_writer=writer,
            vocab_size=vocab_size,
            model_type=model_type,
            hard_vocab_limit=False,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            num_threads=1,
            minloglevel=2,
            **options,
        )
    except (RuntimeError, ValueError) as error:
        if not count:
            raise JaLlmError(
                "there is no text to train a vocabulary on; check the language and split of the document set."
            ) from error
        reason = re.sub(r"^[A-Z_]+: (src/\S+ \[.*\] )?", "", str(error).strip().split("\n")[0])[:200].rstrip(". ")
        raise JaLlmError(
            f"SentencePiece can't train {vocab_size} pieces on {count} lines ({reason}); change the vocabulary size or give more text."
        ) from error
    return writer.getvalue()


@gin.configurable
def train_sentencepiece(
    texts: Iterable[str],
    out_dir: str | os.PathLike,
    vocab_size: int = 32000,
    model_type: str = "bpe",
    character_coverage: float = 0.9995,
    max_piece_length: int = 16,
    limit_chars: int | None = 100_000_000,
    seed: int = 0,
    align: int = 8,
    segments: str | None = None,
) -> SentencePieceTokenizer:
    """Train a SentencePiece model as Llama 2's is set up and save it.

    unk 0, BOS 1, EOS 2, no padding piece; byte fallback; digits one by one; identity normalisation; runs of spaces kept
    and allowed as pieces; a space in front of every text; a newline is the byte piece <0x0A>.

    Args:
      texts: training texts, lines separated by newlines.
      out_dir: the tokenizer's folder.
      vocab_size: number of pieces, of which 259 are special and byte pieces. Fewer come back where the text has no more.
      model_type: "bpe" or "unigram".
      character_coverage: share of the sample's characters that become pieces; the rest is spelt in bytes. SentencePiece's own
        value: above it, the few foreign characters of a corpus take a seventh of a small vocabulary.
      max_piece_length: longest piece in characters.
      limit_chars: the trainer holds its text in memory, so from a larger text it gets a random sample of lines with about
        this many characters; None gives it everything.
      seed: of that sample.
      align: where the text has too few pieces, their number is a multiple of this (so that a sharded table divides evenly).
      segments: no piece crosses the ends of Japanese runs cut in this way (see `ja_llm.vocab.japanese.Runs`; LLM-jp's is
        "morpheme"); None lets SentencePiece cut by script alone.

    Raises:
      JaLlmError: no text, or a vocabulary size that the text can't fill at all.
    """
    lines = marked_lines(lines_of(texts), segments)
    kept = list(lines if limit_chars is None else sample(((str(i), line) for i, line in enumerate(lines)), limit_chars, seed))
    options = {
        "character_coverage": character_coverage,
        "max_sentencepiece_length": max_piece_length,
        "byte_fallback": True,
        "split_digits": True,
        "allow_whitespace_only_pieces": True,
        "add_dummy_prefix": True,
        "unk_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "pad_id": -1,
    }
    options |= {} if segments is None else MARKED
    model = train_model(kept, vocab_size, model_type, **options)
    found = len(parse_proto(model).pieces)
    if found < vocab_size and found % align:
        model = train_model(kept, found - found % align, model_type, **options)
    tokenizer = SentencePieceTokenizer(model)
    tokenizer.save(out_dir)
    return tokenizer
