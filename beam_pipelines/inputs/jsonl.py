"""JSON lines: one object a line, plain, gzip, zstd or bzip2. A bad line costs itself, a cut file what it has lost."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from beam_pipelines.inputs.compression import Broken, lines
from beam_pipelines.inputs.items import Damage, Rejected, Row

_BOM = b"\xef\xbb\xbf"
_SHOWN = 200


def read_rows(path: str | Path, max_bytes: int) -> Iterator[Row | Rejected | Damage]:
    """Yield a file's objects; the place of each is its line, from 1.

    Args:
      path: the file; its compression is known by its first bytes.
      max_bytes: of a text; a line may have twice as many, since escapes take up to six bytes for a character's three.

    Yields:
      Rejected: bad_json_line (with the parser's words and the line's beginning), too_large.
      Damage: input_truncated or input_corrupt, where decompression can't go on.

    Raises:
      OSError: the file can't be read.
    """
    number = 0
    try:
        for number, line, size in lines(path, 2 * max_bytes + (1 << 16)):
            place = f"line {number}"
            if line is None:
                yield Rejected("too_large", place, {"bytes": size})
                continue
            if number == 1:
                line = line.removeprefix(_BOM)
            if line.strip():
                yield _parse(line, place)
    except Broken as broken:
        yield damage(broken, f"line {number + 1}" if broken.pending else "")


def damage(broken: Broken, cut: str = "") -> Damage:
    """The damage of an input whose decompression can't go on; `cut` names the record that was being read, or is empty."""
    detail = f"{broken.detail}; {cut} is cut and was left out" if cut else broken.detail
    return Damage(broken.offset, f"input_{broken.reason}", detail, int(bool(cut)))


def _parse(line: bytes, place: str) -> Row | Rejected:
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # of them: bad UTF-8, an integer of thousands of digits
        return _bad(line, place, str(error))
    return Row(place, value) if isinstance(value, dict) else _bad(line, place, "this is no JSON object")


def _bad(line: bytes, place: str, detail: str) -> Rejected:
    return Rejected("bad_json_line", place, {"detail": detail[:_SHOWN], "excerpt": line[:_SHOWN].decode("utf-8", "replace")})


def field(value: dict[str, Any], name: str) -> Any:
    """The field `name` of a record, or None; "a.b" is field b of field a unless there is a field of that very name.

    Example:
      >>> field({"meta": {"url": "x"}}, "meta.url"), field({"meta.url": "y"}, "meta.url"), field({}, "meta.url")
      ('x', 'y', None)
    """
    if not name:
        return None
    if name in value:
        return value[name]
    found: Any = value
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return found
