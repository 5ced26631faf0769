"""Records that are documents: which field is the text, which the URL, the date and the rest (`config.Fields`)."""

from collections.abc import Iterable, Iterator
from typing import Any

from beam_pipelines.inputs.items import Damage, Record, Rejected, Row
from beam_pipelines.inputs.jsonl import field
from beam_pipelines.settings.inputs import Fields
from ja_llm.errors import JaLlmError

_ENOUGH = 100  # records without a text from which the schema is another one


def read_documents(rows: Iterable[Row | Rejected | Damage], fields: Fields, path: str) -> Iterator[Record | Rejected | Damage]:
    """Yield a Record for each row that has a text.

    Yields:
      Rejected: text_missing, text_not_string.

    Raises:
      JaLlmError: none of the file's first records (100, or all) has the text: its schema is another one.
    """
    for row in with_text(rows, fields.text, path):
        yield to_record(row, fields) if isinstance(row, Row) else row


def with_text(rows: Iterable[Row | Rejected | Damage], name: str, path: str) -> Iterator[Row | Rejected | Damage]:
    """The rows, unless none of the first ones has the field.

    Raises:
      JaLlmError: it names the fields that there are.
    """
    without, seen, found = 0, dict[str, None](), False
    for row in rows:
        if isinstance(row, Row) and not found:
            found = field(row.value, name) is not None
            without += not found
            seen |= dict.fromkeys(row.value)
            if without >= _ENOUGH:
                raise _other_schema(path, name, without, seen)
        yield row
    if without and not found:
        raise _other_schema(path, name, without, seen)


def _other_schema(path: str, name: str, records: int, seen: Iterable[str]) -> JaLlmError:
    shown = ", ".join(list(seen)[:12]) or "none"
    return JaLlmError(
        f"{path}: none of its first {records} records has the field {name!r} (their fields: {shown}); name the right one in the configuration, "
        "e.g. --gin_bindings \"corpus.Fields.text = 'body'\"."
    )


def to_record(row: Row, fields: Fields) -> Record | Rejected:
    """One row as a Record."""
    text = field(row.value, fields.text)
    if text is None:
        return Rejected("text_missing", row.place, {"fields": sorted(row.value)[:20]})
    if not isinstance(text, str):
        return Rejected("text_not_string", row.place, {"detail": f"{fields.text} is {type(text).__name__}"})
    meta = {name: field(row.value, name) for name in fields.keep}
    stated: dict[str, Any] = {
        name: string(field(row.value, getattr(fields, name))) for name in ("url", "date", "source", "licence", "lang")
    }
    meta["id"] = string(field(row.value, fields.id))
    return Record(
        text=text,
        place=row.place,
        **stated,
        meta={name: value for name, value in meta.items() if value not in (None, "")},
    )


def string(value: Any) -> str:
    """A field as text: "" for None, a list's items joined by commas."""
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
