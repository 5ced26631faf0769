"""How many records an input holds, from the beginning of some of its files: for the plan, before anything is run.

Files of one format are looked into together: records and bytes of the beginnings of up to eight of them, by which all their bytes are
divided. Parquet files say how many rows they have, folders of source code are counted. What is not here (a bucket) or can't be read counts
by a usual size; the run itself says what is wrong with it.
"""

import dataclasses
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from beam_pipelines import mirror
from beam_pipelines.inputs.code import walk
from beam_pipelines.inputs.compression import Broken, blocks
from beam_pipelines.inputs.table import format_of
from beam_pipelines.settings.inputs import Inputs

# Bytes of compressed WARC a page: 394,192 pages of 10 WARC files of CC-MAIN-2023-23 have 12.05 GB (Swallow v1, NLP2024).
WARC_BYTES_PER_PAGE = 12.05e9 / 394_192
RECORD_BYTES = 4_000  # of a record of text that can't be looked at: 1,450 characters of UTF-8
_FILES = 8  # looked into
_HEAD = 1 << 20  # bytes of a file that are looked into
_MOST = 1 << 26  # and what they may become decompressed
Found = tuple[float, int]  # records, bytes of the file that they take


@dataclasses.dataclass(frozen=True)
class Estimate:
    """An estimate of the input's size.

    Attributes:
      records: that the first stage will be given.
      how: that is known, in words.
      crawl: whether all of it is of web archives, which published shares are of.
      html: whether some of it is HTML that has to be extracted.
    """

    records: float
    how: str
    crawl: bool = True
    html: bool = True


def estimate(files: Sequence[Path], inputs: Inputs, probe: int = 100) -> Estimate:
    """How many records there are.

    Args:
      files: of the input.
      inputs: how they are read.
      probe: records of a WARC file to look at.

    Raises:
      UsageError: a file is of a format that is not read.
    """
    if not files:
        return Estimate(0.0, "there is no file")
    groups: dict[tuple[str, str], list[Path]] = {}
    for file in files:
        groups.setdefault(format_of(str(file), inputs), []).append(file)
    records, told = 0.0, []
    for (form, kind), group in sorted(groups.items()):
        number, how = _group(form, kind, group, inputs, probe)
        if kind == "parallel":
            number *= len(inputs.parallel.directions)  # a pair is a document a direction
        records += number
        told.append(how)
    html = any(form == "warc" and any(".wet" not in file.name for file in group) for (form, _), group in groups.items())
    return Estimate(records, "; ".join(told), all(form == "warc" for form, _ in groups), html)


def _group(form: str, kind: str, files: Sequence[Path], inputs: Inputs, probe: int) -> tuple[float, str]:
    """(records, how that is known) of files of one format and kind."""
    if form == "folder":
        return float(sum(1 for folder in files for _ in walk(str(folder)))), "the files of the folders, counted"
    total = sum(mirror.size(file) for file in files)
    looks: Mapping[str, Callable[[Path], Found]] = {"warc": lambda file: _warc(file, probe), "parquet": _parquet}
    look = looks.get(form) or (lambda file: _text(file, form, kind))
    name = "responses" if form == "warc" else "pairs" if kind == "parallel" else "records"
    here = [file for file in files if not mirror.url_of(file)]
    read, passed = 0.0, 0
    for file in here[:: max(1, len(here) // _FILES)][:_FILES]:
        try:
            found, where = look(file)
        except Exception:  # whatever a library raises for a broken file: an estimate does without it
            continue
        read, passed = read + found, passed + where
    if read and passed:
        return total / (passed / read), f"from the first {read:,.0f} {name} of the input ({passed / read / 1e3:,.1f} kB each)"
    if form == "warc":
        return total / WARC_BYTES_PER_PAGE, "at 30.6 kB a page, as in Common Crawl"
    return total / RECORD_BYTES, f"at {RECORD_BYTES / 1e3:.1f} kB a record, which could not be looked at"


def _warc(file: Path, probe: int) -> Found:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    seen, wanted = 0, WarcRecordType.response | WarcRecordType.conversion
    with open(file, "rb") as stream:
        for record in ArchiveIterator(stream, record_types=wanted, parse_http=False):
            if seen == probe:
                return seen, record.stream_pos
            seen += 1
    return seen, file.stat().st_size


def _parquet(file: Path) -> Found:
    from pyarrow import parquet

    return parquet.ParquetFile(file).metadata.num_rows, file.stat().st_size


def _text(file: Path, form: str, kind: str) -> Found:
    """Records of the beginning of a file of lines or of XML; (0, 0) where a record is longer than what is looked at."""
    size = file.stat().st_size
    with open(file, "rb") as source, tempfile.NamedTemporaryFile() as beginning:
        beginning.write(source.read(_HEAD))
        beginning.flush()
        text = bytearray()
        try:
            for block in blocks(beginning.name):
                text += block
                if len(text) > _MOST:
                    return 0, 0
        except Broken:  # the beginning of a compressed file ends within a member
            pass
    if form in ("xml", "tmx"):
        return len(re.findall(rb"<page>|<tu[\s>]", text)), min(size, _HEAD)
    if size > _HEAD:
        del text[text.rfind(b"\n") + 1 :]  # a line that is cut
    lines = [line for line in text.split(b"\n") if line.strip()]
    if kind == "wikipedia":
        lines = [line for line in lines if not line.startswith(b'{"index"')]  # the bulk format's own lines
    return len(lines), min(size, _HEAD)
