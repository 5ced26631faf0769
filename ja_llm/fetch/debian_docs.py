"""`ja-llm fetch debian-docs`: Debian's documentation packages as WARC files and aligned Japanese-English pairs.

OUT/warc/FAMILY-LANG-NNNNN.warc.gz   true HTTP response records, each followed by a metadata record
OUT/pairs/pages.jsonl                addresses of pages that are translations of each other
OUT/pairs/messages.jsonl             English-Japanese interface strings
OUT/manifest.json                    the ledger (schema ja_llm.fetch/1), written last
OUT/.state/                          one entry a finished package: what a killed run goes on from
"""

import contextlib
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ja_llm import manifest
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.fetch import convert, licences, manpages, pairs, render
from ja_llm.fetch.download import warn
from ja_llm.fetch.mirror import DEFAULT_MIRROR
from ja_llm.fetch.packages import Package, select
from ja_llm.fetch.source import BACKENDS, Source
from ja_llm.files import lock_file, os_error_sentence, read_json, sha256_file, write_json
from ja_llm.progress import Progress

SCHEMA = "ja_llm.fetch/1"
CONTENT_VERSION = 1  # raise it when the same package would give other bytes: old states are then made anew


def fetch_debian_docs(
    out: str | Path,
    *,
    mirror: str = DEFAULT_MIRROR,
    suite: str = "bookworm",
    families: list[str] | None = None,
    backend: str = "auto",
    limit_packages: int | None = None,
) -> dict[str, Any]:
    """Fetch the documentation packages of `packages.PACKAGES` into `out`.

    The same package versions give byte-identical WARC files. A killed run goes on with the package it was at; on a
    finished `out` the files are checked against the ledger and nothing is fetched. A file that was lost or changed is
    made again. All of it is about 580 MB of packages, which are deleted after use.

    Args:
      out: folder to write.
      mirror: root of a Debian mirror, https; used where there is no apt or apt lacks a package.
      suite: suite on the mirror; apt offers this machine's own release.
      families: the manuals to fetch (`packages.FAMILIES`), all if None. May grow from run to run, not shrink.
      backend: "auto", "apt" or "mirror".
      limit_packages: only the first so many packages.

    Returns:
      Summary: packages, missing, responses (family -> language -> count), languages, japanese_by_script (pages with
      at least 5 % kana among their letters), pairs, bytes.

    Raises:
      UsageError: an unknown family or backend, or `out` holds another fetch.
      JaLlmError: nothing can be reached, a download or package is bad for good, or the disk is full.
    """
    out = Path(out)
    packages = select(families, limit_packages)
    if backend not in BACKENDS:
        raise UsageError(f"--backend {backend}: choose one of {', '.join(BACKENDS)}.")
    with _locked(out):
        settings = {"suite": suite, "backend": backend, "content_version": CONTENT_VERSION}
        _check_same_fetch(out, settings, packages)
        ledgers = {package.name: ledger for package in packages if (ledger := _finished(out, package)) is not None}
        summary = _finished_summary(out, packages, ledgers)
        if summary is None:
            with _disk_errors(out):
                write_json(out / ".state" / "fetch.json", settings)
                source = Source(backend, mirror, suite, _cache(out), _names(packages))
                missing = _fetch_all(out, packages, ledgers, source)
                summary = _write_ledger(out, settings, packages, ledgers, missing)
                shutil.rmtree(_cache(out), ignore_errors=True)
    if summary["missing"]:
        names = ", ".join(summary["missing"])
        warn(f"{names}: not offered by the package source, left out; delete {out / manifest.NAME} to ask again.")
    return summary


def _names(packages: list[Package]) -> list[str]:
    return [*(package.name for package in packages), "mandoc"]


def _cache(out: Path) -> Path:
    return out / ".cache"


def _state(out: Path, name: str) -> Path:
    return out / ".state" / f"{name}.json"


def _messages(out: Path, name: str) -> Path:
    return out / ".state" / f"{name}.messages.jsonl"


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep a second run out of the folder; the lock ends with the process."""
    taken = JaLlmError(f"{out}: another fetch is writing to this folder; wait for it or choose another --out.")
    with lock_file(out / ".state" / "lock", taken):
        yield


@contextlib.contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise os_error_sentence(error, error.filename or out) from error


def _check_same_fetch(out: Path, settings: dict[str, Any], packages: list[Package]) -> None:
    path = out / ".state" / "fetch.json"
    if not path.exists():
        return
    before = read_json(path, "state of a fetch")
    for key, flag in (("suite", "--suite"), ("backend", "--backend")):
        if before.get(key) != settings[key]:
            raise UsageError(
                f"{out}: this folder was fetched with {flag} {before.get(key)}; use the same or choose another --out."
            )
    others = {p.stem for p in path.parent.glob("*.json")} - {"fetch"} - {package.name for package in packages}
    if others:
        raise UsageError(
            f"{out}: this folder also holds {', '.join(sorted(others)[:3])}, which the command leaves out; "
            "name their families too or choose another --out."
        )


def _finished(out: Path, package: Package) -> dict[str, Any] | None:
    """The ledger entry of a package whose files are all there and unchanged, else None."""
    path = _state(out, package.name)
    if not path.exists():
        return None
    try:
        ledger = read_json(path, "state of a package")
        files = [(out / file["name"], file["sha256"]) for file in ledger["files"]]
        if ledger["messages"]["sha256"]:
            files.append((_messages(out, package.name), ledger["messages"]["sha256"]))
        whole = ledger["content_version"] == CONTENT_VERSION and all(f.exists() and sha256_file(f) == s for f, s in files)
    except (JaLlmError, KeyError, TypeError):
        whole = False
    if not whole:
        warn(f"{path}: files of {package.name} were lost, changed or made by another version; they are made again.")
        return None
    return ledger


def _finished_summary(out: Path, packages: list[Package], ledgers: dict[str, Any]) -> dict[str, Any] | None:
    """The summary of a finished fetch of just these packages, else None."""
    if not (out / manifest.NAME).exists():
        return None
    try:
        value = manifest.read(out, SCHEMA, verify=True)
    except JaLlmError as error:
        warn(str(error))
        return None
    done = set(ledgers) | set(value["totals"]["missing"])
    same = value["config"]["packages"] == [p.name for p in packages] and done == set(value["config"]["packages"])
    return value["totals"] if same else None


class _Renderer:
    """mandoc: the machine's own, else out of its Debian package; got once, when the first manual page needs it."""

    def __init__(self, source: Source, out: Path):
        self._source, self._folder = source, _cache(out)
        self._lock, self._used, self._mandoc = threading.Lock(), False, manpages.installed()

    @property
    def identity(self) -> str:
        """Which mandoc was used; "" while none was needed."""
        return self._mandoc.identity if self._used and self._mandoc else ""

    def __call__(self) -> manpages.Mandoc:
        self._used = True
        with self._lock:
            if self._mandoc is None:
                found = self._source.fetch("mandoc")
                if found is None:
                    raise JaLlmError(
                        "mandoc, which renders manual pages, is neither installed nor offered by the package source; "
                        "install it and run the same command again."
                    )
                self._mandoc = manpages.unpack(found[0], self._folder)
            return self._mandoc


def _fetch_all(out: Path, packages: list[Package], ledgers: dict[str, Any], source: Source) -> list[str]:
    """Fetch and convert what `ledgers` lacks; adds to it. The packages that nobody offers."""
    renderer, missing, texts = _Renderer(source, out), [], dict[str, str]()
    with Progress("fetch debian-docs", len(packages), "package", initial=len(ledgers)) as progress:
        for package in packages:
            if package.name in ledgers:
                continue
            progress.update(0, note=package.name)
            found = source.fetch(package.name)
            if found is None:
                missing.append(package.name)
                progress.update()
                continue
            path, entry = found
            text = _copyright(source, path, package.name, texts)
            licence = licences.package_licence(text, package.name)
            ledger = convert.convert(package, path, out, _messages(out, package.name), licence, renderer)
            ledger |= {"content_version": CONTENT_VERSION, "deb": _deb_entry(entry), "renderer": renderer.identity}
            write_json(_state(out, package.name), ledger)
            ledgers[package.name] = ledger
            path.unlink()
            progress.update(note=package.name)
    return missing


def _deb_entry(entry: dict[str, str]) -> dict[str, Any]:
    return {"name": Path(entry["Filename"]).name, "bytes": int(entry["Size"]), "sha256": entry["SHA256"]}


def _copyright(source: Source, path: Path, name: str, known: dict[str, str]) -> str:
    """A package's copyright text; where its documentation folder links to another package, that package is asked."""
    text, other = convert.copyright_of(path, name)
    if not text and other:
        if other not in known:
            found = source.fetch(other)
            known[other] = convert.copyright_of(found[0], other)[0] if found else ""
            if found:
                found[0].unlink()
        text = known[other]
    return text


def _write_ledger(
    out: Path, settings: dict[str, Any], packages: list[Package], ledgers: dict[str, Any], missing: list[str]
) -> dict[str, Any]:
    """Write the pairs and, last, the manifest; the summary."""
    done = [ledgers[package.name] for package in packages if package.name in ledgers]
    page_pairs = pairs.write_pages(out / "pairs" / "pages.jsonl", done)
    parts = [_messages(out, ledger["package"]) for ledger in done if ledger["messages"]["pairs"]]
    message_pairs = pairs.write_messages(out / "pairs" / "messages.jsonl", parts)
    shards = [file | {"package": ledger["package"]} for ledger in done for file in ledger["files"]]
    shards += [manifest.file_entry(out / "pairs" / name, out) for name in ("messages.jsonl", "pages.jsonl")]
    totals = _totals(done, missing) | {
        "pairs": {"pages": page_pairs["pairs"], "messages": message_pairs["pairs"]},
        "pages_untranslated": page_pairs["untranslated"],
        "bytes": sum(file["bytes"] for file in shards),
    }
    manifest.write(
        out,
        schema=SCHEMA,
        job="fetch debian-docs",
        config=settings | {"packages": [package.name for package in packages], "base_url": render.BASE_URL},
        inputs=[ledger["deb"] | {k: ledger[k] for k in ("package", "version", "family", "licence")} for ledger in done],
        shards=shards,
        totals=totals,
        renderer=sorted({ledger["renderer"] for ledger in done} - {""}),
        skipped={ledger["package"]: ledger["skipped_samples"] for ledger in done if ledger["skipped"]},
    )
    return totals


def _totals(done: list[dict[str, Any]], missing: list[str]) -> dict[str, Any]:
    responses: dict[str, Counter[str]] = {}
    skipped: Counter[str] = Counter()
    japanese = 0
    for ledger in done:
        skipped.update(ledger["skipped"])
        for lang, _, _, share in ledger["pages"]:
            responses.setdefault(ledger["family"], Counter())[lang] += 1
            japanese += share >= render.JAPANESE_SHARE
    languages: Counter[str] = sum(responses.values(), Counter())
    return {
        "packages": len(done),
        "missing": missing,
        "responses": {family: dict(sorted(counts.items())) for family, counts in sorted(responses.items())},
        "languages": dict(sorted(languages.items())),
        "japanese_by_script": japanese,
        "skipped": dict(sorted(skipped.items())),
    }


def format_summary(summary: dict[str, Any]) -> str:
    """What was fetched, for the terminal: responses by language, Japanese pages, pairs, packages that no source had."""
    languages = ", ".join(f"{lang} {count}" for lang, count in sorted(summary["languages"].items(), key=lambda item: -item[1]))
    lines = [
        f"{summary['packages']} packages, {sum(summary['languages'].values())} pages ({languages})",
        f"{summary['japanese_by_script']} pages are Japanese by their script; "
        f"{summary['pairs']['pages']} page pairs and {summary['pairs']['messages']} message pairs with English",
    ]
    if summary["missing"]:
        lines.append(f"no source had: {', '.join(summary['missing'])}")
    return "\n".join(lines)
