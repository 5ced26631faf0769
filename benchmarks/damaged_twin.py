"""The damaged twin of a WARC collection: its pages again, in other charsets, cut off, in broken gzip members, and as near-duplicates.

    python -m benchmarks.damaged_twin --warc 'build/real/debian-docs/warc/*.warc.gz' --out build/real/twin

Every record has a label: which page it was made from, what was done to it, and what its main text says (`page_truth.py`), written to
OUT/truth.jsonl.gz. The same input, seed and size give the same bytes. The kinds:

- charsets: the page's bytes in Shift_JIS, EUC-JP, ISO-2022-JP or UTF-16, claimed in the HTTP header, in the page, nowhere, or wrongly; some
  bad bytes; mojibake, which is text that was read in a charset that it is not in and saved so (nobody can read it). Character references
  are written out before, as mandoc makes manual pages of them alone: such a page is ASCII in every charset and nothing can go wrong with it;
- cut: the body ends before its Content-Length, its gzip coding or its chunked coding does, or the page ends in the middle and nothing says so;
- members: the record's gzip member has other bytes in its middle, lacks its end, is zeros, or random bytes stand before it; the end
  of a file is missing;
- near: copies of Japanese and English pages with characters exchanged here and there, or one stretch replaced by another page's text, so
  that their Jaccard similarity (character 5-grams of the main text) is near a level; with other page heads and feet; under other addresses.
"""

import argparse
import dataclasses
import functools
import glob
import gzip
import html
import json
import random
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from beam_pipelines import http
from benchmarks import page_truth
from benchmarks.page_truth import Page
from ja_llm.fetch.warc_writer import WarcWriter
from ja_llm.files import atomic_write, read_json, sha256_json, write_json

VERSION = 3
ORIGINALS = "originals-2.jsonl.gz"  # with the labels' version: a cache of an earlier one lacks fields
PER_FILE = 150
PAGES = ("text/html", "application/xhtml+xml")
LEVELS = (0.2, 0.3, 0.4, 0.45, 0.55, 0.7, 0.8, 0.9, 0.96, 0.98)
# label -> charset of the bytes, of the HTTP header, of the page's own meta element
CHARSETS = {
    "shift_jis": ("cp932", "Shift_JIS", ""),
    "shift_jis, meta alone": ("cp932", "", "Shift_JIS"),
    "shift_jis, not said": ("cp932", "", ""),
    "shift_jis, said to be utf-8": ("cp932", "utf-8", "utf-8"),
    "euc_jp": ("euc_jp", "EUC-JP", ""),
    "euc_jp, meta alone": ("euc_jp", "", "EUC-JP"),
    "euc_jp, not said": ("euc_jp", "", ""),
    "euc_jp, said to be iso-8859-1": ("euc_jp", "ISO-8859-1", ""),
    "euc_jp, said to be shift_jis": ("euc_jp", "Shift_JIS", "Shift_JIS"),
    "iso_2022_jp": ("iso2022_jp", "ISO-2022-JP", ""),
    "iso_2022_jp, not said": ("iso2022_jp", "", ""),
    "iso_2022_jp, said to be utf-8": ("iso2022_jp", "utf-8", ""),
    "utf-16": ("utf-16", "", ""),
    "utf-8, not said": ("utf-8", "", ""),
    "utf-8, said to be shift_jis": ("utf-8", "Shift_JIS", "Shift_JIS"),
    "utf-8, said to be iso-8859-1": ("utf-8", "ISO-8859-1", ""),
}
BAD_BYTES = "utf-8 with bad bytes"
# label -> charset of the text, charset that it was read in: Japan's three in what pages are taken for
_WRITTEN = {"utf-8": "utf-8", "shift_jis": "cp932", "euc_jp": "euc_jp"}
_READ_AS = {**_WRITTEN, "iso-8859-1": "cp1252", "gb18030": "gb18030"}
MOJIBAKE = {
    f"mojibake, {written} read as {read}": (codec, wrong)
    for written, codec in _WRITTEN.items()
    for read, wrong in _READ_AS.items()
    if written != read
}
CUTS = ("body shorter than its length", "gzip coding cut", "chunked coding cut", "page cut, not said")
MEMBERS = ("member flipped", "member cut", "member zeroed", "garbage before", "sound neighbour", "end of file missing")
COPIES = ("other head and foot", "other address", "other host")
_REFERENCE = re.compile(r"&#(?:[0-9]{3,7}|[xX][0-9a-fA-F]{2,6});")
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_META = re.compile(r"""<meta\b[^>]{0,200}?charset[^>]{0,200}?>""", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Made:
    """One response to write, and its label."""

    of: Page
    label: str
    body: bytes
    text: str
    content_type: str = "text/html; charset=utf-8"
    url: str = ""
    date: str = ""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    lost: bool = False
    readable: bool = True


def make(warcs: Sequence[Path], originals: Sequence[Page], out: Path, seed: int = 1, each: int = 60) -> list[Page]:
    """Write the twin, unless it stands in `out` already, and return its labels.

    Args:
      warcs: files of the collection.
      originals: their pages (`label_originals`).
      out: folder to write: twin-<kind>-NNNNN.warc.gz, truth.jsonl.gz, and at last twin.json.
      seed: of everything that is chosen.
      each: pages of each kind.
    """
    wanted = {
        "version": VERSION,
        "seed": seed,
        "each": each,
        "of": sha256_json([(p.file, p.offset, len(p.text)) for p in originals]),
    }
    if (out / "twin.json").exists() and read_json(out / "twin.json") == wanted:
        return read_truth(out / "truth.jsonl.gz")
    out.mkdir(parents=True, exist_ok=True)
    for old in (out / "twin.json", *out.glob("twin-*.warc.gz")):
        old.unlink(missing_ok=True)
    rng = random.Random(seed)
    source = Source(warcs, originals, rng)
    pages: list[Page] = []
    for group, size, made in (
        ("charsets", PER_FILE, charsets(source, each, rng)),
        ("cut", PER_FILE, cuts(source, each, rng)),
        ("near", PER_FILE, near_duplicates(source, each, rng)),
        ("members", PER_FILE // 3, neighbours(source, each, rng)),
    ):
        for number, part in enumerate(_parts(made, size)):
            path = out / f"twin-{group}-{number:05d}.warc.gz"
            if group == "members":
                part[-1] = dataclasses.replace(part[-1], label=MEMBERS[5])
            with WarcWriter(path, f"damaged twin, {group}") as writer:
                written = {_write(writer, entry): entry for entry in part}
            pages += break_members(path, written, rng) if group == "members" else labelled(path, written)
    write_truth(out / "truth.jsonl.gz", pages)
    write_json(out / "twin.json", wanted)
    return pages


class Source:
    """The collection's HTML pages, each handed out once, in a seeded order."""

    def __init__(self, warcs: Sequence[Path], originals: Sequence[Page], rng: random.Random):
        self._paths = {path.name: path for path in warcs}
        usable = [page for page in originals if page.content in ("ja", "other") and page.declared in ("ja", "en")]
        usable = [page for page in usable if page.label == "text/html" and 300 <= len(page_truth.squeeze(page.text)) <= 60_000]
        self.pages = {content: [page for page in usable if page.content == content] for content in ("ja", "other")}
        for pages in self.pages.values():
            rng.shuffle(pages)
        self._next = dict.fromkeys(self.pages, 0)

    def take(self, count: int, contents: Sequence[str]) -> list[Page]:
        """`count` pages that were not handed out yet: three in four of the first kind of content, the others of the second, if any."""
        second = count // 4 if len(contents) > 1 else 0
        found = []
        for content, number in zip(contents, (count - second, second), strict=False):
            at = self._next[content]
            self._next[content] += number
            found += self.pages[content][at : at + number]
        return found

    def markup(self, page: Page) -> str:
        """The page as it was captured, which is in UTF-8."""
        from fastwarc.warc import ArchiveIterator

        with open(self._paths[page.file], "rb") as stream:
            stream.seek(page.offset)
            block = next(iter(ArchiveIterator(stream, parse_http=False))).reader.read()
        return http.parse_response(block).body.decode("utf-8")


def written_out(markup: str) -> str:
    """The page with the characters beyond ASCII themselves where numbers referred to them.

    Example:
      >>> written_out("&#26085;&#x672C; &#60; &amp;")
      '日本 &#60; &amp;'
    """

    def character(match: re.Match[str]) -> str:
        text = html.unescape(match[0])
        return text if len(text) == 1 and "\x9f" < text != "\ufffd" else match[0]

    return _REFERENCE.sub(character, markup)


def encoded(markup: str, charset: str) -> bytes:
    """The page in the charset, with numbers for what it lacks, and for what would come back as another character.

    Example:
      >>> encoded("約〜", "cp932"), "〜".encode("cp932").decode("cp932")  # U+301C comes back as U+FF5E
      (b'\\x96\\xf1&#12316;', '～')
    """

    def returns(character: str) -> bool:
        return character.encode(charset, "xmlcharrefreplace").decode(charset) in (character, f"&#{ord(character)};")

    lost = {ord(c): f"&#{ord(c)};" for c in set(markup) if not returns(c)}
    return markup.translate(lost).encode(charset, "xmlcharrefreplace")


def neighbours(source: Source, each: int, rng: random.Random) -> list[Made]:
    """Pages as they are, under an address of their own, to be damaged as gzip members beside each other."""
    chosen = [(label, page) for label in MEMBERS[:5] for page in source.take(each, ("ja", "other"))]
    rng.shuffle(chosen)
    made = ((label, page, source.markup(page).encode(), _other_host(page.url, "twin")) for label, page in chosen)
    return [Made(page, label, body, page.text, url=url) for label, page, body, url in made]


def charsets(source: Source, each: int, rng: random.Random) -> Iterator[Made]:
    """Japanese pages in other encodings and with other claims."""
    for label, (charset, header, meta) in CHARSETS.items():
        for page in source.take(each, ("ja",)):
            markup = _META.sub("", written_out(source.markup(page)))
            if meta:
                markup = re.sub(r"(<head[^>]*>)", rf'\1<meta charset="{meta}">', markup, count=1)
            markup = re.sub(r"^\s*<\?xml[^>]*\?>", "", markup)
            content_type = f"text/html; charset={header}" if header else "text/html"
            yield Made(page, label, encoded(markup, charset), page.text, content_type, _other_host(page.url, "charset"))
    for page in source.take(each, ("ja",)):
        bad = bytearray(written_out(source.markup(page)).encode())
        for _ in range(1 + len(bad) // 2000):
            bad[rng.randrange(len(bad) // 4, len(bad))] = rng.choice((0xFF, 0xC0, 0x80))
        yield Made(page, BAD_BYTES, bytes(bad), page.text, url=_other_host(page.url, "charset"))
    for label, (charset, read) in MOJIBAKE.items():
        for page in source.take(max(1, each // 4), ("ja",)):
            markup = written_out(source.markup(page)).encode(charset, "xmlcharrefreplace").decode(read, "replace")
            yield Made(page, label, markup.encode(), "", url=_other_host(page.url, "charset"), readable=False)


def cuts(source: Source, each: int, rng: random.Random) -> Iterator[Made]:
    """Pages whose end is missing. What is lost by its own header can't become a document; a page cut in silence stays as far as it goes."""
    for label in CUTS:
        for page in source.take(each, ("ja", "other")):
            markup, url, share = source.markup(page), _other_host(page.url, "cut"), rng.uniform(0.4, 0.9)
            body = markup.encode()
            if label == CUTS[3]:
                markup = markup[: int(len(markup) * share)]
                yield Made(page, label, markup.encode(), page_truth.main_text(markup), url=url)
                continue
            headers = {"Content-Length": str(len(body))}
            if label == CUTS[1]:
                body, headers = gzip.compress(body, mtime=0), {"Content-Encoding": "gzip"}
            if label == CUTS[2]:
                body, headers = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), {"Transfer-Encoding": "chunked"}
            body = body[: int(len(body) * share)]
            if label == CUTS[1]:
                headers["Content-Length"] = str(len(body))
            yield Made(page, label, body, "", url=url, headers=headers, lost=True)


def near_duplicates(source: Source, each: int, rng: random.Random) -> Iterator[Made]:
    """Copies with another text, by level and way of editing, and copies of the same text in another frame or under another address."""
    for style, edit in (("scattered edits", scattered), ("a stretch replaced", replaced)):
        for level in LEVELS:
            for page in source.take(each // 2, ("ja", "other")):
                donor = page_truth.squeeze(rng.choice(source.pages[page.content]).text)
                markup = edited(source.markup(page), functools.partial(edit, donor=donor, level=level, rng=rng))
                text, date = page_truth.main_text(markup), rng.choice(("2019-01-01T00:00:00Z", "2025-06-01T00:00:00Z"))
                yield Made(page, f"{style}, {level}", markup.encode(), text, url=_other_host(page.url, "mirror"), date=date)
    for label in COPIES:
        for page in source.take(each, ("ja", "other")):
            markup, url = source.markup(page), page.url
            if label == COPIES[0]:
                markup = _framed(markup, *_frame(rng))
            url = f"{url}?page=1&view=print" if label == COPIES[1] else _other_host(url, "copy")
            yield Made(page, label, markup.encode(), page.text, url=url, date="2025-06-01T00:00:00Z")


def edited(markup: str, edit: Callable[[str], str]) -> str:
    """The page with its main text's characters changed by `edit`, which gives as many characters back; white space stays."""
    import lxml.html

    tree, places = page_truth.text_places(markup)
    old = page_truth.squeeze("".join(getattr(element, part) for element, part in places))
    new = iter(edit(old))
    for element, part in places:
        text = "".join(c if c.isspace() else next(new) for c in getattr(element, part))
        setattr(element, part, _NOT_IN_XML.sub(" ", text))  # lxml reads control characters, but takes none
    return lxml.html.tostring(tree, encoding="unicode", doctype="<!DOCTYPE html>")


def replaced(text: str, donor: str, level: float, rng: random.Random) -> str:
    """One stretch is another page's text. Of n n-grams, changing m leaves a Jaccard similarity of (n - m) / (n + m)."""
    size = min(len(text), round(len(text) * (1 - level) / (1 + level)))
    at, donor = rng.randrange(len(text) - size + 1), donor * (1 + size // len(donor))
    return text[:at] + donor[:size] + text[at + size :]


def scattered(text: str, donor: str, level: float, rng: random.Random) -> str:
    """Single characters are another page's. Of k changes at random places, (1 - k/n)^5 of the n-grams are left."""
    left = 2 * level / (1 + level)  # share of the n-grams that the two have in common
    characters = list(text)
    for at in rng.sample(range(len(text)), round(len(text) * (1 - left ** (1 / page_truth.NGRAM)))):
        characters[at] = rng.choice(donor)
    return "".join(characters)


def _framed(markup: str, head: str, foot: str) -> str:
    markup = markup.replace("</body>", f"{foot}</body>")
    return re.sub(r"(<body[^>]*>)", lambda m: m[1] + head, markup, count=1)


def _frame(rng: random.Random) -> tuple[str, str]:
    names = [
        f"{word}{rng.randrange(100)}" for word in ("ホーム", "ニュース", "製品情報", "お問い合わせ", "サイトマップ", "ログイン")
    ]
    links = "".join(f'<li><a href="/{i}">{name}</a></li>' for i, name in enumerate(names))
    head = f'<div class="header"><ul class="nav">{links}</ul></div>'
    return (
        head,
        f'<div class="footer"><p>Copyright {rng.randrange(1998, 2024)} Mirror {rng.randrange(1000)}. All rights reserved.</p></div>',
    )


def _other_host(url: str, name: str) -> str:
    return re.sub(r"^https?://([^/]+)", rf"https://{name}.\1", url)


def _parts(entries: Iterable[Made], size: int) -> Iterator[list[Made]]:
    part: list[Made] = []
    for entry in entries:
        part.append(entry)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _write(writer: WarcWriter, made: Made) -> str:
    metadata = {"source": "damaged-twin", "licence": "as the page that it was made from"}
    headers = dict(made.headers)
    url, date = made.url or made.of.url, made.date or made.of.date
    return writer.response(url, made.body, made.content_type, date, metadata=metadata, headers=headers)


def _label(made: Made, file: str, offset: int, lost: bool) -> Page:
    content = made.of.content if made.readable else "other"
    text, content = ("", "") if lost or made.lost else (made.text, content)
    if made.label == CUTS[3]:
        content = page_truth.language(made.text)
    url, date = made.url or made.of.url, made.date or made.of.date
    return Page(file, offset, url, date, made.of.declared, content, text, made.label, made.of.key, lost or made.lost)


def labelled(path: Path, written: dict[str, Made]) -> list[Page]:
    """Labels of a sound file's records; `written` by record id."""
    return [_label(written[r.headers["warc-record-id"]], path.name, r.offset, False) for r in page_truth.responses(path)]


def break_members(path: Path, written: dict[str, Made], rng: random.Random) -> list[Page]:
    """Damage the file's gzip members in place, each as its record's label says. Returns the labels."""
    data, members = path.read_bytes(), list[bytes]()
    while data:
        inflater = zlib.decompressobj(31)
        inflater.decompress(data)
        members.append(data[: len(data) - len(inflater.unused_data)])
        data = inflater.unused_data
    out, pages = bytearray(), list[Page]()
    for member in members:
        head = zlib.decompressobj(31).decompress(member, 4096)
        match = re.search(rb"WARC-Type: response\r\nWARC-Record-ID: (\S+)", head)
        made = written[match[1].decode()] if match else None
        label = made.label if made else ""
        if label == MEMBERS[3]:
            out += rng.randbytes(rng.randrange(20, 400))
        offset = len(out)
        if label == MEMBERS[0]:
            broken = bytearray(member)
            for at in range(len(member) // 2, len(member) // 2 + 8):
                broken[at] ^= 0x55
            member = bytes(broken)
        elif label == MEMBERS[1]:
            member = member[: int(len(member) * rng.uniform(0.3, 0.9))]
        elif label == MEMBERS[2]:
            member = bytes(len(member))
        ends = label == MEMBERS[5]
        out += member[: len(member) // 2] if ends else member
        if made:
            pages.append(_label(made, path.name, offset, label in MEMBERS[:3] or ends))
        if ends:
            break
    with atomic_write(path) as file:
        file.write(bytes(out))
    return pages


def label_originals(warcs: Sequence[Path], cache: Path) -> list[Page]:
    """The collection's own pages, from `cache` if they are there; `Page.label` is the content type."""
    if cache.exists():
        return read_truth(cache)
    pages = []
    for path in sorted(warcs):
        for record in page_truth.responses(path):
            response = http.parse_response(record.block)
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            body = response.body.decode("utf-8", "replace")
            text, prose = (page_truth.main_text(body, tables) if kind in PAGES else body for tables in (True, False))
            declared, headers = record.fields.get("language", ""), record.headers
            url, date = headers["warc-target-uri"], headers["warc-date"]
            pages.append(Page(path.name, record.offset, url, date, declared, page_truth.language(text), text, kind, prose=prose))
    write_truth(cache, pages)
    return pages


def write_truth(path: Path, pages: Sequence[Page]) -> None:
    """A line of JSON a page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(page.to_json(), ensure_ascii=False) + "\n" for page in pages)
    with atomic_write(path) as file:
        file.write(gzip.compress(lines.encode("utf-8", "surrogatepass"), 4, mtime=0))


def read_truth(path: Path) -> list[Page]:
    """What `write_truth` wrote."""
    with gzip.open(path, "rt", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        return [Page.from_json(json.loads(line)) for line in file]


def main() -> None:
    """Write the twin alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warc", required=True, help="glob of the collection's files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--each", type=int, default=60, help="pages of each kind")
    args = parser.parse_args()
    warcs = [Path(path) for path in sorted(glob.glob(args.warc))]
    pages = make(warcs, label_originals(warcs, args.out.parent / ORIGINALS), args.out, args.seed, args.each)
    print(f"{args.out}: {len(pages)} records, {sum(page.lost for page in pages)} of them lost by design")


if __name__ == "__main__":
    main()
