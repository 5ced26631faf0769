"""Training a vocabulary of any kind on a document set, with a note of what it was made of: `vocab train`."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gin

from ja_llm import manifest
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import atomic_directory, read_json, write_json
from ja_llm.vocab.base import Tokenizer
from ja_llm.vocab.japanese import JAPANESE, Language
from ja_llm.vocab.train import iter_texts, train_sentencepiece
from ja_llm.vocab.train_byte_level import train_byte_level
from ja_llm.vocab.train_joint import Part, train_joint

NOTE = "training.json"  # beside a vocabulary: what it was made of
TYPES = ("bpe", "unigram", "byte_level")
_LONGEST = {"ja": 8}  # characters of a piece; LLM-jp's
_LONGEST_OTHER = 16
_JUDGED, _LEAST, _MOST = 2000, 0.1, 0.5  # characters to judge a language by; shares of Japanese ones that are no accident


@gin.configurable
def train_on_documents(
    documents_root: str | os.PathLike,
    out_dir: str | os.PathLike,
    lang: str = "en",
    vocab_size: int | Mapping[str, int] = 32000,
    model_type: str = "bpe",
    limit_chars: int = 100_000_000,
    seed: int = 0,
    shares: Mapping[str, float] | None = None,
    segments: str | None = None,
) -> Tokenizer:
    """Train a vocabulary on the train split of a document set; what it was made of is noted in `training.json`.

    Args:
      documents_root: folder of the document set.
      out_dir: the tokenizer's folder; a vocabulary that was trained with the same settings is trained again, anything else is refused.
      lang: language of the documents.
      vocab_size: number of pieces in all; or for each language the pieces of a unigram model of its own, which are then joined
        (`ja_llm.vocab.train_joint`), and `lang` is not used.
      model_type: "bpe" or "unigram" of SentencePiece, or "byte_level" BPE.
      limit_chars: characters of the sample, of each language.
      seed: of the sample.
      shares: share of each source in the sample, see `iter_texts`.
      segments: cut Japanese before training, see `train_sentencepiece`; for the Japanese of joined models "word" where nothing is said.

    Raises:
      JaLlmError: the set is unfinished or damaged, there is no text in it, or it is in another language than it says.
      UsageError: the set has no train split in this language, `out_dir` holds something else, or the arguments do not go together.
    """
    _check(model_type, vocab_size, segments)
    out = Path(out_dir)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / NOTE).exists())):
        raise UsageError(f"{out}: this folder holds something that `vocab train` did not make; choose a new or empty one.")
    parent = manifest.fingerprint(manifest.read(documents_root, manifest.DOCUMENTS))
    config: dict[str, Any] = {"lang": lang, "split": "train", "limit_chars": limit_chars, "seed": seed}
    config |= {"vocab_size": vocab_size if isinstance(vocab_size, int) else dict(vocab_size), "model_type": model_type}
    config |= {"shares": dict(shares)} if shares else {}
    config |= {"segments": segments} if segments else {}
    made_of: dict[str, Any] = {"config": config, "parents": [parent]}
    if bound := [line for line in gin.config_str().splitlines() if line and not line.startswith("#")]:
        made_of["gin"] = bound  # what the trainers take from it
    _refuse_other(out, made_of)

    def texts(language: str) -> Iterator[str]:
        return checked(iter_texts(documents_root, language, "train", limit_chars, seed, shares), language)

    with atomic_directory(out) as temporary:  # an earlier vocabulary is replaced whole, or not at all
        tokenizer: Tokenizer
        if not isinstance(vocab_size, int):
            tokenizer = train_joint(
                [_part(name, size, texts(name), segments) for name, size in vocab_size.items()], temporary, seed=seed
            )
        elif model_type == "byte_level":
            tokenizer = train_byte_level(texts(lang), temporary, vocab_size=vocab_size)
        else:
            tokenizer = train_sentencepiece(
                texts(lang), temporary, vocab_size=vocab_size, model_type=model_type, seed=seed, segments=segments
            )
        software = manifest.software("sentencepiece", "tokenizers")
        write_json(temporary / NOTE, {**made_of, "vocabulary": tokenizer.fingerprint, "software": software})
    return tokenizer


def _refuse_other(out: Path, made_of: Mapping[str, Any]) -> None:
    """Raise UsageError when `out` holds a vocabulary that was made of something else."""
    if not (out / NOTE).exists():
        return
    note = read_json(out / NOTE, "note of a vocabulary")
    config = note.get("config", {})
    was = {**config, "documents": note.get("parents"), "gin": note.get("gin", [])}
    now = {**made_of["config"], "documents": made_of["parents"], "gin": made_of.get("gin", [])}
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) != now.get(name):
            raise UsageError(
                f"{out}: this folder holds a vocabulary trained with other settings: {name} was {was.get(name)}, now it is {now.get(name)}; choose "
                "another folder, or remove it."
            )


def _check(model_type: str, vocab_size: int | Mapping[str, int], segments: str | None) -> None:
    if model_type not in TYPES:
        raise UsageError(f"there is no type of vocabulary {model_type!r}; choose one of {', '.join(TYPES)}.")
    if not isinstance(vocab_size, int) and model_type != "unigram":
        raise UsageError(
            f"models of several languages are joined by their unigram scores, which {model_type} has not; choose unigram."
        )
    if segments is not None and model_type == "byte_level":
        raise UsageError("a byte-level BPE is cut by its own pattern; leave segments out, or choose bpe or unigram.")


def _part(lang: str, size: int, texts: Iterator[str], segments: str | None) -> Part:
    japanese = lang == "ja"
    return Part(lang, texts, size, _LONGEST.get(lang, _LONGEST_OTHER), japanese, (segments or "word") if japanese else None)


def checked(texts: Iterator[str], lang: str) -> Iterator[str]:
    """The same texts; at their end an error if they are Japanese where English is said, or the other way round, or Chinese as "ja".

    Raises:
      JaLlmError: the share of Japanese characters is impossible for `lang`, or that of kana for Japanese (only "ja" and "en" are
        judged).
    """
    characters = japanese = 0
    language = Language()
    for text in language.watch(texts) if lang == "ja" else texts:
        characters += len(text)
        japanese += len(JAPANESE.findall(text))
        yield text
    share = japanese / max(characters, 1)
    if characters >= _JUDGED and ((lang == "ja" and share < _LEAST) or (lang == "en" and share > _MOST)):
        raise JaLlmError(
            f"{share:.0%} of the characters of the {lang} documents are Japanese, so they are in another language than they say; "
            "check the document set."
        )
    language.check()
