"""Texts of known language, to train and to measure the language model on: message catalogues and pages.

- Catalogues: wheels, or folders, with `.../<language>/LC_MESSAGES/*.mo`. The language is the folder's. A message counts if its
  translation differs from the original, and, in a language of another script, has a character beyond ASCII.
- Pages: WARC files of a language that the caller names. Every block of text (p, li, td, ...) is a text by itself. Of pages
  that are declared Japanese a block counts with at least one kana, of others without any: manuals in translation have paragraphs
  that nobody translated.

A text's group (the original message, the page) decides on which side of the split it falls, so that no translation of a
held-out message and no other paragraph of a held-out page is trained on.
"""

import dataclasses
import glob
import json
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ja_llm.errors import UsageError
from ja_llm.text import scripts

_BLOCKS = ("p", "li", "dd", "dt", "td", "th", "h1", "h2", "h3", "h4", "pre", "title")
_LATIN = ("en", "de", "fr", "es", "it", "pt", "nl", "pl", "cs", "da", "fi", "hu", "id", "nb", "sv", "tr", "vi", "ro")
_MO_MAGIC = 0x950412DE


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A text, its language (ISO 639-1) and the group that is split as one."""

    text: str
    lang: str
    group: str


def read_catalogues(paths: Sequence[str]) -> Iterator[Labelled]:
    """The messages of all catalogues in wheels and folders, and the English originals.

    Raises:
      UsageError: a path with no catalogue in it.
    """
    for path in paths:
        found = False
        for name, data in _files(Path(path)):
            parts = name.split("/")
            if name.endswith(".mo") and len(parts) > 2 and parts[-2] == "LC_MESSAGES":
                found = True
                yield from _messages(data, parts[-3].replace("-", "_").split("_")[0].split("@")[0].lower())
        if not found:
            raise UsageError(
                f"{path}: no compiled message catalogue (<language>/LC_MESSAGES/*.mo) is in it; name a wheel or a folder with some."
            )


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for file in sorted(path.rglob("*.mo")):
            yield file.as_posix(), file.read_bytes()
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".mo"):
                    yield name, archive.read(name)
    except (OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: this is no wheel that can be read ({error}); name a .whl file or a folder.") from error


def _messages(data: bytes, lang: str) -> Iterator[Labelled]:
    for original, translation in _mo_pairs(data):
        first = original.partition("\0")[0].rpartition("\4")[2]  # without plural and context
        if not first:
            continue  # the catalogue's header
        yield Labelled(first, "en", first)
        for text in translation.split("\0"):
            if text and text != first and (lang in _LATIN or not text.isascii()) and lang != "en":
                yield Labelled(text, lang, first)


def _mo_pairs(data: bytes) -> Iterator[tuple[str, str]]:
    """(original, translation) of a compiled catalogue (GNU gettext manual, "The Format of GNU MO Files")."""
    if len(data) < 20:
        return
    order = "<" if struct.unpack("<I", data[:4])[0] == _MO_MAGIC else ">"
    count, originals, translations = struct.unpack(f"{order}3I", data[8:20])
    for i in range(count):
        pair = []
        for table in (originals, translations):
            length, at = struct.unpack_from(f"{order}2I", data, table + 8 * i)
            pair.append(data[at : at + length].decode("utf-8", "replace"))
        yield pair[0], pair[1]


def read_pairs(path: str, without: Sequence[str] = ()) -> Iterator[Labelled]:
    """The messages that `ja-llm fetch debian-docs` collects in `pairs/messages.jsonl`: {"en", "ja", "package"} a line.

    Raises:
      UsageError: the file can't be read as that.
    """
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                pair = json.loads(line)
                if pair["package"] not in without and not pair["ja"].isascii():
                    yield Labelled(pair["en"], "en", pair["en"])
                    yield Labelled(pair["ja"], "ja", pair["en"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path}: this is no JSONL file with en, ja and package ({error}); name pairs/messages.jsonl."
        ) from error


def read_pages(pattern: str, lang: str) -> Iterator[Labelled]:
    """The blocks of the pages in WARC files whose language is known.

    Raises:
      UsageError: no file matches.
    """
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    files = sorted(glob.glob(pattern))
    if not files:
        raise UsageError(f"{pattern}: no file matches; check the path, and quote the pattern.")
    for file in files:
        with open(file, "rb") as stream:
            for record in ArchiveIterator(stream, record_types=WarcRecordType.response, parse_http=True):
                url = record.headers.get("WARC-Target-URI") or ""
                for text in _blocks(record.reader.read()):
                    if (scripts.count(text).kana > 0) == (lang == "ja"):
                        yield Labelled(text, lang, url.rpartition("/")[2].partition(".")[0])


def _blocks(body: bytes) -> Iterator[str]:
    import lxml.etree
    import lxml.html

    from beam_pipelines.charset import decode

    try:
        text = decode(body).text
        tree = lxml.html.fromstring(text.partition("?>")[2] if text.lstrip().startswith("<?xml") else text)
    except (lxml.etree.ParserError, ValueError):
        return
    for element in tree.iter(*_BLOCKS):
        if not any(True for _ in element.iterdescendants(*_BLOCKS)):
            block = " ".join(element.text_content().split())
            if scripts.count(block).letters >= 2:
                yield block
