"""`ja-llm fetch wikipedia`: the article dump of a wiki as XML or CirrusSearch files, checked and gone on with.

XML: https://dumps.wikimedia.org/WIKI/DATE/dumpstatus.json says of each job whether it is done, and of each file its size, SHA-1 and
address. CirrusSearch: other/cirrus_search_index/DATE/index_name=WIKI_content/ (since 2025), before that
other/cirrussearch/DATE/WIKI-DATE-cirrussearch-content.json.gz; nobody states their checksums, gzip and bzip2 have their own.

OUT/FILE...          the dump's files
OUT/manifest.json    the ledger (schema ja_llm.fetch/1), written last
"""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ja_llm import manifest
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.fetch.download import Gone, check_url, download, download_unsized, get, verify
from ja_llm.fetch.ledger import SCHEMA, finished_totals
from ja_llm.files import lock_file, os_error_sentence, read_json, write_json
from ja_llm.progress import Progress

BASE = "https://dumps.wikimedia.org"
LICENCE = "CC-BY-SA-4.0"
_JOBS = ("articlesmultistreamdump", "articlesdump")
_TRIED = 6  # newest dumps that are looked at for one that is done
_BY = "dump's status file"


def fetch_wikipedia(
    out: str | Path,
    wiki: str = "jawiki",
    *,
    date: str = "latest",
    form: str = "xml",
    base: str = BASE,
    limit_files: int = 0,
    pause: float = 0.5,
) -> dict[str, Any]:
    """Fetch one dump into `out`; a broken run goes on with the same dump, within the file that it was at.

    Args:
      out: folder to write.
      wiki: name of the wiki in the dumps, e.g. "jawiki".
      date: "latest" (the newest that is done) or YYYYMMDD.
      form: "xml" or "cirrus".
      base: root of the dump server or a mirror with its layout, https.
      limit_files: only the first so many files; 0 for all.
      pause: seconds before a retry.

    Returns:
      Summary: wiki, date, files, bytes.

    Raises:
      UsageError: no such wiki, date or form, or `out` holds another fetch.
      JaLlmError: the server can't be reached or keeps failing, no dump is done, a file is wrong twice, or the disk is full.
    """
    if form not in ("xml", "cirrus"):
        raise UsageError(f"--format {form}: it is xml or cirrus.")
    if not re.fullmatch(r"[a-z_]+", wiki) or not re.fullmatch(r"latest|\d{8}", date):
        raise UsageError(f"--wiki {wiki} --date {date}: give a name like jawiki, and latest or a date like 20240101.")
    base, out = check_url(base, BASE), Path(out)
    taken = JaLlmError(f"{out}: another fetch is writing to this folder; wait for it or choose another --out.")
    with lock_file(out / ".state" / "lock", taken):
        try:
            state = _claim(out, wiki, date, form, limit_files)
            finished = finished_totals(out)
            if finished is not None:
                return finished
            if "files" not in state:
                found = _xml_files if form == "xml" else _cirrus_files
                state["dump"], state["files"] = found(base, wiki, date, pause)
                state["files"] = state["files"][: limit_files or None]
                write_json(out / ".state" / "fetch.json", state)  # from here on it is this dump, though a newer one may come
            return _fetch(out, state, pause)
        except OSError as error:
            raise os_error_sentence(error, error.filename or out) from error


def _claim(out: Path, wiki: str, date: str, form: str, limit: int) -> dict[str, Any]:
    path, value = out / ".state" / "fetch.json", {"wiki": wiki, "date": date, "format": form, "limit_files": limit}
    if not path.exists():
        write_json(path, value)
        return value
    before = read_json(path, "state of a fetch")
    for name, wanted in value.items():
        if before.get(name) != wanted:
            raise UsageError(
                f"{out}: this folder was fetched with --{name} {before.get(name)}; use the same or choose another --out."
            )
    return before


def _dates(base: str, folder: str, pause: float) -> list[str]:
    """Dates of the dumps that a folder's page lists, newest first."""
    page = get(f"{base}/{folder}/", pause=pause).decode("utf-8", "replace")
    return sorted(set(re.findall(r'href="(?:[^"]*/)?(\d{8})/?"', page)), reverse=True)


def _xml_files(base: str, wiki: str, date: str, pause: float) -> tuple[str, list[dict[str, Any]]]:
    """(date, files) of the newest dump whose articles are done, or of the one asked for."""
    try:
        dates = [date] if date != "latest" else _dates(base, wiki, pause)[:_TRIED]
    except Gone:
        raise UsageError(f"--wiki {wiki}: {base} has no such wiki; names are like jawiki or enwiki.") from None
    states = []
    for day in dates:
        url = f"{base}/{wiki}/{day}/dumpstatus.json"
        try:
            jobs = json.loads(get(url, pause=pause))["jobs"]
        except Gone:
            states.append(f"{day}: no status file")
            continue
        except (ValueError, KeyError, TypeError):
            raise JaLlmError(f"{url}: this status file can't be read; try again later.") from None
        for job in _JOBS:
            files = _stated_files(base, jobs.get(job, {}))
            if files:
                return day, files
        states.append(f"{day}: {jobs.get(_JOBS[0], {}).get('status', 'no such job')}")
    told = "; ".join(states) or "none is listed"
    raise JaLlmError(f"{base}/{wiki}: no article dump is done ({told}); try again later, or name another --date.")


def _stated_files(base: str, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Name, address, size and checksum of a finished job's XML files."""
    if job.get("status") != "done":
        return []
    files = []
    for name, entry in sorted(job.get("files", {}).items()):
        algorithm = "sha1" if entry.get("sha1") else "md5"
        if re.search(r"\.xml(?:-p\d+p\d+)?\.bz2$", name) and entry.get(algorithm) and "size" in entry:
            stated = {"algorithm": algorithm, "checksum": entry[algorithm], "bytes": int(entry["size"])}
            files.append({"name": name, "url": f"{base}{entry['url']}", **stated})
    return files


def _cirrus_files(base: str, wiki: str, date: str, pause: float) -> tuple[str, list[dict[str, Any]]]:
    pattern = re.compile(rf'href="(?:[^"]*/)?({wiki}(?:_content-\d+-\d+\.json\.bz2|-\d+-cirrussearch-content\.json\.gz))"')
    for day, folder in _cirrus_folders(base, wiki, date, pause):
        try:
            page = html.unescape(get(f"{base}/{folder}/", pause=pause).decode("utf-8", "replace"))
        except Gone:
            continue
        names = sorted(set(pattern.findall(page)))
        if names:
            return day, [{"name": name, "url": f"{base}/{folder}/{name}"} for name in names]
    raise UsageError(f"--wiki {wiki} --date {date}: {base} has no CirrusSearch dump of it; try --format xml, or another --date.")


def _cirrus_folders(base: str, wiki: str, date: str, pause: float) -> Iterator[tuple[str, str]]:
    for root, below in (("other/cirrus_search_index", f"/index_name={wiki}_content"), ("other/cirrussearch", "")):
        try:
            dates = [date] if date != "latest" else _dates(base, root, pause)[:_TRIED]
        except Gone:
            continue
        for day in dates:
            yield day, f"{root}/{day}{below}"


def _fetch(out: Path, state: dict[str, Any], pause: float) -> dict[str, Any]:
    entries = []
    with Progress("fetch wikipedia", len(state["files"]), "file") as progress:
        for file in state["files"]:
            target = out / file["name"]
            stated = file.get("checksum", "")
            there = target.exists() and (not stated or not verify(target, file["bytes"], stated, file["algorithm"]))
            try:
                if stated and not there:
                    download(file["url"], target, file["bytes"], stated, pause=pause, algorithm=file["algorithm"], by=_BY)
                elif not there:
                    download_unsized(file["url"], target, pause=pause)
            except Gone:
                raise JaLlmError(
                    f"{file['url']}: the dump of {state['dump']} is gone from the server (it keeps some months); delete {out} and start anew."
                ) from None
            entries.append(manifest.file_entry(target, out))
            progress.update(1, file["name"])
    totals = {"wiki": state["wiki"], "date": state["dump"], "files": len(entries), "bytes": sum(e["bytes"] for e in entries)}
    manifest.write(
        out,
        schema=SCHEMA,
        job="fetch wikipedia",
        config={name: state[name] for name in ("wiki", "dump", "format", "limit_files")} | {"licence": LICENCE},
        inputs=[
            {"name": f["url"], "bytes": f.get("bytes", 0), "sha256": "", "stated": f.get("checksum", "")} for f in state["files"]
        ],
        shards=entries,
        totals=totals,
    )
    return totals


def format_summary(totals: dict[str, Any]) -> str:
    """What was fetched, for the terminal."""
    return f"{totals['wiki']} of {totals['date']}: {totals['files']} files, {totals['bytes'] / 1e6:,.1f} MB, {LICENCE}"
