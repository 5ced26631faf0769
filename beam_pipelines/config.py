"""Every value that decides the content of a corpus, as gin-configurable dataclasses.

Presets are the files of `gin_configs/corpus/`. Beam workers get the bound values as plain dataclasses; gin stays in the
process that starts the job. How and where a job runs (runner, workers) is Beam's business and is not here.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gin

from beam_pipelines.inputs.config import Inputs
from ja_llm.errors import UsageError
from ja_llm.text.normalise import FORMS

_CANDIDATES = ("ja", "en", "zh", "ko", "de", "fr", "es", "it", "pt", "nl", "ru", "pl")


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class Extraction:
    """WARC records to text.

    Attributes:
      source: name of the collection, for documents whose WARC has no metadata record that says it.
      licence: the same for the licence.
      max_bytes: largest body, after content decoding, that is extracted.
      deadline_s: CPU seconds that the extractor may spend on one page (not wall-clock: a busy machine must not change
        the result; a wall-clock limit of ten times as much stands behind it).
      favour: trafilatura's balance: "" for its own, "recall" or "precision".
      normalise: Unicode form of the text: "NFC", "NFKC" or "" for none.
      reset_caches_every: pages between resets of trafilatura's caches, which grow without bound (adbar/trafilatura#216).
    """

    source: str = "web"
    licence: str = ""
    max_bytes: int = 10_000_000
    deadline_s: float = 20.0
    favour: str = ""
    normalise: str = "NFC"
    reset_caches_every: int = 1000


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class LanguageId:
    """Language by content.

    Attributes:
      min_kana_share: share of kana (hangul) among letters from which a text is Japanese (Korean), whatever the classifier
        says: half a sentence of it stands in a page of commands, none in a page of another language.
      min_han_share: share of kanji among letters from which a text without that much kana is Chinese: the classifier takes a
        Chinese page of commands for English. Pages with less of it are a matter for the filters.
      candidates: languages that the classifier chooses among (ISO 639-1); fewer are safer on text full of commands.
      min_letters: texts with fewer letters are "und".
    """

    min_kana_share: float = 0.05
    min_han_share: float = 0.05
    candidates: Sequence[str] = _CANDIDATES
    min_letters: int = 10


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class MinHash:
    """Near-duplicate search: `bands` buckets of `rows` hashes over character `ngram`-grams.

    P(two texts of Jaccard similarity J share a bucket) = 1 - (1 - J^rows)^bands.
    """

    ngram: int = 5
    bands: int = 20
    rows: int = 10
    seed: int = 1


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class JapaneseFilter:
    """Thresholds on `filters_ja.measure`: `min_X` keeps a text with X >= it, `max_X` one with X <= it, None switches it off.

    The defaults are Swallow Corpus v1's (NLP2024 paper and code), for the rules that v2 is known or likely to keep.
    """

    min_letters: float | None = 400
    min_japanese_share: float | None = 0.5
    min_hiragana_share: float | None = 0.2
    max_katakana_share: float | None = 0.5
    min_mean_sentence_length: float | None = 20
    max_mean_sentence_length: float | None = 90
    max_ellipsis_share: float | None = 0.2
    max_duplicate_line_share: float | None = 0.3
    max_duplicate_line_char_share: float | None = 0.2
    max_duplicate_sentence_share: float | None = 0.3
    max_duplicate_sentence_char_share: float | None = 0.2
    max_top_2gram_share: float | None = 0.2
    max_top_3gram_share: float | None = 0.18
    max_top_4gram_share: float | None = 0.16


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class EnglishFilter:
    """Thresholds on `filters_en.measure`, read as in `JapaneseFilter`; the defaults are Gopher's (Rae 2021, table A1).

    Ours is `max_foreign_letter_share`: letters of other scripts. A page that is one twentieth Chinese spends a third of a small
    English vocabulary on it.
    """

    min_words: float | None = 50
    max_words: float | None = 100_000
    min_mean_word_length: float | None = 3
    max_mean_word_length: float | None = 10
    max_symbol_word_ratio: float | None = 0.1
    max_bullet_line_share: float | None = 0.9
    max_ellipsis_line_share: float | None = 0.3
    min_alphabetic_word_share: float | None = 0.8
    min_stop_words: float | None = 2
    max_foreign_letter_share: float | None = 0.02
    max_duplicate_line_share: float | None = 0.3
    max_duplicate_line_char_share: float | None = 0.2
    max_top_2gram_char_share: float | None = 0.2
    max_top_3gram_char_share: float | None = 0.18
    max_top_4gram_char_share: float | None = 0.16


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class Split:
    """Training and held-out documents.

    Attributes:
      heldout_share: share of the documents (or groups) that is held out.
      split_by: "group" keeps a package's or site's pages on one side, so that held-out text is of manuals or sites that were
        never trained on; "document" is for sets of few groups.
      seed: of the hash that decides.
      ngrams: characters of the n-grams that containment is measured on, by the held-out document's language, white space
        removed. 13 characters are a clause in Japanese and two words in English, where 40 are about eight words.
      max_containment: a held-out document is dropped if a larger share of its n-grams is in the training text; None: off.
    """

    heldout_share: float = 0.01
    split_by: str = "group"
    seed: int = 1
    ngrams: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"ja": 13, "en": 40})
    max_containment: float | None = 0.5


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class Corpus:
    """The whole job.

    Attributes:
      languages: languages to keep; each gets its own folder.
      shard_bytes: UTF-8 bytes of text that a shard holds on average; a shard must fit in a worker's memory.
      samples: dropped documents kept per stage and reason.
      sample_characters: characters of a dropped document's text that are kept.
      seed: of the sampling. These last three stand under "sampling" in the manifest and not in its configuration, because the
        documents do not depend on them.
    """

    inputs: Inputs = dataclasses.field(default_factory=Inputs)
    extraction: Extraction = dataclasses.field(default_factory=Extraction)
    language: LanguageId = dataclasses.field(default_factory=LanguageId)
    minhash: MinHash = dataclasses.field(default_factory=MinHash)
    japanese: JapaneseFilter = dataclasses.field(default_factory=JapaneseFilter)
    english: EnglishFilter = dataclasses.field(default_factory=EnglishFilter)
    split: Split = dataclasses.field(default_factory=Split)
    languages: Sequence[str] = ("ja", "en")
    shard_bytes: int = 64 << 20
    samples: int = 20
    sample_characters: int = 500
    seed: int = 1

    def to_json(self) -> dict[str, Any]:
        """The values as JSON types."""
        value = dataclasses.asdict(self)
        value["split"]["ngrams"] = dict(self.split.ngrams)
        value["inputs"] = self.inputs.to_json()
        value["languages"] = list(self.languages)
        value["language"]["candidates"] = list(self.language.candidates)
        return value

    def validate(self) -> None:
        """Refuse values that mean nothing.

        Raises:
          UsageError: names the value.
        """
        parts = (self.extraction, self.language, self.minhash, self.japanese, self.english, self.split, self)
        for part in parts:
            for field in dataclasses.fields(part):
                fine, wanted = _is_of(getattr(part, field.name), field.type)
                if not fine:
                    raise _unfit(f"{type(part).__name__}.{field.name}", getattr(part, field.name), wanted)
        self.inputs.validate()
        unknown = unknown_candidates(self.language.candidates)
        checks = (
            (
                "LanguageId.candidates",
                unknown[0] if unknown else "",
                not unknown,
                "among the languages that py3langid knows (ISO 639-1, e.g. 'de')",
            ),
            (
                "LanguageId.candidates",
                self.language.candidates,
                bool(set(self.language.candidates) - {"ja"}),
                "at least one language beside 'ja', which kana decide",
            ),
            ("Extraction.max_bytes", self.extraction.max_bytes, self.extraction.max_bytes > 0, "a positive number"),
            ("Extraction.deadline_s", self.extraction.deadline_s, self.extraction.deadline_s > 0, "a positive number"),
            (
                "Extraction.favour",
                self.extraction.favour,
                self.extraction.favour in ("", "recall", "precision"),
                "one of '', 'recall', 'precision'",
            ),
            ("Extraction.normalise", self.extraction.normalise, self.extraction.normalise in FORMS, "one of '', 'NFC', 'NFKC'"),
            ("MinHash.bands", self.minhash.bands, self.minhash.bands >= 1, "at least 1"),
            ("MinHash.rows", self.minhash.rows, self.minhash.rows >= 1, "at least 1"),
            ("MinHash.ngram", self.minhash.ngram, self.minhash.ngram >= 1, "at least 1"),
            ("Split.ngrams", self.split.ngrams, all(n >= 1 for n in self.split.ngrams.values()), "at least 1 for each language"),
            ("Split.ngrams", self.split.ngrams, set(self.languages) <= set(self.split.ngrams), "given for every language kept"),
            ("Split.heldout_share", self.split.heldout_share, 0 <= self.split.heldout_share < 1, "from 0 to below 1"),
            ("Split.split_by", self.split.split_by, self.split.split_by in ("document", "group"), "'document' or 'group'"),
            ("Corpus.languages", self.languages, bool(self.languages), "not empty"),
            ("Corpus.shard_bytes", self.shard_bytes, self.shard_bytes > 0, "a positive number"),
        )
        for name, value, fine, wanted in checks:
            if not fine:
                raise _unfit(name, value, wanted)
        unfiltered = sorted(set(self.languages) - {"ja", "en"})
        if unfiltered:
            raise UsageError(
                f"corpus.Corpus.languages names {unfiltered[0]!r}, but there are filters for 'ja' and 'en' only; take it out."
            )


def _unfit(name: str, value: Any, wanted: str) -> UsageError:
    return UsageError(f"corpus.{name} = {value!r}: it must be {wanted}; change this binding.")


def _is_of(value: Any, kind: Any) -> tuple[bool, str]:
    """Whether a value is of a field's declared type, and what that is in words. A dataclass field is its own affair."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    if kind is int:
        return number and isinstance(value, int), "a whole number"
    if kind is float:
        return number, "a number"
    if kind == float | None:
        return number or value is None, "a number or None"
    if kind is str:
        return isinstance(value, str), "a string"
    if kind == Sequence[str]:
        return isinstance(value, list | tuple) and all(isinstance(v, str) for v in value), "a list of strings"
    if kind == Mapping[str, int]:
        return isinstance(value, Mapping) and all(_is_of(n, int)[0] for n in value.values()), "a dictionary of whole numbers"
    return True, ""


def unknown_candidates(candidates: Sequence[str]) -> list[str]:
    """The languages among these that the classifier does not know; its model, seconds to load, is asked about others than our own only."""
    others = sorted(set(candidates) - set(_CANDIDATES))
    if not others:
        return []
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    known = set(LanguageIdentifier.from_model_file(MODEL_FILE).nb_classes)
    return [lang for lang in others if lang not in known]


def load(preset: str = "swallow_v2", bindings: Sequence[str] = ()) -> Corpus:
    """Bind the configuration.

    Args:
      preset: name of a file in `gin_configs/corpus/` without its ending, or the path of a gin file.
      bindings: gin bindings that win over the preset, e.g. "corpus.MinHash.bands = 14".

    Raises:
      UsageError: no such preset, a binding of a name that does not exist, or a value without meaning.
    """
    from ja_llm import gin_utils

    file = preset if preset.endswith(".gin") else f"corpus/{preset}.gin"
    if not preset.endswith(".gin") and not (gin_utils.packaged_configs() / file).is_file():
        names = sorted(path.stem for path in (gin_utils.packaged_configs() / "corpus").glob("*.gin"))
        raise UsageError(f"{preset}: there is no such preset; there are {', '.join(names)}, or give the path of a .gin file.")
    packaged = gin_utils.packaged_configs() / file
    try:
        with gin_utils.parsed([str(packaged if packaged.is_file() else Path(file))], list(bindings)):
            config = Corpus()
    except TypeError as error:
        raise UsageError(f"gin configuration ({file}): {str(error).splitlines()[0]}") from error
    try:
        config.validate()
    except TypeError as error:
        raise UsageError(
            f"gin configuration ({', '.join([file, *bindings])}): a value is of the wrong type ({error})."
        ) from error
    return config
