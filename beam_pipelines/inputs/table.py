"""The one table of inputs: which format a file has, what its records mean, and which reader that gives."""

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from beam_pipelines.inputs import code, documents, jsonl, parallel, parquet, warc, wikipedia
from beam_pipelines.inputs.compression import ENDINGS
from beam_pipelines.inputs.items import Item
from beam_pipelines.settings.inputs import Inputs
from ja_llm.errors import UsageError

# Format -> endings of its files, before an ending of compression. "folder" is a folder.
FORMATS: dict[str, tuple[str, ...]] = {
    "warc": (".warc", ".wet"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "parquet": (".parquet",),
    "xml": (".xml",),
    "tmx": (".tmx",),
    "tsv": (".tsv", ".txt"),
    "folder": (),
}
_CIRRUS = re.compile(r"cirrussearch|wiki[a-z]*_(?:content|general)\b")
_XML_PART = re.compile(r"\.xml-p\d+p\d+$")  # a part of a large dump: page ids from and to

Reader = Callable[[str, Inputs, int], Iterator[Any]]


def _documents(rows: Callable) -> Reader:
    return lambda path, inputs, limit: documents.read_documents(rows(path, limit, inputs), inputs.fields, path)


def _jsonl(path: str, limit: int, inputs: Inputs) -> Iterator[Any]:
    return jsonl.read_rows(path, limit)


def _parquet(path: str, limit: int, inputs: Inputs, columns: tuple[str, ...] = ()) -> Iterator[Any]:
    return parquet.read_rows(path, columns)


def _document_columns(path: str, limit: int, inputs: Inputs) -> Iterator[Any]:
    f = inputs.fields
    names = (f.text, f.url, f.date, f.source, f.licence, f.lang, f.id, *f.keep)
    return parquet.read_rows(path, _columns(names))


def _columns(names: Any) -> tuple[str, ...]:
    """Top-level columns by which the names may begin; of "a.b" both spellings are asked for."""
    return tuple(dict.fromkeys(part for name in names if name for part in (name, name.partition(".")[0])))


def _pairs(rows: Callable) -> Reader:
    return lambda path, inputs, limit: parallel.read_pairs(rows(path, inputs.parallel, limit), inputs.parallel)


def _jsonl_pairs(path: str, settings: Any, limit: int) -> Iterator[Any]:
    return parallel.fields_as_pairs(jsonl.read_rows(path, limit), settings, path)


def _parquet_pairs(path: str, settings: Any, limit: int) -> Iterator[Any]:
    names = (*(settings.fields or settings.languages), settings.score_field)
    return parallel.fields_as_pairs(parquet.read_rows(path, _columns(names)), settings, path)


# (format, kind) -> reader(path, inputs, largest text in bytes).
READERS: dict[tuple[str, str], Reader] = {
    ("warc", "documents"): lambda path, inputs, limit: warc.read_captures(path, limit),
    ("jsonl", "documents"): _documents(_jsonl),
    ("parquet", "documents"): _documents(_document_columns),
    ("jsonl", "wikipedia"): lambda path, inputs, limit: wikipedia.read_cirrus(
        jsonl.read_rows(path, limit), inputs.wikipedia, path
    ),
    ("xml", "wikipedia"): lambda path, inputs, limit: wikipedia.read_xml(path, inputs.wikipedia, limit),
    ("jsonl", "code"): lambda path, inputs, limit: code.read_code(jsonl.read_rows(path, limit), inputs.code, path, limit),
    ("parquet", "code"): lambda path, inputs, limit: code.read_code(
        parquet.read_rows(path, code.COLUMNS), inputs.code, path, limit
    ),
    ("folder", "code"): lambda path, inputs, limit: code.read_folder(path, inputs.code, limit),
    ("tsv", "parallel"): _pairs(lambda path, settings, limit: parallel.read_tsv(path, settings, limit)),
    ("tmx", "parallel"): _pairs(lambda path, settings, limit: parallel.read_tmx(path, settings)),
    ("jsonl", "parallel"): _pairs(_jsonl_pairs),
    ("parquet", "parallel"): _pairs(_parquet_pairs),
}
# What records mean where the configuration does not say.
_USUAL_KIND = {"warc": "documents", "jsonl": "documents", "parquet": "documents", "xml": "wikipedia", "tmx": "parallel", "tsv": "parallel", "folder": "code"}  # fmt: skip


def format_of(path: str, inputs: Inputs) -> tuple[str, str]:
    """(format, kind) of an input.

    Raises:
      UsageError: its ending says nothing, or the kind is not read from this format.
    """
    form = inputs.format or ("folder" if os.path.isdir(path) else _by_ending(path))
    if not form:
        known = ", ".join(ending for endings in FORMATS.values() for ending in endings)
        raise UsageError(
            f"{path}: its ending says no format that is read ({known}, each also with .gz, .zst, .bz2); rename it, or say what it is with "
            "--gin_bindings \"corpus.Inputs.format = 'jsonl'\"."
        )
    kind = inputs.kind or ("wikipedia" if form == "jsonl" and _CIRRUS.search(os.path.basename(path)) else _USUAL_KIND[form])
    if (form, kind) not in READERS:
        kinds = ", ".join(sorted(k for f, k in READERS if f == form))
        raise UsageError(
            f"{path}: {kind} is not read from {_name(form)}, which may hold {kinds}; change --input, --preset or corpus.Inputs.kind."
        )
    return form, kind


def _name(form: str) -> str:
    return "a folder" if form == "folder" else f"a {form} file"


def _by_ending(path: str) -> str:
    name = os.path.basename(path).lower()
    for packed in ENDINGS[1:]:
        name = name.removesuffix(packed)
    name = _XML_PART.sub(".xml", name)
    return next((form for form, endings in FORMATS.items() if name.endswith(endings or ("\0",))), "")


def read(path: str, inputs: Inputs, max_bytes: int) -> Iterator[Item]:
    """Yield what an input holds, by its reader.

    Args:
      path: the file or folder.
      inputs: how it is read.
      max_bytes: largest text that is read; larger records are Rejected (too_large) or have no block.

    Raises:
      UsageError: as `format_of`.
      JaLlmError: the input has another schema than the configuration says.
      OSError: it can't be read.
    """
    return READERS[format_of(path, inputs)](path, inputs, max_bytes)
