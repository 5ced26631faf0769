"""Sentence pairs from compiled message catalogues (GNU gettext's `.mo` files).

Format: GNU gettext manual, section "The Format of GNU MO Files". Read here and not with the standard library's
`gettext`, because that one drops the plural form of the English string.
"""

import re
import struct
from collections.abc import Iterator

from ja_llm.errors import JaLlmError

_MAGIC = 0x950412DE
# Hiragana, katakana, kanji, half-width katakana: what a Japanese translation must have some of.
_JAPANESE = re.compile("[\u3041-\u3096\u30a1-\u30fa\u3400-\u9fff\uff66-\uff9d]")
CATALOGUE = re.compile(r"(?:.*/)?ja(?:_JP)?(?:\.[\w-]+)?/LC_MESSAGES/[^/]+\.mo")


def parse_mo(data: bytes, name: str = "catalogue") -> list[tuple[str, str, str]]:
    """Entries of a compiled catalogue as (context, English, translation); the header entry is left out.

    An entry with plural forms gives the English plural, which holds the number as Japanese does, with the first form.
    Fuzzy translations never reach a compiled catalogue.

    Raises:
      JaLlmError: the bytes are no catalogue, are cut off, or are in an unknown character encoding.
    """
    try:
        order = {struct.pack("<I", _MAGIC): "<", struct.pack(">I", _MAGIC): ">"}[data[:4]]
        revision, count, originals, translations = struct.unpack_from(order + "4I", data, 4)
        if revision >> 16 > 1:
            raise ValueError(f"revision {revision >> 16}")
        pairs = list(zip(_strings(data, order, originals, count), _strings(data, order, translations, count), strict=True))
        header = next((value for key, value in pairs if not key), b"")
        charset = re.search(rb"charset=([\w.-]+)", header)
        encoding = charset[1].decode() if charset and charset[1] != b"CHARSET" else "utf-8"
        return [_entry(key.decode(encoding), value.decode(encoding)) for key, value in pairs if key]
    except (KeyError, struct.error, ValueError, LookupError) as error:
        raise JaLlmError(f"{name}: this message catalogue can't be read ({error}).") from error


def _strings(data: bytes, order: str, table: int, count: int) -> Iterator[bytes]:
    for i in range(count):
        length, offset = struct.unpack_from(order + "2I", data, table + 8 * i)
        if offset + length > len(data):
            raise ValueError("it is cut off")
        yield data[offset : offset + length]


def _entry(key: str, value: str) -> tuple[str, str, str]:
    context, _, english = key.rpartition("\x04")
    return context, english.split("\x00")[-1], value.split("\x00")[0]


def japanese_pairs(data: bytes, name: str = "catalogue") -> list[tuple[str, str]]:
    """(English, Japanese) of the entries that are really translated: both have text, and the translation has Japanese.

    Left out: empty strings, strings kept in English, and credits of the translators themselves.

    Raises:
      JaLlmError: as `parse_mo`.
    """
    pairs = []
    for _, english, japanese in parse_mo(data, name):
        english, japanese = english.strip(), japanese.strip()
        if not english or english.lower().replace("_", "-") == "translator-credits" or english == japanese:
            continue
        if _JAPANESE.search(japanese) and not _JAPANESE.search(english):
            pairs.append((english, japanese))
    return pairs
