"""Parquet files: row groups are streamed, a damaged row group costs itself."""

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from beam_pipelines.inputs.items import Damage, Rejected, Row
from ja_llm.errors import JaLlmError

_BATCH = 64  # rows held at once: some hundred MB where every text is at the limit


def read_rows(path: str | Path, columns: Sequence[str] = ()) -> Iterator[Row | Rejected | Damage]:
    """Yield a file's rows; the place of each is its row, from 1.

    Args:
      path: the file.
      columns: top-level columns to read, those that the file has; empty for all.

    Yields:
      Rejected: text_not_utf8, for a row whose strings are no UTF-8.
      Damage: parquet_unreadable (no footer, or no Parquet file), parquet_corrupt (a row group).

    Raises:
      OSError: the file can't be opened.
      JaLlmError: the file has none of the columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open(path, "rb") as raw:
        try:
            file = pq.ParquetFile(raw, page_checksum_verification=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            yield Damage(0, "parquet_unreadable", f"the file's footer can't be read ({_short(error)})")
            return
        wanted = [name for name in columns if name in file.schema_arrow.names] or None
        if columns and wanted is None:
            raise _no_columns(path, columns, file.schema_arrow.names)
        start = 1
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            yield from _group(file, group, wanted, start, rows)
            start += rows


def _group(file: Any, group: int, wanted: list[str] | None, start: int, rows: int) -> Iterator[Row | Rejected | Damage]:
    import pyarrow as pa

    done = 0
    try:
        for batch in file.iter_batches(batch_size=_BATCH, row_groups=[group], columns=wanted):
            yield from _values(batch, start + done)
            done += batch.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        yield Damage(
            start + done,
            "parquet_corrupt",
            f"row group {group} can't be read from row {start + done} on ({_short(error)})",
            rows - done,
        )


def _values(batch: Any, start: int) -> list[Row | Rejected]:
    try:
        return [Row(f"row {start + i}", _plain(value)) for i, value in enumerate(batch.to_pylist())]
    except UnicodeDecodeError:  # one row's strings are no UTF-8: which?
        if batch.num_rows == 1:
            return [Rejected("text_not_utf8", f"row {start}")]
        return [row for i in range(batch.num_rows) for row in _values(batch.slice(i, 1), start + i)]


def _plain(value: Any) -> Any:
    """Dates as ISO 8601 text, bytes as text, wherever they stand in the value."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _no_columns(path: str | Path, columns: Sequence[str], names: Sequence[str]) -> JaLlmError:
    shown = ", ".join(list(names)[:12])
    return JaLlmError(
        f"{path}: this file has no column {columns[0]!r} (it has {shown}); name its columns in the configuration (corpus.Fields, corpus.Parallel)."
    )
