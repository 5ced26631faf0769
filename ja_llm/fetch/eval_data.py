"""The original files of evaluation sets, from where their authors keep them, into the layout that `ja-llm eval --data` reads.

A set that arrived is read once by its own loader, which knows how many records the original has; only then are its checksums written
to SHA256SUMS, so that a later change is seen. Sizes and checksums of archives are checked before that where a publisher states them
(the checksum lists of tensorflow-datasets 4.9.10 and sacrebleu 2.6). What no address is known for, or what a licence leaves to the
user, is said and left out.
"""

import dataclasses
import hashlib
import html
import io
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation import loaders_english, loaders_japanese
from ja_llm.evaluation.raw_files import SUMS, RawFolder
from ja_llm.fetch.download import download, download_unsized
from ja_llm.files import atomic_write, os_error_sentence, sha256_file
from ja_llm.progress import Progress

_GITHUB, _HUB = "https://raw.githubusercontent.com", "https://huggingface.co/datasets"


@dataclasses.dataclass(frozen=True)
class Source:
    """One file to fetch.

    Attributes:
      url: where it is.
      target: path below the set's folder; of an archive the part before each member's own path.
      members: pattern (whole path in the archive) whose group 1 is the member's path below `target`; "" for a plain file.
      size: bytes, 0 if nobody states them.
      sha256: hex digest, "" if nobody states it.
      md5: the same.
      convert: file name and bytes -> other files of the set, for formats that the loaders do not read.
    """

    url: str
    target: str = ""
    members: str = ""
    size: int = 0
    sha256: str = ""
    md5: str = ""
    convert: Callable[[str, bytes], dict[str, bytes]] | None = None


@dataclasses.dataclass(frozen=True)
class EvalSet:
    """A set: a folder of the layout.

    Attributes:
      folder: its name below --out.
      licence: of the files, and what else a user must know.
      sources: what is fetched.
      loaders: read the files, and refuse a part.
      by_hand: what is not fetched, and how to get it; "" for nothing.
    """

    folder: str
    licence: str
    sources: tuple[Source, ...]
    loaders: tuple[Callable[[RawFolder], Any], ...]
    by_hand: str = ""


def _wmt_lines(name: str, data: bytes) -> dict[str, bytes]:
    """newstest2020-enja-src.en.sgm -> wmt20.en-ja.src: the text of each <seg>, a line each, as sacrebleu writes it."""
    found = re.fullmatch(r"newstest2020-(en|ja)(en|ja)-(src|ref)\.\w+\.sgm", name)
    if not found:
        return {}
    segments = re.findall(r"<seg[^>]*>(.*?)</seg>", data.decode("utf-8"), re.DOTALL)
    lines = [" ".join(html.unescape(segment).split()) for segment in segments]
    return {f"wmt20.{found[1]}-{found[2]}.{found[3]}": "".join(line + "\n" for line in lines).encode()}


def _raw(repository: str, *names: str, base: str = "") -> tuple[Source, ...]:
    """Files of a GitHub repository (owner/name/revision), which keep their paths below `base`."""
    return tuple(Source(f"{_GITHUB}/{repository}/{base}{name}", name) for name in names)


SETS: dict[str, EvalSet] = {
    s.folder: s
    for s in (
        EvalSet(
            "jglue",
            "CC BY-SA 4.0 (yahoojapan/JGLUE, tag v1.1.0)",
            _raw(
                "yahoojapan/JGLUE/v1.1.0",
                *(f"{name}-v1.1/{split}-v1.1.json" for name in ("jcommonsenseqa", "jsquad") for split in ("train", "valid")),
                base="datasets/",
            ),
            (loaders_japanese.jcommonsenseqa, loaders_japanese.jsquad),
        ),
        EvalSet(
            "jemhopqa",
            "CC BY-SA 4.0 (aiishii/JEMHopQA)",
            _raw("aiishii/JEMHopQA/main", "corpus/train.json", "corpus/dev.json"),
            (loaders_japanese.jemhopqa,),
        ),
        EvalSet(
            "niilc",
            "CC BY-SA 4.0 (mynlp/niilc-qa)",
            _raw("mynlp/niilc-qa/master", "NIILC-ECQA2015_dev.xml", "NIILC-ECQA2015_test.xml", base="data/"),
            (loaders_japanese.niilc,),
        ),
        EvalSet(
            "xlsum_ja",
            "CC BY-NC-SA 4.0: not for commercial use (mkshing/xlsum_ja of csebuetnlp/xlsum)",
            tuple(Source(f"{_HUB}/mkshing/xlsum_ja/resolve/main/data/{n}.csv", f"data/{n}.csv") for n in ("train", "test")),
            (loaders_japanese.xlsum,),
        ),
        EvalSet(
            "mgsm",
            "CC BY-SA 4.0 (google-research/url-nlp)",
            _raw("google-research/url-nlp/main", "mgsm_ja.tsv", base="mgsm/"),
            (loaders_japanese.mgsm,),
            "train_ja.jsonl: the eight worked examples stand in exemplars.py of the same folder; write them as JSON lines of question, answer, answer_number",
        ),
        EvalSet(
            "wmt20",
            "for research (WMT20 news test sets)",
            (
                Source(
                    "https://data.statmt.org/wmt20/translation-task/test.tgz",
                    members=r"(?:\./)?sgm/(newstest2020-(?:enja|jaen)-(?:src|ref)\.\w+\.sgm)",
                    md5="3b1f777cfd2fb15ccf66e9bfdb2b1699",
                    convert=_wmt_lines,
                ),
            ),
            (lambda folder: loaders_japanese.wmt20(folder, "en-ja"), lambda folder: loaders_japanese.wmt20(folder, "ja-en")),
        ),
        EvalSet(
            "jmmlu",
            "CC BY-SA 4.0; japanese_history and world_history for research and evaluation only (nlp-waseda/JMMLU)",
            (Source("https://github.com/nlp-waseda/JMMLU/archive/refs/heads/main.zip", members=r"[^/]+/(JMMLU/[^/]+\.csv)"),),
            (loaders_japanese.jmmlu,),
        ),
        EvalSet(
            "jhumaneval",
            "MIT (KuramitsuLab/jhuman-eval)",
            _raw("KuramitsuLab/jhuman-eval/main", "data/jhuman-eval.jsonl"),
            (loaders_japanese.jhumaneval,),
        ),
        EvalSet(
            "openbookqa",
            "Apache-2.0 (AI2)",
            (
                Source(
                    "https://s3-us-west-2.amazonaws.com/ai2-website/data/OpenBookQA-V1-Sep2018.zip",
                    members=r"[^/]+/Data/(Main/(?:train|test)\.jsonl)",
                    size=1446098,
                    sha256="82368cf05df2e3b309c17d162e10b888b4d768fad6e171e0a041954c8553be46",
                ),
            ),
            (loaders_english.openbookqa,),
        ),
        EvalSet(
            "triviaqa",
            "unknown for the data (University of Washington); 2.7 GB",
            (
                Source(
                    "https://nlp.cs.washington.edu/triviaqa/data/triviaqa-rc.tar.gz",
                    members=r"(?:\./)?(qa/(?:web|wikipedia)-(?:train|dev)\.json)",
                    size=2665779500,
                    sha256="ef94fac6db0541e5bb5b27020d067a8b13b1c1ffc52717e836832e02aaed87b9",
                ),
            ),
            (loaders_english.triviaqa,),
        ),
        EvalSet(
            "hellaswag",
            "MIT (rowanz/hellaswag)",
            _raw("rowanz/hellaswag/master", "hellaswag_train.jsonl", "hellaswag_val.jsonl", base="data/"),
            (loaders_english.hellaswag,),
        ),
        EvalSet(
            "squad2",
            "CC BY-SA 4.0 (SQuAD 2.0)",
            tuple(
                Source(
                    f"https://rajpurkar.github.io/SQuAD-explorer/dataset/{n}-v2.0.json",
                    f"{n}-v2.0.json",
                    size=size,
                    sha256=digest,
                )
                for n, size, digest in (
                    ("train", 42123633, "68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002"),
                    ("dev", 4370528, "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8"),
                )
            ),
            (loaders_english.squad2,),
        ),
        EvalSet(
            "xwino",
            "CC BY 4.0 (Muennighoff/xwinograd)",
            (Source(f"{_HUB}/Muennighoff/xwinograd/resolve/main/test/en.jsonl", "test/en.jsonl"),),
            (loaders_english.xwino,),
        ),
        EvalSet(
            "mmlu",
            "MIT (hendrycks/test)",
            (Source("https://people.eecs.berkeley.edu/~hendrycks/data.tar", members=r"(data/(?:dev|test)/[^/]+\.csv)"),),
            (loaders_english.mmlu,),
        ),
        EvalSet(
            "gsm8k",
            "MIT (openai/grade-school-math)",
            _raw("openai/grade-school-math/master", "train.jsonl", "test.jsonl", base="grade_school_math/data/"),
            (loaders_english.gsm8k,),
        ),
        EvalSet(
            "math",
            "MIT (MATH-500 of openai/prm800k; hendrycks/math)",
            (Source(f"{_HUB}/HuggingFaceH4/MATH-500/resolve/main/test.jsonl", "test.jsonl"),),
            (loaders_english.math,),
            "train/*/*.json: the training problems of hendrycks/math, which its authors' server no longer gives",
        ),
        EvalSet(
            "bbh",
            "MIT (suzgunmirac/BIG-Bench-Hard)",
            (
                Source(
                    "https://github.com/suzgunmirac/BIG-Bench-Hard/archive/refs/heads/main.zip",
                    members=r"[^/]+/((?:bbh/[^/]+\.json)|(?:cot-prompts/[^/]+\.txt))",
                ),
            ),
            (loaders_english.bbh,),
        ),
        EvalSet(
            "humaneval",
            "MIT (openai/human-eval)",
            _raw("openai/human-eval/master", "HumanEval.jsonl.gz", base="data/"),
            (loaders_english.humaneval,),
        ),
    )
}


def fetch_eval_data(out: str | Path, names: Sequence[str] = ()) -> dict[str, str]:
    """Fetch sets; those whose files are there and as SHA256SUMS says are left alone.

    Args:
      out: folder for all sets.
      names: of SETS; all when empty.

    Returns:
      set -> "fetched", "there already", or why it is not whole.

    Raises:
      UsageError: no such set.
      JaLlmError: a server can't be reached, a file is not what its publisher states, or the disk is full.
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
    told = {}
    with Progress("fetch eval-data", len(wanted), "set") as progress:
        for eval_set in wanted:
            told[eval_set.folder] = _one(eval_set, out)
            progress.update(1, eval_set.folder)
    _write_licences(out)
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


def format_summary(told: dict[str, str]) -> str:
    """One line a set, with its licence."""
    return "\n".join(f"{name:<12}{what}; {SETS[name].licence}" for name, what in told.items())
