"""Original files of evaluation sets in a local folder: read, checked, and known by their checksums.

    DIR/<set>/<path inside the original repository or archive>
    DIR/SHA256SUMS     optional: `cd DIR && find . -type f ! -name SHA256SUMS | xargs sha256sum > SHA256SUMS`

With SHA256SUMS every file of a set must be in it and equal to it. A set that it has no file of (put there by hand), or any without it,
must hold as many records as the original does, so that half a download is never taken for the whole set. Nothing is fetched from here.
"""

import csv
import functools
import gzip
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import os_error_sentence, sha256_file

SUMS = "SHA256SUMS"
Record = dict[str, Any]


class MissingFile(JaLlmError):
    """An original file is not there."""


class RawFolder:
    """One folder of original files.

    Args:
      root: the folder.

    Raises:
      UsageError: it does not exist.
      JaLlmError: its SHA256SUMS can't be read.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        if not self.root.is_dir():
            raise UsageError(
                f"{self.root}: this folder of evaluation data does not exist; give the folder of the original files."
            )
        self._used: dict[str, str] = {}

    @functools.cached_property
    def _sums(self) -> dict[str, str] | None:
        path = self.root / SUMS
        if not path.exists():
            return None
        try:
            lines = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            return {name.strip().lstrip("*").removeprefix("./"): digest.lower() for digest, name in lines}
        except (OSError, ValueError):
            raise JaLlmError(f"{path}: these checksums can't be read; write them again with sha256sum.") from None

    def checksums(self, patterns: Sequence[str]) -> dict[str, str]:
        """SHA-256 of each file that the patterns match, by its path in the folder; each is compared with SHA256SUMS.

        Raises:
          MissingFile: no file fits a pattern.
          JaLlmError: one is not what SHA256SUMS says.
        """
        matched = []  # of all patterns: a set with a part missing is a missing one, whatever else is wrong with it
        for pattern in patterns:
            paths = sorted(p for p in self.root.glob(pattern) if p.is_file())
            listed = [name for name in self._sums or () if Path(name).match(pattern) and not (self.root / name).is_file()]
            if not paths or listed:
                raise MissingFile(
                    f"{self.root / (listed[0] if listed else pattern)}: this evaluation file is missing; put the original there."
                )
            matched += paths
        return {str(path.relative_to(self.root)): self._checked(path) for path in matched}

    def unlisted(self, names: Iterable[str]) -> list[str]:
        """The sets among these files of which SHA256SUMS, if there is one, has nothing: their records were counted instead."""
        return sorted({name.split("/", 1)[0] for name in names if self._sums is not None and not self._listed(name)})

    def _listed(self, name: str) -> bool:
        """Whether SHA256SUMS has a file of this one's set."""
        return name.split("/", 1)[0] in {other.split("/", 1)[0] for other in self._sums or ()}

    def _checked(self, path: Path) -> str:
        name = str(path.relative_to(self.root))
        if name not in self._used:
            try:
                digest = sha256_file(path)
            except OSError as error:
                raise os_error_sentence(error, path, reading=True) from error
            if self._sums is not None and self._listed(name) and self._sums.get(name) != digest:
                wrong = "is not listed in" if name not in self._sums else "is not the file of"
                raise JaLlmError(
                    f"{path}: this evaluation file {wrong} {SUMS} (altered or cut off); fetch the original again, or write {SUMS} anew if it is meant to differ."
                )
            self._used[name] = digest
        return self._used[name]

    def text(self, name: str) -> str:
        """A file's text (UTF-8, a byte order mark is dropped; .gz is unpacked), checked.

        Raises:
          JaLlmError: it is missing, altered, cut off or no UTF-8.
        """
        self.checksums([name])
        path = self.root / name
        try:
            data = path.read_bytes()
            return (gzip.decompress(data) if name.endswith(".gz") else data).decode("utf-8-sig")
        except (OSError, EOFError, ValueError) as error:
            raise JaLlmError(
                f"{path}: this evaluation file can't be read ({type(error).__name__}); fetch the original again."
            ) from None

    def names(self, pattern: str) -> list[str]:
        """Paths in the folder that fit, sorted and checked.

        Raises:
          JaLlmError: there is none, or one is altered.
        """
        return sorted(self.checksums([pattern]))

    def json(self, name: str) -> Any:
        """A JSON file.

        Raises:
          JaLlmError: see `text`; or it is no JSON.
        """
        return self._json(name, self.text(name), "")

    def _json(self, name: str, text: str, where: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            raise JaLlmError(
                f"{self.root / name}: {where or 'this file'} is no JSON (cut off?); fetch the original again."
            ) from None

    def json_lines(self, name: str, expected: int = 0) -> list[Record]:
        """The objects of a JSONL file.

        Raises:
          JaLlmError: see `text`; a line is no object; or there are not `expected` many (see `complete`).
        """
        lines = [line for line in self.text(name).split("\n") if line.strip()]
        rows = [self._json(name, line, f"line {number}") for number, line in enumerate(lines, 1)]
        if not all(isinstance(row, dict) for row in rows):
            raise JaLlmError(f"{self.root / name}: a line is no JSON object; fetch the original again.")
        return self.complete(name, rows, expected)

    def csv_rows(self, name: str, columns: int, expected: int = 0, delimiter: str = ",") -> list[list[str]]:
        """The rows of a CSV or TSV file, each with so many columns at least.

        Raises:
          JaLlmError: see `text`; a row is shorter; or there are not `expected` many rows.
        """
        csv.field_size_limit(1 << 27)
        file = io.StringIO(self.text(name), newline="")
        # Tab-separated originals have plain quotation marks in their texts.
        plain = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        rows = [row for row in (plain if delimiter == "\t" else csv.reader(file, delimiter=delimiter)) if row]
        for number, row in enumerate(rows, 1):
            if len(row) < columns:
                raise JaLlmError(
                    f"{self.root / name}: row {number} has {len(row)} of {columns} columns (cut off?); fetch the original again."
                )
        return self.complete(name, rows, expected)

    def complete(self, name: str, rows: list[Any], expected: int) -> list[Any]:
        """The rows, if there are as many as in the original; where SHA256SUMS has the set, the checksum has decided, and any number but 0 will do.

        Raises:
          JaLlmError: the set is not whole.
        """
        if not rows:
            raise JaLlmError(f"{self.root / name}: there is no record in this evaluation file; fetch the original again.")
        if expected and not self._listed(name) and len(rows) != expected:
            raise JaLlmError(
                f"{self.root / name}: {len(rows)} records instead of the original's {expected}; fetch it again, or write {SUMS} "
                "beside the sets if a part is meant."
            )
        return rows

    def gold(self, name: str, record: Record, field: str, identity: Any) -> Any:
        """A field that must be there and not be empty.

        Raises:
          JaLlmError: it is not.
        """
        value = record.get(field)
        if value is None or value == "" or value == []:
            raise JaLlmError(
                f"{self.root / name}: record {identity} has no {field!r}, so it can't be scored; fetch the original with its answers."
            )
        return value
