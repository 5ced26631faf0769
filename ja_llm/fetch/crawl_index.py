"""Which records of a Common Crawl are in a language: by the CDX server (for some sites) or the columnar index (for all).

Both state the languages of a page's text as CLD2 finds them, most first ("jpn,eng"; since August 2018). CDX server: pywb's API,
https://index.commoncrawl.org/CRAWL-index with url, filter, page, showNumPages; JSON lines. Columnar index: Parquet files listed
in crawl-data/CRAWL/cc-index-table.paths.gz, of which only the columns that are needed are fetched, by byte range.
"""

import dataclasses
import gzip
import json
import urllib.parse
import zlib
from collections.abc import Iterator
from typing import Any

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.fetch.download import Gone
from ja_llm.fetch.ranges import Client, RangeFile

_FIELDS = "url,timestamp,status,mime-detected,languages,digest,filename,offset,length"
_CHOOSING = ["content_languages", "fetch_status", "content_mime_detected"]
_NAMING = ["url", "content_digest", "warc_filename", "warc_record_offset", "warc_record_length"]
_PAGES = ("text/html", "application/xhtml+xml", "text/plain", "unk", "")


@dataclasses.dataclass(frozen=True, order=True)
class Entry:
    """One record: the WARC file, the bytes in it, and what the index says of it."""

    filename: str
    offset: int
    length: int
    url: str
    digest: str = ""
    languages: str = ""


def fits(languages: str, status: Any, mime: str, language: str) -> bool:
    """Whether a record is a page whose main language is the wanted one."""
    return languages.split(",")[0] == language and str(status) == "200" and mime in _PAGES


def cdx_pages(client: Client, base: str, crawl: str, pattern: str, language: str) -> int:
    """Number of pages of a query's answer; 0 if there is no capture.

    Raises:
      UsageError: there is no such crawl.
      JaLlmError: the server fails.
    """
    try:
        answer = client.get(f"{_query(base, crawl, pattern, language)}&showNumPages=true")
    except Gone:
        _check_crawl(client, base, crawl)
        return 0
    try:
        value = json.loads(answer)
        return int(value["pages"] if isinstance(value, dict) else value)
    except (ValueError, KeyError, TypeError):
        raise JaLlmError(f"{base}: the index server's answer is no number of pages ({answer[:80]!r}); try again later.") from None


def cdx_entries(client: Client, base: str, crawl: str, pattern: str, language: str, page: int) -> Iterator[Entry]:
    """Yield the records of one page of a query's answer.

    Raises:
      JaLlmError: the server fails, or its answer can't be read.
    """
    url = f"{_query(base, crawl, pattern, language)}&page={page}"
    try:
        answer = client.get(url)
    except Gone:  # nothing on this page passes the filters
        return
    for line in answer.decode("utf-8", "replace").splitlines():
        try:
            value = json.loads(line)
            entry = Entry(
                value["filename"], int(value["offset"]), int(value["length"]), value["url"], value.get("digest", ""), value.get("languages", "")
            )  # fmt: skip
        except (ValueError, KeyError, TypeError):
            raise JaLlmError(f"{url}: the index server's answer can't be read ({line[:80]!r}); try again later.") from None
        if fits(entry.languages, value.get("status"), value.get("mime-detected", ""), language):
            yield entry


def _query(base: str, crawl: str, pattern: str, language: str) -> str:
    # pywb: "=" compares the whole field, "~" is a regular expression from its beginning.
    values = [
        ("url", pattern),
        ("output", "json"),
        ("fl", _FIELDS),
        ("filter", "=status:200"),
        ("filter", f"~languages:{language}.*"),
    ]
    return f"{base}/{urllib.parse.quote(crawl)}-index?{urllib.parse.urlencode(values)}"


def _check_crawl(client: Client, base: str, crawl: str) -> None:
    """Refuse a crawl that the server does not list; without a list it is believed."""
    try:
        known = [entry["id"] for entry in json.loads(client.get(f"{base}/collinfo.json"))]
    except (JaLlmError, ValueError, KeyError, TypeError):
        return
    if crawl not in known:
        raise UsageError(f"--crawl {crawl}: there is no such crawl; the newest are {', '.join(known[:3])}.")


def table_parts(client: Client, base: str, crawl: str) -> list[str]:
    """Paths of the columnar index's files of a crawl's successful fetches.

    Raises:
      UsageError: there is no such crawl.
      JaLlmError: the list can't be had or read.
    """
    url = f"{base}/crawl-data/{urllib.parse.quote(crawl)}/cc-index-table.paths.gz"
    try:
        paths = gzip.decompress(client.get(url)).decode().split()
    except Gone:
        raise UsageError(
            f"--crawl {crawl}: {base} has no columnar index of such a crawl; names are like CC-MAIN-2024-10."
        ) from None
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise JaLlmError(f"{url}: this list can't be unpacked ({error}); try again later.") from error
    return [path for path in paths if "subset=warc/" in path and path.endswith(".parquet")]


def table_entries(client: Client, base: str, path: str, language: str) -> Iterator[Entry]:
    """Yield the records of one file of the columnar index.

    Of each row group the columns that choose are fetched first, and those that name the records only where one is chosen.

    Raises:
      UsageError: pyarrow is absent.
      JaLlmError: the file can't be had or read.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UsageError(
            "--index columnar needs pyarrow, which is not installed; pip install 'ja_llm[beam]', or use --index cdx."
        ) from None
    url = f"{base}/{path}"
    try:
        file = pq.ParquetFile(pa.PythonFile(RangeFile(client, url), mode="r"), pre_buffer=True)
        for group in range(file.num_row_groups):
            chosen = file.read_row_group(group, columns=_CHOOSING)
            rows = [
                i
                for i, (languages, status, mime) in enumerate(zip(*(chosen[name].to_pylist() for name in _CHOOSING), strict=True))
                if fits(languages or "", status, mime or "", language)
            ]
            if not rows:
                continue
            named = file.read_row_group(group, columns=_NAMING).take(rows).to_pylist()
            spoken = chosen["content_languages"].take(rows).to_pylist()
            for value, languages in zip(named, spoken, strict=True):
                yield Entry(
                    value["warc_filename"],
                    int(value["warc_record_offset"]),
                    int(value["warc_record_length"]),
                    value["url"],
                    value["content_digest"] or "",
                    languages,
                )
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise JaLlmError(f"{url}: this part of the index can't be read ({str(error)[:200]}); try again later.") from error
