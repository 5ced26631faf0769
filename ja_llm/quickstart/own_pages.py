"""A user's own pages for the walk: WARC files as they are, or a folder of HTML files made into one."""

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from ja_llm.errors import UsageError
from ja_llm.fetch.warc_writer import WarcWriter, iso_date
from ja_llm.files import os_error_sentence

_WARC = (".warc", ".warc.gz")
_HTML = (".html", ".htm", ".xhtml")
HOST = "pages.example"  # RFC 2606: no site of this name exists


def own_pages(pages: Path, warc: Path) -> tuple[tuple[str, ...], Callable[[], object]]:
    """What a walk on a user's pages reads.

    Args:
      pages: a WARC file, or a folder with WARC or HTML files in it, at any depth.
      warc: where HTML files are to be wrapped into.

    Returns:
      The WARC files, and a call that writes `warc` (and does nothing where the user's are WARC files already).

    Raises:
      UsageError: there is no such file or folder, or nothing of these kinds in it.
    """
    if pages.is_file() and pages.name.endswith(_WARC):
        return (str(pages),), lambda: None
    found = sorted(p for p in pages.rglob("*") if p.is_file()) if pages.is_dir() else []
    if archives := [str(p) for p in found if p.name.endswith(_WARC)]:
        return tuple(archives), lambda: None
    if documents := [p for p in found if p.name.lower().endswith(_HTML)]:
        return (str(warc),), lambda: _wrap(pages, documents, warc)
    what = "there is neither a WARC nor an HTML file in it" if pages.is_dir() else "it is no WARC file and no folder"
    raise UsageError(
        f"--pages {pages}: {what if pages.exists() else 'it does not exist'}; give a .warc.gz file, or a folder of .html files."
    )


def _wrap(root: Path, documents: list[Path], warc: Path) -> None:
    """One response a file: its bytes as they are, its time of last change, and its path as the address."""
    with WarcWriter(warc, description="a folder of HTML files", date="2024-01-01T00:00:00Z") as writer:
        for path in documents:
            try:
                body, changed = path.read_bytes(), os.path.getmtime(path)
            except OSError as error:
                raise os_error_sentence(error, path, reading=True) from error
            address = f"https://{HOST}/{quote(path.relative_to(root).as_posix())}"
            # No charset is declared: the page's own <meta> or its bytes tell it.
            writer.response(address, body, "text/html", iso_date(changed))
