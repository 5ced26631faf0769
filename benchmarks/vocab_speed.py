"""Speed and memory of tokenizers: batches through our classes against the library itself, through tf.data, training, a large expansion.

    python -m benchmarks.vocab_speed encode --documents build/real/walk/corpus --vocabularies build/vocab_expansion
    python -m benchmarks.vocab_speed train --documents build/real/walk/corpus
    python -m benchmarks.vocab_speed expand --documents build/real/walk/corpus

`encode` runs the library and ours in turns in one process, on the same batches of held-out documents; ratios are of medians. The
libraries use as many threads as they like. `train` makes 16,000 pieces of each kind, each in a process of its own; `expand` first
trains a byte-level BPE of 128,000 pieces (kept, not counted; `prepare` does that alone), then adds 16,000 Japanese ones to it. Memory is the process's peak
resident set. Writes `benchmarks/results/vocab_speed.json`.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.vocab_expansion import about, code_texts
from ja_llm.files import read_json, write_json
from ja_llm.vocab.base import load_tokenizer
from ja_llm.vocab.train import iter_texts

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "vocab_speed.json"
PACKAGES = ("sentencepiece", "tokenizers", "tensorflow")
BATCH = 64


def library(tokenizer: Any) -> Callable[[Sequence[str]], Any]:
    """The same ids from the library itself."""
    from ja_llm.vocab.hf_tokenizer import HFTokenizer

    if isinstance(tokenizer, HFTokenizer):
        import tokenizers

        own = tokenizers.Tokenizer.from_str(tokenizer.model_text)
        own.encode_special_tokens = True
        return lambda texts: [e.ids for e in own.encode_batch_fast(texts, add_special_tokens=False)]
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_bytes)
    return lambda texts: processor.encode(texts, out_type=int)


def tokens(encode_batch: Callable[[Sequence[str]], Any], batches: Sequence[Sequence[str]]) -> int:
    """How many a pass over the texts gives."""
    return sum(len(ids) for batch in batches for ids in encode_batch(batch))


def through_tf_data(tokenizer: Any, texts: Sequence[str], batched: bool) -> Callable[[], int]:
    """A pass over the texts as a tf.data pipeline, whole batches at a time or text by text as seqio maps them."""
    import tensorflow as tf

    from ja_llm.data.seqio_vocabulary import SeqioVocabulary

    vocabulary = SeqioVocabulary(tokenizer)
    dataset = tf.data.Dataset.from_tensor_slices([text.encode("utf-8") for text in texts])
    dataset = dataset.batch(BATCH) if batched else dataset
    dataset = dataset.map(vocabulary.encode_tf, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def run() -> int:
        return sum(int(row.flat_values.shape[0] if batched else row.shape[0]) for row in dataset)

    return run


def encode(documents: Path, vocabularies: Path, repeats: int) -> dict[str, Any]:
    """Characters per second of each way and the ratios to the library."""
    texts = [text for lang in ("ja", "en") for text in iter_texts(documents, lang, "heldout")]
    batches = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
    characters = sum(map(len, texts))
    found: dict[str, Any] = {"characters": characters, "texts": len(texts), "batch": BATCH, **about(documents, *PACKAGES)}
    for name in ("smollm2", "llama2_like"):
        tokenizer = load_tokenizer(vocabularies / name)
        direct = library(tokenizer)
        ways: dict[str, Callable[[], Any]] = {
            "library": functools.partial(tokens, direct, batches),
            "ours": functools.partial(tokens, tokenizer.encode_batch, batches),
            "tf.data, batches": through_tf_data(tokenizer, texts, True),
            "tf.data, text by text": through_tf_data(tokenizer, texts, False),
        }
        counts = {way: run() for way, run in ways.items()}  # and warm
        assert len(set(counts.values())) == 1, counts
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(repeats):
            for way, run in ways.items():
                began = time.perf_counter()
                run()
                seconds[way].append(time.perf_counter() - began)
        middle = {way: statistics.median(values) for way, values in seconds.items()}
        found[name] = {
            "tokens": counts["library"],
            "characters_per_second": {way: characters / value for way, value in middle.items()},
            "ratio_to_library": {way: middle["library"] / value for way, value in middle.items()},
            "seconds": seconds,
        }
        print(name, found[name]["ratio_to_library"], flush=True)
    return found


def measured(code: str) -> dict[str, Any]:
    """Run Python code in a process of its own; wall seconds and peak memory, and what it prints last (JSON)."""
    began = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, **json.loads(result.stdout.strip().splitlines()[-1])}


_PEAK = "import json, resource; from pathlib import Path\n"
_TELL = (
    "print(json.dumps({'pieces': tokenizer.vocab_size, 'peak_gib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))"
)


def train(documents: Path, out: Path, kinds: Sequence[str], earlier: dict[str, Any]) -> dict[str, Any]:
    """16,000 pieces of each kind on the Japanese train documents, and LLM-jp's construction on both languages; the rest stays."""
    found = dict(earlier)
    for name, options in (
        ("bpe", "lang='ja', vocab_size=16000, model_type='bpe'"),
        ("unigram", "lang='ja', vocab_size=16000, model_type='unigram'"),
        ("byte_level", "lang='ja', vocab_size=16000, model_type='byte_level'"),
        ("joint unigram", "vocab_size={'ja': 10000, 'en': 6000}, model_type='unigram'"),
    ):
        if name not in kinds:
            continue
        target = out / name.replace(" ", "_")
        code = f"from ja_llm.vocab.train_documents import train_on_documents\ntokenizer = train_on_documents(Path({str(documents)!r}), Path({str(target)!r}), {options})\n"
        found[name] = {**about(documents, *PACKAGES), **measured(_PEAK + code + _TELL)}
        print(name, found[name], flush=True)
    return found


def large_base(documents: Path, base: Path) -> None:
    """A byte-level BPE of 128,000 pieces on English, code and a little Japanese, trained once."""
    if not (base / "tokenizer.json").exists():
        from ja_llm.vocab.train_byte_level import train_byte_level

        texts = [*iter_texts(documents, "en", "train"), *code_texts(30_000_000), *iter_texts(documents, "ja", "train", 13_000, 0)]
        train_byte_level(texts, base, vocab_size=128_000, max_piece_length=None, min_count=1)


def expand(documents: Path, base: Path) -> dict[str, Any]:
    """16,000 pieces for a base of 128,000."""
    large_base(documents, base)
    code = (
        "from ja_llm.vocab.base import load_tokenizer\nfrom ja_llm.vocab.train import iter_texts\n"
        "from ja_llm.vocab.expand_byte_level import expand_byte_level\n"
        f"base = load_tokenizer(Path({str(base)!r}))\n"
        f"tokenizer = expand_byte_level(base, iter_texts(Path({str(documents)!r}), 'ja', 'train'), new_pieces=16000).tokenizer\n"
    )
    found = {**about(documents, *PACKAGES), "base": load_tokenizer(base).vocab_size, **measured(_PEAK + code + _TELL)}
    print(found, flush=True)
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("prepare", "encode", "train", "expand"))
    parser.add_argument("--documents", type=Path, required=True, help="document set of Debian's documentation")
    parser.add_argument(
        "--vocabularies", type=Path, default=Path("build/vocab_expansion"), help="for encode: of benchmarks.vocab_expansion"
    )
    parser.add_argument("--base", type=Path, default=Path("build/vocab_speed/base_128k"), help="for expand")
    parser.add_argument("--out", type=Path, default=Path("build/vocab_speed"))
    parser.add_argument("--kinds", default="bpe,unigram,byte_level,joint unigram", help="for train")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    documents = args.documents.absolute()
    if args.part == "prepare":
        large_base(documents, args.base.absolute())
        return
    result = read_json(RESULT, "result") if RESULT.exists() else {}
    if args.part == "encode":
        result["encode"] = encode(documents, args.vocabularies, args.repeats)
    elif args.part == "train":
        result["train"] = train(documents, args.out.absolute(), args.kinds.split(","), result.get("train", {}))
    else:
        result["expand"] = expand(documents, args.base.absolute())
    write_json(RESULT, result)


if __name__ == "__main__":
    main()
