"""What a finished fetch says of itself, and what is done about files that no longer fit it."""

from pathlib import Path
from typing import Any

from ja_llm import manifest
from ja_llm.errors import JaLlmError
from ja_llm.fetch.download import warn
from ja_llm.files import read_json, sha256_file

SCHEMA = "ja_llm.fetch/1"


def finished_totals(out: Path) -> dict[str, Any] | None:
    """The totals of a finished and unchanged fetch, else None; files that differ from the ledger are removed, to be fetched again."""
    if not (out / manifest.NAME).exists():
        return None
    try:
        return manifest.read(out, SCHEMA, verify=True)["totals"]
    except JaLlmError as error:
        warn(f"{error} What is wrong is fetched again.")
    try:
        shards = [(out / entry["name"], entry["sha256"]) for entry in read_json(out / manifest.NAME)["shards"]]
    except (JaLlmError, KeyError, TypeError):
        shards = []
    for path, checksum in shards:
        if path.is_file() and sha256_file(path) != checksum:
            path.unlink()
    (out / manifest.NAME).unlink()
    return None
