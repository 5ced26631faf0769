"""The pages of a quickstart: the embedded ones, or a user's WARC files as they are, or a folder of HTML files made into one."""

import dataclasses
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from ja_llm.errors import UsageError
from ja_llm.fetch.warc_writer import WarcWriter, iso_date
from ja_llm.files import os_error_sentence, sha256_file
from ja_llm.quickstart.pages import encode, load_pages, write_warc

_WARC = (".warc", ".warc.gz")
_HTML = (".html", ".htm", ".xhtml")
WALK = "walk.json"  # marks the folder of a walk
HOST = "pages.example"  # RFC 2606: no site of this name exists


@dataclasses.dataclass(frozen=True)
class Pages:
    """What a walk reads.

    Attributes:
      inputs: WARC files.
      digest: of the pages' content; another one is another walk.
      write: makes the WARC file, where the pages are not in one already.
    """

    inputs: tuple[str, ...]
    digest: str
    write: Callable[[], object]


def embedded_pages(warc: Path) -> Pages:
    """The pages that come with the package, to be wrapped into `warc`."""
    content = b"".join(page.url.encode() + b"\0" + encode(page) for page in load_pages())
    return Pages((str(warc),), hashlib.sha256(content).hexdigest(), lambda: write_warc(warc))


def own_pages(pages: Path, warc: Path) -> Pages:
    """A user's pages.

    Args:
      pages: a WARC file, or a folder with WARC or HTML files in it, at any depth; folders of earlier walks are passed over.
      warc: where HTML files are to be wrapped into.

    Raises:
      UsageError: there is no such file or folder, or nothing of these kinds in it.
      JaLlmError: a file can't be read.
    """
    if pages.is_file() and pages.name.endswith(_WARC):
        return Pages((str(pages),), sha256_file(pages), lambda: None)
    found = _files(pages) if pages.is_dir() else []
    archives = [p for p in found if p.name.endswith(_WARC)]
    documents = [p for p in found if p.name.lower().endswith(_HTML)]
    if archives:
        if documents:
            print(f"reading {len(archives)} WARC files; {len(documents)} HTML files beside them are left out", file=sys.stderr)
        digest = hashlib.sha256("".join(sha256_file(p) for p in archives).encode()).hexdigest()
        return Pages(tuple(map(str, archives)), digest, lambda: None)
    if documents:
        hashed = hashlib.sha256()
        for path in documents:
            hashed.update(os.fsencode(path.relative_to(pages)) + b"\0" + sha256_file(path).encode())
        return Pages((str(warc),), hashed.hexdigest(), lambda: _wrap(pages, documents, warc))
    what = "there is neither a WARC nor an HTML file in it" if pages.is_dir() else "it is no WARC file and no folder"
    raise UsageError(
        f"--pages {pages}: {what if pages.exists() else 'it does not exist'}; give a .warc.gz file, or a folder of .html files."
    )


def _files(folder: Path) -> list[Path]:
    """Files at any depth in order of their paths, without those of walks."""
    found: list[Path] = []
    for top, below, names in os.walk(folder):
        if WALK in names:
            below.clear()
            continue
        found += [Path(top, name) for name in names]
    return sorted(found)


def _wrap(root: Path, documents: list[Path], warc: Path) -> None:
    """One response a file: its bytes as they are, its time of last change, and its path as the address."""
    with WarcWriter(warc, description="a folder of HTML files", date="2024-01-01T00:00:00Z") as writer:
        for path in documents:
            try:
                body, changed = path.read_bytes(), os.path.getmtime(path)
            except OSError as error:
                raise os_error_sentence(error, path, reading=True) from error
            address = f"https://{HOST}/{quote(os.fsencode(path.relative_to(root)))}"
            # No charset is declared: the page's own <meta> or its bytes tell it.
            writer.response(address, body, "text/html", iso_date(changed))
