"""Source code: The Stack v1 (content in the record), The Stack v2 (blob ids, contents in a folder), and plain folders.

Field names are the data sets' own, tried in order: The Stack v1 has content, lang, max_stars_repo_name, max_stars_repo_path,
max_stars_repo_licenses, hexsha; The Stack v2 has blob_id, language, repo_name, path, detected_licenses, src_encoding,
is_generated, is_vendor, or one record a repository with all that under files (both data cards). Rules, in this order: language, vendored and generated files, licence, contents,
line length, syntax, pylint score.
"""

import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from beam_pipelines.inputs import syntax
from beam_pipelines.inputs.documents import string
from beam_pipelines.inputs.items import Damage, Record, Rejected, Row
from beam_pipelines.settings.inputs import Code
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.text.normalise import strip_controls

_CONTENT, _BLOB = ("content", "text", "code"), ("blob_id", "hexsha", "id")
_LANGUAGE, _PATH = ("language", "lang", "programming_language"), ("path", "max_stars_repo_path", "filename")
_REPOSITORY = ("repo_name", "max_stars_repo_name", "repository_name")
_LICENCES = ("detected_licenses", "max_stars_repo_licenses", "licenses", "license")
COLUMNS = (*_CONTENT, *_BLOB, *_LANGUAGE, *_PATH, *_REPOSITORY, *_LICENCES, "src_encoding", "is_generated", "is_vendor", "visit_date", "files")  # fmt: skip

# Languages by file ending, for folders; names as The Stack has them.
_BY_ENDING = {
    ".py": "Python", ".pyi": "Python", ".js": "JavaScript", ".mjs": "JavaScript", ".jsx": "JavaScript", ".ts": "TypeScript", ".tsx": "TypeScript",
    ".java": "Java", ".c": "C", ".h": "C", ".cc": "C++", ".cpp": "C++", ".cxx": "C++", ".hpp": "C++", ".cs": "C#", ".go": "Go", ".rs": "Rust",
    ".rb": "Ruby", ".php": "PHP", ".swift": "Swift", ".kt": "Kotlin", ".scala": "Scala", ".sh": "Shell", ".bash": "Shell", ".pl": "Perl",
    ".lua": "Lua", ".r": "R", ".jl": "Julia", ".hs": "Haskell", ".ml": "OCaml", ".ex": "Elixir", ".erl": "Erlang", ".clj": "Clojure",
    ".sql": "SQL", ".html": "HTML", ".css": "CSS", ".md": "Markdown", ".rst": "reStructuredText", ".json": "JSON", ".toml": "TOML",
    ".yaml": "YAML", ".yml": "YAML", ".xml": "XML", ".tex": "TeX", ".f90": "Fortran", ".dart": "Dart", ".vim": "Vim Script",
}  # fmt: skip
_VENDORED = re.compile(
    r"(?:^|/)(?:node_modules|vendor|vendored|third_party|third-party|bower_components|site-packages|\.venv|venv|dist)/"
)
_SPDX = re.compile(r"SPDX-License-Identifier:\s*([A-Za-z0-9.+-]+(?:\s+(?:AND|OR|WITH)\s+[A-Za-z0-9.+-]+)*)")
_SKIPPED_FOLDERS = {".git", ".hg", ".svn", "__pycache__", ".tox", ".mypy_cache"}


def read_code(
    rows: Iterable[Row | Rejected | Damage], settings: Code, path: str, max_bytes: int
) -> Iterator[Record | Rejected | Damage]:
    """Yield the files that the records hold or name.

    Yields:
      Rejected: code_language, code_vendored, code_generated, code_licence, code_licence_unknown, blob_missing, blob_damaged,
        text_missing, too_large, code_line_length, code_syntax, code_pylint.

    Raises:
      JaLlmError: the first records have neither content nor a blob id, or ids but no folder of contents is configured.
    """
    strange, fine, last = 0, False, dict[str, Any]()
    for row in rows:
        if not isinstance(row, Row):
            yield row
            continue
        if isinstance(row.value.get("files"), list):  # a repository with its files (The Stack v2's train-full and train-smol ids)
            fine = True
            yield from (_decide(file, settings, path, max_bytes) for file in _files_of(row))
            continue
        if not fine:
            fine = _first(row.value, _CONTENT) is not None or _first(row.value, _BLOB) is not None
            strange += not fine
            last = row.value
            if strange >= 100:
                raise _other_schema(path, last)
        yield _decide(row, settings, path, max_bytes)
    if strange and not fine:
        raise _other_schema(path, last)


def _files_of(row: Row) -> Iterator[Row]:
    """The files of a repository's record, each with what the record says of all of them."""
    common = {name: value for name, value in row.value.items() if name != "files"}
    for number, value in enumerate(row.value["files"], 1):
        yield Row(f"{row.place} file {number}", {**common, **value} if isinstance(value, dict) else common)


def _other_schema(path: str, value: dict[str, Any]) -> JaLlmError:
    shown = ", ".join(list(value)[:12])
    return JaLlmError(
        f"{path}: these records are no source code (no field content, text or blob_id, but {shown}); choose another kind or preset."
    )


def _first(value: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)


def _decide(row: Row, settings: Code, path: str, max_bytes: int) -> Record | Rejected:
    value = row.value
    found = _first(value, _LICENCES)
    file = _File(
        place=row.place,
        language=string(_first(value, _LANGUAGE)),
        path=string(_first(value, _PATH)),
        repository=string(_first(value, _REPOSITORY)),
        licences=list(found) if isinstance(found, list | tuple) else [found] if found else [],
        blob=string(_first(value, _BLOB)),
        date=string(value.get("visit_date")),
    )
    if not file.language and "." in file.path:
        file.language = _BY_ENDING.get(os.path.splitext(file.path)[1].lower(), "")
    rejected = file.before_reading(settings, bool(value.get("is_vendor")), bool(value.get("is_generated")))
    if rejected:
        return rejected
    content = _first(value, _CONTENT)
    if content is None and not file.blob:
        return file.rejected("text_missing")
    if content is None:
        content = _blob(file, settings.contents, string(value.get("src_encoding")), path, max_bytes)
    if not isinstance(content, str):
        return content if isinstance(content, Rejected) else file.rejected("text_not_string")
    return file.judge(content, settings, max_bytes)


def read_folder(folder: str, settings: Code, max_bytes: int) -> Iterator[Record | Rejected]:
    """Yield the files below a folder, in order of name; those of no known or no wanted language are left out without a count.

    A file's licence is its own SPDX line, else what the configuration says of the whole source.

    Yields:
      Rejected: as `read_code`, and text_not_utf8.

    Raises:
      OSError: the folder can't be read.
    """
    wanted = {name.lower() for name in settings.languages}
    for name in walk(folder):
        language = _BY_ENDING.get(os.path.splitext(name)[1].lower(), "")
        if not language or (wanted and language.lower() not in wanted):
            continue
        full = Path(folder) / name
        file = _File(place=name, language=language, path=name, repository=Path(folder).name)
        if settings.drop_vendored and _VENDORED.search(name):
            yield file.rejected("code_vendored")
            continue
        if full.stat().st_size > max_bytes:
            yield file.rejected("too_large", bytes=full.stat().st_size)
            continue
        try:
            text = full.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            yield file.rejected("text_not_utf8", detail=str(error)[:200])
            continue
        stated = _SPDX.search(text[:5000])
        file.licences = re.split(r"\s+(?:AND|OR|WITH)\s+", stated[1]) if stated else []
        # Without an SPDX line the licence is the collection's (Extraction.licence), which whoever gives the folder answers for.
        rejected = file.before_reading(settings, False, False) if stated else None
        yield rejected or file.judge(text, settings, max_bytes)


def walk(folder: str) -> Iterator[str]:
    """Paths of the files below a folder, relative to it, sorted; no links, nothing of version control."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS and not os.path.islink(os.path.join(root, name))]
        for name in names:
            full = os.path.join(root, name)
            if os.path.isfile(full) and not os.path.islink(full):
                found.append(os.path.relpath(full, folder))
    yield from sorted(found)


class _File:
    """One source file: what is known of it, and the rules."""

    def __init__(
        self, place: str, language: str, path: str, repository: str, licences: Iterable[Any] = (), blob: str = "", date: str = ""
    ):
        self.place, self.language, self.path, self.repository = place, language, path, repository
        self.licences, self.blob, self.date = [string(licence) for licence in licences], blob, date

    def rejected(self, reason: str, **fields: Any) -> Rejected:
        return Rejected(reason, self.place, {"path": self.path, "repository": self.repository, **fields})

    def before_reading(self, settings: Code, vendored: bool, generated: bool) -> Rejected | None:
        """What the record alone says against the file."""
        wanted = {name.lower() for name in settings.languages}
        if wanted and self.language.lower() not in wanted:
            return self.rejected("code_language", language=self.language)
        if settings.drop_vendored and (vendored or _VENDORED.search(self.path)):
            return self.rejected("code_vendored")
        if settings.drop_generated and generated:
            return self.rejected("code_generated")
        allowed = {name.lower() for name in settings.licences}
        if not self.licences:
            return None if settings.unknown_licence or not allowed else self.rejected("code_licence_unknown")
        foreign = [name for name in self.licences if allowed and name.lower() not in allowed]
        return self.rejected("code_licence", licences=foreign) if foreign else None

    def judge(self, content: str, settings: Code, max_bytes: int) -> Record | Rejected:
        """The rules on the content."""
        text = strip_controls(content.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n"))
        shown = text[:500]
        if len(text.encode("utf-8")) > max_bytes:
            return self.rejected("too_large", characters=len(text))
        longest = max((len(line) for line in text.split("\n")), default=0)
        if settings.max_line_length is not None and longest > settings.max_line_length:
            return self.rejected("code_line_length", longest=longest, excerpt=shown)
        language = self.language.lower()
        meta: dict[str, Any] = {}
        if settings.check_syntax:
            wrong = syntax.problem(language, text)
            if wrong:
                return self.rejected("code_syntax", detail=wrong, excerpt=shown)
            meta["syntax"] = "parsed" if language in syntax.CHECKS else "unchecked"
        if settings.min_pylint_score is not None and language == "python" and text.strip():
            score = syntax.pylint_score(text)
            if score is None or score < settings.min_pylint_score:
                return self.rejected("code_pylint", score=score, excerpt=shown)
            meta["pylint"] = round(score, 2)
        meta |= {"language": self.language, "path": self.path, "package": self.repository, "blob": self.blob}
        url = (
            f"https://github.com/{self.repository}/blob/HEAD/{self.path}" if self.blob and self.repository.count("/") == 1 else ""
        )
        licence = " AND ".join(sorted(set(self.licences)))
        kept = {name: item for name, item in meta.items() if item != ""}
        return Record(text, self.place, url=url, date=self.date, licence=licence, lang="code", meta=kept, verbatim=True)


def contents_digest(folder: str) -> str:
    """Hex SHA-256 of the names in a folder of blobs: what stands under a name is checked against it when it is read.

    Raises:
      UsageError: there is no such folder.
    """
    if not os.path.isdir(folder):
        raise UsageError(
            f"corpus.Code.contents = {folder!r}: there is no such folder; name the one that the blobs were downloaded to."
        )
    digest = hashlib.sha256()
    for name in walk(folder):
        digest.update(name.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _blob(file: _File, contents: str, encoding: str, path: str, max_bytes: int) -> str | Rejected:
    """The content of a blob, from the folder of downloaded contents.

    Its id is its SHA-1 or Git's (which begins with the length); other content under the name is damage.
    """
    if not contents:
        raise JaLlmError(
            f"{path}: these records name blobs and hold no content; download the contents and name their folder: "
            "--gin_bindings \"corpus.Code.contents = 'DIR'\"."
        )
    if not re.fullmatch(r"[0-9a-f]{40}", file.blob):
        return file.rejected("blob_missing", blob=file.blob[:100])
    names = [f"{folder}{file.blob}{ending}" for folder in ("", f"{file.blob[:2]}/") for ending in ("", ".gz")]
    found = next((full for name in names if (full := Path(contents) / name).is_file()), None)
    if found is None:
        return file.rejected("blob_missing", blob=file.blob)
    try:
        if found.suffix == ".gz":
            with gzip.open(found) as packed:
                data = packed.read(max_bytes + 1)
                rest = packed.read(1) if len(data) > max_bytes else b""
        else:
            with open(found, "rb") as plain:
                data, rest = plain.read(max_bytes + 1), b""
    except (OSError, EOFError, zlib.error) as error:
        return file.rejected("blob_damaged", blob=file.blob, detail=str(error)[:200])
    if len(data) > max_bytes or rest:
        return file.rejected("too_large", blob=file.blob)
    if file.blob not in (_sha1(data), _sha1(b"blob %d\0" % len(data) + data)):
        return file.rejected("blob_damaged", blob=file.blob, detail="its content does not fit its id")
    try:
        return data.decode(encoding or "utf-8")
    except (UnicodeDecodeError, LookupError) as error:
        return file.rejected("text_not_utf8", blob=file.blob, detail=str(error)[:200])


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
