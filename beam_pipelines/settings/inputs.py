"""What decides how inputs are read, as gin-configurable dataclasses (module `corpus`). Imports nothing that is heavy."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import gin

from beam_pipelines.settings.checks import Check

KINDS = ("", "documents", "wikipedia", "code", "parallel")

# Sections at the end of an article that are lists of works and links, by their headings (llm-jp-corpus v1 cuts footnotes,
# references, links and related articles; facts 3.2). Compared without white space, in lower case.
_TAIL_SECTIONS = (
    "脚注", "注釈", "注", "註", "注釈・出典", "注釈と出典", "脚注・出典", "出典・脚注", "出典", "参照", "参考文献", "参考資料", "参考図書", "関連文献", "関連図書",
    "関連書籍", "文献", "関連項目", "関連リンク", "外部リンク", "外部サイト", "ギャラリー",
    "references", "notes", "footnotes", "notes and references", "citations", "sources", "bibliography", "further reading", "see also",
    "external links", "gallery",
)  # fmt: skip

# Permissive licences by SPDX identifier: what The Stack counts as such and uses most.
_PERMISSIVE = ("MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Unlicense", "CC0-1.0", "MIT-0", "0BSD", "Zlib", "BSL-1.0", "Python-2.0", "PSF-2.0")  # fmt: skip


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class Fields:
    """Names of the fields (JSONL) or columns (Parquet) of records that are documents; "a.b" is field b of field a.

    Attributes:
      text: a record without it is dropped (text_missing); a file whose records all lack it is refused.
      url, date, source, licence, lang: the same fields of the document; "" or a name that a record lacks leaves them empty.
        `source` and `licence` win over `Extraction`'s.
      id: kept in the document's `meta` as `id`.
      keep: further fields that are kept in `meta` under their own names.
    """

    text: str = "text"
    url: str = "url"
    date: str = "date"
    source: str = "source"
    licence: str = "license"
    lang: str = "lang"
    id: str = "id"
    keep: Sequence[str] = ()

    def checks(self) -> list[Check]:
        """Conditions on the values."""
        return [("text", self.text, bool(self.text), "the name of a field")]


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class Wikipedia:
    """CirrusSearch and XML dumps of MediaWiki sites.

    Attributes:
      namespaces: numbers of the namespaces that are kept; 0 are the articles.
      drop_disambiguation: whether pages that only tell equal titles apart are dropped.
      tail_sections: headings of sections that are cut, in lower case and without white space.
      cirrus_text: field of a CirrusSearch dump: "text" (clean, one paragraph, no headings, so that no tail can be cut) or
        "source_text" (wikitext, cleaned as that of an XML dump).
    """

    namespaces: Sequence[int] = (0,)
    drop_disambiguation: bool = True
    tail_sections: Sequence[str] = _TAIL_SECTIONS
    cirrus_text: str = "text"

    def checks(self) -> list[Check]:
        """Conditions on the values."""
        known = ("text", "source_text")
        return [("cirrus_text", self.cirrus_text, self.cirrus_text in known, _one_of(known))]


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class Code:
    """Source code: The Stack's JSONL or Parquet files, or folders.

    Attributes:
      languages: names as The Stack has them, case aside; empty for all.
      licences: SPDX identifiers, case aside; a file is kept if all that were found for it are among them; empty for all.
      unknown_licence: whether files stay whose licence nothing states.
      contents: folder of The Stack v2's downloaded blobs, named by blob id, plain or gzip, flat or below folders of its first two characters.
      check_syntax: whether files that do not parse are dropped, for the languages that have a check (`syntax.CHECKS`).
      min_pylint_score: smallest pylint score (10 is best) of a Python file; needs pylint. None: off.
      drop_generated, drop_vendored: whether files that the data set marks so (The Stack v2), or that lie in a folder of
        other people's code, are dropped.
      max_line_length: characters of the longest line; None: off.
    """

    languages: Sequence[str] = ("python",)
    licences: Sequence[str] = _PERMISSIVE
    unknown_licence: bool = False
    contents: str = ""
    check_syntax: bool = True
    min_pylint_score: float | None = None
    drop_generated: bool = True
    drop_vendored: bool = True
    max_line_length: float | None = 1000

    def checks(self) -> list[Check]:
        """Conditions on the values."""
        score = self.min_pylint_score
        return [("min_pylint_score", score, score is None or score <= 10, "at most 10, or None")]


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class Parallel:
    """Pairs of sentences or paragraphs that are translations of each other (TSV, TMX, JSONL, Parquet).

    Attributes:
      languages: of the two sides, ISO 639-1; in JSONL, Parquet and TMX they also name the sides unless `fields` does.
      fields: names of the two sides' fields in JSONL and Parquet ("translation.en"); empty: the languages.
      columns: of the two sides in a TSV file, from 1.
      score_column: column (TSV) of a score of the pair, from 1; 0: there is none.
      score_field: the same in JSONL and Parquet; "": none.
      min_score: pairs below it are dropped; None: off.
      directions: "en-ja" puts the English side first; a pair gives one document for each.
      format: "ntp": the first side, a line break, the second; "ti": an instruction that names the two languages before them
        (facts/recipes.md 1: NTP was enough).
      instructions: of "ti", by direction.
      min_characters, max_characters: of each side.
      max_length_ratio: a pair is dropped if the sides' lengths, brought to the same scale, differ by more than this factor.
      characters_per_character: characters of the first language that say as much as one of the second (English to Japanese: about 2.2).
      check_script: whether a Japanese side without kana or kanji, or another with kana, is dropped.
    """

    languages: Sequence[str] = ("en", "ja")
    fields: Sequence[str] = ()
    columns: Sequence[int] = (1, 2)
    score_column: int = 0
    score_field: str = ""
    min_score: float | None = None
    directions: Sequence[str] = ("en-ja", "ja-en")
    format: str = "ntp"
    instructions: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {
            "en-ja": "次の英語を日本語に翻訳してください。",
            "ja-en": "Translate the following Japanese into English.",
        }
    )
    min_characters: int = 1
    max_characters: int = 5000
    max_length_ratio: float | None = 3.0
    characters_per_character: float = 2.2
    check_script: bool = True

    def checks(self) -> list[Check]:
        """Conditions on the values."""
        one, two = (*self.languages, "", "")[:2]
        possible, directions = (f"{one}-{two}", f"{two}-{one}"), set(self.directions)
        columns, ratio, per = self.columns, self.max_length_ratio, self.characters_per_character
        told = self.format != "ti" or directions <= set(self.instructions)
        return [
            ("languages", self.languages, len(self.languages) == 2 and one != two, "two languages, e.g. ('en', 'ja')"),
            ("directions", self.directions, bool(directions) and directions <= set(possible), f"among {', '.join(possible)}"),
            ("format", self.format, self.format in ("ntp", "ti"), _one_of(("ntp", "ti"))),
            ("instructions", self.instructions, told, "given for every direction"),
            ("fields", self.fields, len(self.fields) in (0, 2), "two names of fields, or none"),
            ("columns", columns, len(columns) == 2 and min(columns) >= 1, "two columns, counted from 1"),
            ("score_column", self.score_column, self.score_column >= 0, "a column, counted from 1, or 0 for none"),
            ("max_length_ratio", ratio, ratio is None or ratio >= 1, "at least 1, or None"),
            ("characters_per_character", per, 0 < per < math.inf, "a positive number"),
        ]


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class Inputs:
    """Which files are read as what.

    Attributes:
      kind: what records mean: "documents", "wikipedia", "code" or "parallel"; "": by the file's name (`table.py`).
      format: the files' format, where their endings do not say it: a name of `table.FORMATS`; "": by the ending.
    """

    kind: str = ""
    format: str = ""
    fields: Fields = dataclasses.field(default_factory=Fields)
    wikipedia: Wikipedia = dataclasses.field(default_factory=Wikipedia)
    code: Code = dataclasses.field(default_factory=Code)
    parallel: Parallel = dataclasses.field(default_factory=Parallel)

    def checks(self) -> list[Check]:
        """Conditions on the values. Whether a file has this format and the format this kind: `inputs/table.py`."""
        return [("kind", self.kind, self.kind in KINDS, _one_of(KINDS))]


def _one_of(names: Sequence[str]) -> str:
    return f"one of {', '.join(map(repr, names))}"
