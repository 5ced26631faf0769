"""Pages that never became documents: what extraction dropped, all of it, so that `corpus trace` can say of any page why it went.

`<unit>.lost.npy` of the first stage: LOST [drops], sorted by `key`, 18 bytes a drop whatever it was; looking one up is a binary search in each
unit's file. `key` is a 64-bit hash of the page's URL without credentials and controls, or, of what has none, of INPUT:PLACE (PLACE: the
number of its offset, line, row or page, or its path).
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import xxhash

from beam_pipelines.inputs.items import without_credentials
from beam_pipelines.workspace import Stage, Unit, write_file
from ja_llm.text.normalise import strip_controls

ENDING = ".lost.npy"
LOST = np.dtype([("key", "<u8"), ("place", "<u8"), ("reason", "<u2")])
_NO_NUMBER = np.iinfo(np.uint64).max
_NUMBER = re.compile(r"(?:(?:line|row|page) )?([0-9]{1,18})(?: .*)?", re.DOTALL)


def bare_url(url: str) -> str:
    """The URL as a corpus may hold it: without credentials and controls.

    Example:
      >>> bare_url(" http://me:secret@a.example/\\n")
      'http://a.example/'
    """
    return without_credentials(strip_controls(url).strip())


class Lost:
    """The drops of one unit while it is extracted."""

    def __init__(self, unit: Unit):
        self._unit, self._rows, self._reasons = unit, list[tuple[int, int, int]](), dict[str, int]()

    def add(self, reason: str, place: int | str, url: str = "") -> None:
        """Note one: `place` is the record's offset, line, row or path in the input."""
        found = _NUMBER.fullmatch(f"{place}")
        number, place = (int(found[1]), found[1]) if found else (_NO_NUMBER, place)
        key = _key(bare_url(url) or f"{self._unit.name}:{place}")
        self._rows.append((key, number, self._reasons.setdefault(reason, len(self._reasons))))

    def write(self, this: Stage) -> dict[str, Any]:
        """Write the unit's file; returns what the marker holds under "lost": the input's name, and the reasons in the order of their numbers."""
        rows = np.array(self._rows, LOST)
        with write_file(this.file(self._unit, ENDING)) as file:
            np.save(file, rows[np.lexsort([rows["place"], rows["key"]])])
        return {"input": self._unit.name, "reasons": list(self._reasons)}


def search(first: Stage, wanted: str) -> Iterator[tuple[str, str, str]]:
    """(reason, input, number of its offset, line or row if it has one) of each drop of a page; `wanted` is its URL or INPUT:PLACE."""
    key = np.uint64(_key(bare_url(wanted)))
    for marker in sorted(first.folder.glob("*.json")):
        path = first.file(marker.stem, ENDING)
        if not path.exists():  # made by an earlier version
            continue
        rows = np.load(path, mmap_mode="r")
        found = rows[np.searchsorted(rows["key"], key, "left") : np.searchsorted(rows["key"], key, "right")]
        if len(found):
            about = first.result(marker.stem)["lost"]
            for row in found:
                yield about["reasons"][row["reason"]], about["input"], f"{row['place']}" if row["place"] != _NO_NUMBER else ""


def _key(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"))
