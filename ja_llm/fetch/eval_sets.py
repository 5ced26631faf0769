"""Where the original files of evaluation sets are, and under what licence: the catalogue of `eval_data.py`.

What lies in a git repository is named by its commit, with sizes and checksums of its files there; of other files those that a publisher
states (the lists of tensorflow-datasets 4.9.10 and sacrebleu 2.6).
"""

import ast
import dataclasses
import gzip
import html
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ja_llm.evaluation import loaders_english, loaders_japanese
from ja_llm.evaluation.raw_files import RawFolder

_GITHUB, _HUB = "https://raw.githubusercontent.com", "https://huggingface.co/datasets"
_URL_NLP = "google-research/url-nlp/452a21ad3dae5668c06ceeac21ff073e1e40f9be/mgsm"


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
      convert: file name and bytes -> other files of the set, for formats that the loaders do not read; the file itself is dropped.
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


def _mgsm_shots(name: str, data: bytes) -> dict[str, bytes]:
    """exemplars.py -> train_ja.jsonl: its eight worked examples in Japanese, a JSON object a line. It is read, not run.

    Raises:
      ValueError: it is written otherwise.
    """
    values = {}
    try:
        for node in ast.parse(data.decode("utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                values[node.targets[0].id] = ast.literal_eval(node.value)
        numbers, examples = values["EXEMPLAR_NUMBER_ANSWERS"], values["MGSM_EXEMPLARS"]["ja"]
        rows = [
            {"question": examples[str(n)]["q"], "answer": examples[str(n)]["a"], "answer_number": number}
            for n, number in enumerate(numbers, 1)
        ]
    except (SyntaxError, KeyError, TypeError) as error:
        raise ValueError(f"{name} holds no worked examples in Japanese: {error!r}") from error
    return {"train_ja.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()}


def _unzipped(name: str, data: bytes) -> dict[str, bytes]:
    """data/jhuman-eval.jsonl.gz -> data/jhuman-eval.jsonl."""
    return {name.removesuffix(".gz"): gzip.decompress(data)}


def _raw(repository: str, files: Mapping[str, tuple[int, str] | None], base: str = "") -> tuple[Source, ...]:
    """Files of a GitHub repository (owner/name/revision), which keep their paths below `base`: path -> (bytes, SHA-256) at that revision."""
    return tuple(
        Source(f"{_GITHUB}/{repository}/{base}{name}", name, size=known[0] if known else 0, sha256=known[1] if known else "")
        for name, known in files.items()
    )


SETS: dict[str, EvalSet] = {
    s.folder: s
    for s in (
        EvalSet(
            "jglue",
            "CC BY-SA 4.0 (yahoojapan/JGLUE, tag v1.1.0)",
            _raw(
                "yahoojapan/JGLUE/v1.1.0",
                {
                    "jcommonsenseqa-v1.1/train-v1.1.json": (
                        1879961,
                        "9b55fae5ecb3aedd6f8ce5bc09196c3b629864668ec6c18eee4d65c0aa48229e",
                    ),
                    "jcommonsenseqa-v1.1/valid-v1.1.json": (
                        235633,
                        "0d8d76f3bfa0d174866939882faccdd01fbc2bcd5a76c43748ba0c40a7b3b8d4",
                    ),
                    "jsquad-v1.1/train-v1.1.json": None,
                    "jsquad-v1.1/valid-v1.1.json": (1976638, "fb0a57a35281ff03bbe7f0e878cff5b577985fbe6fcb242e7e8ddb63d1c0ab11"),
                },
                base="datasets/",
            ),
            (loaders_japanese.jcommonsenseqa, loaders_japanese.jsquad),
        ),
        EvalSet(
            "jemhopqa",
            "CC BY-SA 4.0 (aiishii/JEMHopQA, v1.0)",
            _raw(
                "aiishii/JEMHopQA/fed5024f4f39f02727e699cb7ccb67935a779a5a",
                {
                    "corpus/train.json": (433076, "c64392b4087299bcfaa02fe2584128b5dc50fe5ea83e1bd600cadfc984669e65"),
                    "corpus/dev.json": (47990, "2f3b8a518ca3051fc002f343ba3c26f6f3be902464061b43c30c5a1d37a9269a"),
                },
            ),
            (loaders_japanese.jemhopqa,),
        ),
        EvalSet(
            "niilc",
            "CC BY-SA 4.0 (mynlp/niilc-qa)",
            _raw(
                "mynlp/niilc-qa/b6d47968b2e301a5e953fb1922a08ed56099646b",
                {
                    "NIILC-ECQA2015_dev.xml": (874651, "983dcaeb9ef38ca45d1114e8b420fdd4b358e827c235b1bfb4fc5e50ca70caf3"),
                    "NIILC-ECQA2015_test.xml": (219195, "4a787463961db87e56e496c49cb40ca59f26d220e3ccc48588ad65b0dd4ce0d2"),
                },
                base="data/",
            ),
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
            (
                Source(
                    f"{_GITHUB}/{_URL_NLP}/mgsm_ja.tsv",
                    "mgsm_ja.tsv",
                    size=81043,
                    sha256="59a2b50debe77981fd784cb3b2bef1505e3abf2a37116dc9d7a366ab029b4637",
                ),
                Source(
                    f"{_GITHUB}/{_URL_NLP}/exemplars.py",
                    "exemplars.py",
                    size=104924,
                    sha256="239dda1557bb2ba76b71e5ef744ddd0b454da0b453e5f8b909498ceff690a919",
                    convert=_mgsm_shots,
                ),
            ),
            (loaders_japanese.mgsm,),
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
            (
                Source(
                    "https://github.com/nlp-waseda/JMMLU/archive/762cbf192c9e4588b574d718f95afd64c96fcbf4.zip",
                    members=r"[^/]+/(JMMLU/[^/]+\.csv)",
                ),
            ),
            (loaders_japanese.jmmlu,),
        ),
        EvalSet(
            "jhumaneval",
            "MIT (KuramitsuLab/jhuman-eval)",
            (
                Source(
                    f"{_GITHUB}/KuramitsuLab/jhuman-eval/def32e75b363aa663d19c0f6d83ef300feeeea0e/data/jhuman-eval.jsonl.gz",
                    "data/jhuman-eval.jsonl.gz",
                    size=66597,
                    sha256="e025987ea1df0678cbcb4c4a7a9b5f123a4ea7f8e5dbdca0aa635b92dfaa7498",
                    convert=_unzipped,
                ),
            ),
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
            _raw(
                "rowanz/hellaswag/a29ff8e9a04bba4bd6588223785ce105328adc57",
                {"hellaswag_train.jsonl": None, "hellaswag_val.jsonl": None},
                base="data/",
            ),
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
            _raw(
                "openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c",
                {
                    "train.jsonl": (4166206, "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465"),
                    "test.jsonl": (749738, "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14"),
                },
                base="grade_school_math/data/",
            ),
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
                    "https://github.com/suzgunmirac/BIG-Bench-Hard/archive/9ee07bd481feebf959a6b59d61ea57bdcf30964d.zip",
                    members=r"[^/]+/((?:bbh/[^/]+\.json)|(?:cot-prompts/[^/]+\.txt))",
                ),
            ),
            (loaders_english.bbh,),
        ),
        EvalSet(
            "humaneval",
            "MIT (openai/human-eval)",
            _raw(
                "openai/human-eval/6d43fb980f9fee3c892a914eda09951f772ad10d",
                {"HumanEval.jsonl.gz": (44877, "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef")},
                base="data/",
            ),
            (loaders_english.humaneval,),
        ),
    )
}
