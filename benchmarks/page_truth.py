"""What a page of a labelled WARC says and in which language, found without any part of the corpus job.

Main text: the element that the manuals' own markup names as their content, without navigation, tables of contents, scripts and styles,
read by lxml from bytes whose charset is known. Tables stay in, which the job leaves out (Swallow's setting), so recall shows what that costs;
`Page.prose` is the same without them.
Language of the content: of the letters outside Latin script, what script they are in, line by line (`language`). Jaccard similarity: of
the sets of character 5-grams without white space, all pairs of it (`near_pairs`).
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

NGRAM = 5
# A page is Japanese from this share of its letters in lines with kana on; below the second it is not; between, it mixes languages.
JAPANESE_FROM, OTHER_BELOW = 0.25, 0.1

_MAIN = (
    "//div[@id='main']",  # LilyPond (texinfo)
    "//div[@id='content']",  # KiCad (asciidoc)
    "//div[@class='manual-text']",  # manual pages (mandoc)
)
# Script and style are not text; the others are navigation: DocBook's, texinfo's, asciidoc's and mandoc's.
_DROPPED_TAGS = ("script", "style", "nav", "noscript", "head", "template")
_DROPPED = re.compile(
    r"navheader|navfooter|toc\d?|nav_table|tocframe|toctitle|footer|banner|docnav|highlighting-settings|header|head|foot"
)
_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa]")
_LETTER = re.compile(r"[^\W\d_]")
_SPACE = re.compile(r"\s+")


@dataclasses.dataclass(frozen=True)
class Page:
    """One response of a labelled WARC.

    Attributes:
      file, offset: the WARC file's name and the byte at which the record's gzip member begins; they identify the page.
      url: as captured.
      date: WARC-Date.
      declared: language that its package or label says.
      content: language of the main text: ja, other or mixed, "" if it has no text that can be read.
      text: reference main text.
      prose: reference main text outside tables, of a collection's own pages.
      label: what was done to it: "" (nothing), or a kind of damage or duplicate.
      of: (file, offset) of the page that it was made from, if any.
      lost: it can't be read whole by design: its body or record is cut off or destroyed.
    """

    file: str
    offset: int
    url: str
    date: str
    declared: str
    content: str
    text: str
    label: str = ""
    of: tuple[str, int] | None = None
    lost: bool = False
    prose: str = ""

    @property
    def key(self) -> tuple[str, int]:
        """What identifies it."""
        return self.file, self.offset

    def to_json(self) -> dict[str, Any]:
        """For a line of JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Page":
        """The inverse."""
        return cls(**{**value, "of": tuple(value["of"]) if value["of"] else None})


def squeeze(text: str) -> str:
    """The text without white space."""
    return _SPACE.sub("", text)


def text_places(html: str, tables: bool = True) -> tuple[Any, list[tuple[Any, str]]]:
    """(lxml's tree, where the main text stands in it: an element and "text" or "tail"); (None, []) of what is no page."""
    import lxml.html

    try:
        tree = lxml.html.document_fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", html))
    except (lxml.etree.ParserError, ValueError):
        return None, []
    found = [element for path in _MAIN for element in tree.xpath(path)] or tree.xpath("//body")
    places, stack = [], [(found[0], "text")] if found else []
    while stack:  # in the order of the text; deep pages would be too deep for recursion
        element, part = stack.pop()
        if part == "text":
            if _is_navigation(element) or (element.tag == "table" and not tables):
                continue
            stack += [entry for child in reversed(element) for entry in ((child, "tail"), (child, "text"))]
        if getattr(element, part):
            places.append((element, part))
    return tree, places


def _is_navigation(element: Any) -> bool:
    if not isinstance(element.tag, str) or element.tag in _DROPPED_TAGS:  # comments have no name
        return True
    names = [*(element.get("class") or "").split(), element.get("id") or ""]
    return any(_DROPPED.fullmatch(name) for name in names)


def main_text(html: str, tables: bool = True) -> str:
    """The reference main text, a line a text node of the markup."""
    return "\n".join(text for element, part in text_places(html, tables)[1] if (text := getattr(element, part)).strip())


def language(text: str) -> str:
    """ "ja", "other", or "mixed": by the share of letters that stand in lines with kana; "" of a text with fewer than 10 letters.

    Example:
      >>> language("これは日本語の文です。"), language("This is an English sentence.")
      ('ja', 'other')
    """
    letters = japanese = 0
    for line in text.splitlines():
        count = len(_LETTER.findall(line))
        letters += count
        japanese += count if len(_KANA.findall(line)) >= 2 else 0
    if letters < 10:
        return ""
    share = japanese / letters
    return "ja" if share >= JAPANESE_FROM else "other" if share < OTHER_BELOW else "mixed"


@dataclasses.dataclass(frozen=True)
class Response:
    """A response record: where its gzip member begins, its WARC headers by lower-case name, its block, its metadata record's fields."""

    offset: int
    headers: dict[str, str]
    block: bytes
    fields: dict[str, str]


def responses(path: Path) -> Iterator[Response]:
    """The response records of a sound WARC file."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    held: Response | None = None
    with open(path, "rb") as stream:
        for record in ArchiveIterator(stream, parse_http=False):
            data = record.reader.read()
            if record.record_type == WarcRecordType.metadata and held is not None:
                lines = (line.partition(": ") for line in data.decode().splitlines())
                held.fields.update({name: value for name, _, value in lines})
            elif record.record_type == WarcRecordType.response:
                if held is not None:
                    yield held
                held = Response(record.stream_pos, {k.lower(): v for k, v in record.headers.items()}, data, {})
    if held is not None:
        yield held


def ngrams(text: str) -> np.ndarray:
    """uint64, sorted, distinct: 64-bit hashes of the text's character 5-grams without white space; a shorter text is one."""
    points = np.frombuffer(squeeze(text).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    if len(points) < NGRAM:
        points = np.concatenate([points, np.zeros(NGRAM - len(points), np.uint64)])
    count = len(points) - NGRAM + 1
    value = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for i in range(NGRAM):  # base 2^21 holds a code point; the multiplication between mixes what overflows
            value = (value ^ points[i : i + count]) * np.uint64(0x9FB21C651E98DF25)
            value ^= value >> np.uint64(29)
        value *= np.uint64(0xD6E8FEB86659FD93)
        value ^= value >> np.uint64(32)
    return np.unique(value)


def shared(a: np.ndarray, b: np.ndarray) -> int:
    """How many of the values stand in both sorted arrays."""
    small, large = (a, b) if len(a) <= len(b) else (b, a)
    at = np.searchsorted(large, small)
    return int(np.count_nonzero(large[np.minimum(at, len(large) - 1)] == small))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Of two sets as `ngrams` gives them."""
    both = shared(a, b)
    return both / (len(a) + len(b) - both)


def near_pairs(sets: Sequence[np.ndarray], least: float = 0.5, sketch: int = 256) -> dict[tuple[int, int], float]:
    """Every pair i < j of the sets with Jaccard similarity of at least `least`, with it, exactly computed.

    Candidates share as many of their `sketch` smallest hashes as such a pair has at the least: of a pair with similarity J, the larger set
    has at least J of its n-grams in common with the other, and its smallest hashes are a random sample of it. Five standard errors below that
    is asked for, so that of ten million pairs three are overlooked; sets up to the sketch's size are compared whole.
    """
    from scipy.sparse import csr_matrix

    sizes = np.array([len(s) for s in sets])
    sketches = [s[:sketch] for s in sets]
    values, columns = np.unique(np.concatenate(sketches), return_inverse=True)
    starts = np.concatenate([[0], np.cumsum([len(s) for s in sketches])])
    matrix = csr_matrix((np.ones(len(columns), np.int32), columns, starts), (len(sets), len(values)))
    transposed, found = matrix.T.tocsr(), {}
    margin = 5 * np.sqrt(least * (1 - least) * sketch)
    for first in range(0, len(sets), 500):
        block = (matrix[first : first + 500] @ transposed).tocoo()
        i, j = block.row + first, block.col
        larger = np.maximum(sizes[i], sizes[j])
        wanted = np.where(larger <= sketch, least * larger, least * sketch - margin)
        near = (i < j) & (block.data >= wanted) & (np.minimum(sizes[i], sizes[j]) >= least * larger)
        for a, b in zip(i[near].tolist(), j[near].tolist(), strict=True):
            similarity = jaccard(sets[a], sets[b])
            if similarity >= least:
                found[a, b] = similarity
    return found


def sharing_pairs(sets: Sequence[np.ndarray], block: int = 250) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(i, j, Jaccard similarity) of every pair i < j of the sets that have a value in common, exactly computed, in blocks of i.

    As many multiplications as the values' squared frequencies sum up to: for thousands of documents, not for millions.
    """
    from scipy.sparse import csr_matrix

    sizes = np.array([len(s) for s in sets], np.int64)
    values, columns, counts = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
    several = counts[columns] > 1
    starts = np.concatenate([[0], np.cumsum(np.add.reduceat(several, np.cumsum(sizes) - sizes, dtype=np.int64))])
    columns = columns[several]
    matrix = csr_matrix((np.ones(len(columns), np.int32), columns, starts), (len(sets), len(values)))
    for first in range(0, len(sets), block):
        product = (matrix[first : first + block] @ matrix[first:].T).tocoo()
        upper = product.row < product.col
        i, j, both = product.row[upper] + first, product.col[upper] + first, product.data[upper]
        yield i, j, both / (sizes[i] + sizes[j] - both)
