"""The original files of evaluation sets, from where their authors keep them, into the layout that `ja-llm eval --data` reads.

A set that arrived is read once by its own loader, which knows how many records the original has; only then are its checksums written
to SHA256SUMS, so that a later change is seen. Sizes and checksums are checked before that where the catalogue has them (`eval_sets.py`).
What no address is known for, or what a licence leaves to the user, is said and left out.
"""

import hashlib
import io
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation.raw_files import SUMS, RawFolder
from ja_llm.fetch.download import download, download_unsized
from ja_llm.fetch.eval_sets import SETS, EvalSet, Source
from ja_llm.files import atomic_write, os_error_sentence, sha256_file
from ja_llm.progress import Progress


class SetsFailed(JaLlmError):
    """Some sets could not be fetched.

    Args:
      failed: set -> why.
      told: of the others, as `fetch_eval_data` returns it.
    """

    def __init__(self, failed: Mapping[str, str], told: Mapping[str, str]):
        reasons = list(failed.values())
        several = f"{', '.join(failed)}: {len(failed)} of {len(failed) + len(told)} sets were not fetched; run the same command again for them. "
        super().__init__(reasons[0] if len(reasons) == 1 else several + " ".join(reasons))
        self.told = dict(told)


def fetch_eval_data(out: str | Path, names: Sequence[str] = ()) -> dict[str, str]:
    """Fetch sets; those whose files are there and as SHA256SUMS says are left alone.

    Args:
      out: folder for all sets.
      names: of SETS; all when empty.

    Returns:
      set -> "fetched", "there already", or why it is not whole.

    Raises:
      UsageError: no such set.
      SetsFailed: a server can't be reached, a file is not what its publisher states, or the disk is full; after all others were fetched.
    """
    unknown = [name for name in names if name not in SETS]
    if unknown:
        raise UsageError(f"{unknown[0]}: there is no such set; there are {', '.join(SETS)}.")
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise os_error_sentence(error, out) from error
    wanted = [SETS[name] for name in names or SETS]
    told: dict[str, str] = {}
    failed: dict[str, str] = {}
    try:
        with Progress("fetch eval-data", len(wanted), "set") as progress:
            for eval_set in wanted:
                try:
                    told[eval_set.folder] = _one(eval_set, out)
                except JaLlmError as error:
                    failed[eval_set.folder] = str(error)
                progress.update(1, eval_set.folder)
    finally:
        _write_licences(out)
    if failed:
        raise SetsFailed(failed, told)
    return told


def _one(eval_set: EvalSet, out: Path) -> str:
    sums = _read_sums(out)
    own = {name: digest for name, digest in sums.items() if name.startswith(eval_set.folder + "/")}
    if own and all((out / name).is_file() and sha256_file(out / name) == digest for name, digest in own.items()):
        return "there already"
    for source in eval_set.sources:
        _fetch(source, out / eval_set.folder)
    problem = _check(eval_set, out)
    if problem and not eval_set.by_hand:
        raise JaLlmError(
            f"{out / eval_set.folder}: what arrived is not the original ({problem}); look at {eval_set.sources[0].url}, whether it moved or "
            "changed, and put the set's files there by hand (docs/evaluation.md has their names)."
        )
    if problem:
        return f"not whole: {eval_set.by_hand}"
    files = sorted(path for path in (out / eval_set.folder).rglob("*") if path.is_file())
    sums = {name: digest for name, digest in sums.items() if name not in own}
    sums |= {str(path.relative_to(out)): sha256_file(path) for path in files}
    with atomic_write(out / SUMS) as file:
        file.write("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode())
    return "fetched"


def _read_sums(out: Path) -> dict[str, str]:
    path = out / SUMS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {
        name.strip().lstrip("*").removeprefix("./"): digest
        for digest, name in (line.split(maxsplit=1) for line in lines if line.strip())
    }


def _check(eval_set: EvalSet, out: Path) -> str:
    """What a set's loaders find wrong with its files, "" for nothing; they see this set alone, without SHA256SUMS."""
    with tempfile.TemporaryDirectory(dir=out, prefix=".check-") as folder:
        (Path(folder) / eval_set.folder).symlink_to((out / eval_set.folder).absolute(), target_is_directory=True)
        try:
            for load in eval_set.loaders:
                load(RawFolder(folder))
        except (JaLlmError, KeyError, IndexError, TypeError, ValueError) as error:
            return str(error).removeprefix(f"{folder}/").rstrip(".")
    return ""


def _fetch(source: Source, folder: Path) -> None:
    """One source's files below the set's folder."""
    name = source.target if not source.members else source.url.rsplit("/", 1)[-1]
    target = folder / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise os_error_sentence(error, target.parent) from error
    if source.sha256:
        download(source.url, target, source.size, source.sha256)
    else:
        download_unsized(source.url, target)
    if source.md5 and (found := hashlib.md5(target.read_bytes(), usedforsecurity=False).hexdigest()) != source.md5:
        target.unlink()
        raise JaLlmError(f"{source.url}: its MD5 is {found}, not the {source.md5} that is stated for it; try again later.")
    if source.members:
        _unpack(source, target, folder)
        target.unlink()
    elif source.convert:
        try:
            files = source.convert(source.target, target.read_bytes())
        except (OSError, EOFError, ValueError) as error:
            raise JaLlmError(
                f"{source.url}: this file can't be read ({error}); it was changed or cut off: try again later."
            ) from error
        for path, content in files.items():
            with atomic_write(folder / path) as out:
                out.write(content)
        target.unlink()


def _unpack(source: Source, archive: Path, folder: Path) -> None:
    count = 0
    try:
        for path, file in _members(archive, re.compile(source.members)):
            files = (
                {path: file}
                if source.convert is None
                else {k: io.BytesIO(v) for k, v in source.convert(path, file.read()).items()}
            )
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(folder / name) as out:
                    shutil.copyfileobj(content, out)
                count += 1
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError) as error:
        raise JaLlmError(
            f"{source.url}: this archive can't be read ({error}); it was moved or cut off: try again later."
        ) from None
    if not count:
        raise JaLlmError(
            f"{source.url}: the files of the set are not in this archive; it was reorganised: fetch the set by hand."
        )


def _members(archive: Path, pattern: re.Pattern) -> Iterator[tuple[str, Any]]:
    """(path that the pattern gives, open file) of each plain file that fits it; the pattern admits no way out of the folder."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if (found := pattern.fullmatch(info.filename)) and _inside(found[1]) and not info.is_dir():
                    with zipped.open(info) as file:
                        yield found[1], file
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and (found := pattern.fullmatch(member.name)) and _inside(found[1]):
                plain = tar.extractfile(member)
                assert plain is not None
                yield found[1], plain


def _inside(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/")


def _write_licences(out: Path) -> None:
    lines = ["# Licences of the evaluation sets\n", "Each set is its authors'; this file says under what terms they give it.\n\n"]
    lines += [f"- {s.folder}: {s.licence}\n" for s in SETS.values() if (out / s.folder).is_dir()]
    with atomic_write(out / "LICENCES.md") as file:
        file.write("".join(lines).encode())


def format_summary(told: Mapping[str, str]) -> str:
    """One line a set, with its licence."""
    return "\n".join(f"{name:<12}{what}; {SETS[name].licence}" for name, what in told.items())
