"""What reading an input gives: captures of pages, records that are text already, and what was lost or passed over."""

import dataclasses
import re
from typing import Any

_USER_INFO = re.compile(r"^((?:[A-Za-z][A-Za-z0-9+.-]*:)?//)[^/?#]*@")


@dataclasses.dataclass(frozen=True)
class Damage:
    """A place where input was lost.

    Attributes:
      offset: byte in the file (of a text file: of its decompressed content; of Parquet: the first lost row).
      reason: warc_truncated, warc_corrupt, warc_empty, warc_unreadable, input_truncated, input_corrupt, parquet_corrupt,
        parquet_unreadable, xml_corrupt.
      detail: what is known about it.
      lost_documents: how many documents are known to be lost there (0: nothing says what stood there).
    """

    offset: int
    reason: str
    detail: str
    lost_documents: int = 0


@dataclasses.dataclass
class Capture:
    """One response or conversion record of a WARC file: what a server sent for `url`, or the text that was made of it (WET).

    Attributes:
      offset: of the record's gzip or zstd member in the file.
      block: HTTP head and body as they stand in the record (of a conversion the text), or None if the record is larger
        than the limit.
      size: bytes of the block.
      truncated: the crawler's own reason for cutting the block (WARC-Truncated), or "".
      fields: of the metadata record that follows the response, if any: source, licence, package, version.
      kind: "response" or "conversion".
    """

    url: str
    date: str
    record_id: str
    offset: int
    block: bytes | None
    size: int
    truncated: str = ""
    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    kind: str = "response"


@dataclasses.dataclass(frozen=True)
class Other:
    """A record that is no document, and none that was lost: its type."""

    kind: str


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A record that gives no document: the reason, the place (line, row or path) and what is worth showing with it."""

    reason: str
    place: str
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Row:
    """One record of a JSONL, Parquet or TSV file: its place (line or row, from 1) and its fields."""

    place: str
    value: dict[str, Any]


@dataclasses.dataclass
class Record:
    """One text with its provenance.

    Attributes:
      text: as it stands in the input; may hold controls and lone surrogates.
      place: line, row or path in the input.
      lang: language that the input states; the language stage, where there is one, decides by content.
      meta: goes into the document's `meta`.
      markup: "" for plain text, "wikitext" for MediaWiki's.
      verbatim: whether white space and Unicode forms carry meaning (source code): only line ends and controls are cleaned.
    """

    text: str
    place: str
    url: str = ""
    date: str = ""
    source: str = ""
    licence: str = ""
    lang: str = ""
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)
    markup: str = ""
    verbatim: bool = False


# What a reader yields. A Row is between a container (JSONL, Parquet, TSV) and what knows its fields.
Item = Capture | Record | Rejected | Damage | Other


def without_credentials(url: str) -> str:
    """The URL without user name and password, which must not land in a corpus.

    Example:
      >>> without_credentials("https://me:secret@a.example/x?mail=a@b")
      'https://a.example/x?mail=a@b'
    """
    return _USER_INFO.sub(r"\1", url)
