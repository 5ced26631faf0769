"""One peer's MinHash deduplication, in the peer's own environment; `benchmarks/minhash.py` calls it.

    PEERS_PYTHON benchmarks/minhash_peers.py datatrove|text_dedup JSONL_FOLDER WORK NGRAM BANDS ROWS WORKERS

Needs nothing of this project. Prints {"seconds", "cpu_seconds", "peak_gib", "removed", "note"} and writes the ids that the peer
drops to WORK/removed.json. datatrove makes n-grams of words: its tokenizer is replaced by one that gives characters without
white space, and its normalisation is off. text-dedup splits at what is no letter or digit: its text has a space after
every character, so that it makes n-grams of characters too, punctuation apart.
"""

import glob
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import time

GIB = 1 << 30


class Characters:
    """datatrove's word tokenizer, giving characters."""

    def word_tokenize(self, text):
        """The characters that are no white space."""
        return list("".join(text.split()))


def encoded_hash(text):
    """datatrove 0.10.1 gives str to xxhash, which xxhash 4 refuses."""
    import xxhash

    return xxhash.xxh64_intdigest(text.encode())


def datatrove(folder, work, ngram, bands, rows, workers):
    """Its four stages with the local executor, one task a file."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import minhash
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.text import TextNormConfig

    norm = TextNormConfig(False, False, False, False, False)
    config = minhash.MinhashConfig(n_grams=ngram, num_buckets=bands, hashes_per_bucket=rows, norm_config=norm)
    signatures = minhash.MinhashDedupSignature(f"{work}/signatures", config=config)
    signatures.word_tokenizer, signatures._hash_func = Characters(), encoded_hash
    files = len(glob.glob(f"{folder}/*.jsonl"))
    stages = (
        ([JsonlReader(folder), signatures], files),
        ([minhash.MinhashDedupBuckets(f"{work}/signatures", f"{work}/buckets", config=config)], bands),
        ([minhash.MinhashDedupCluster(f"{work}/buckets", f"{work}/remove", config=config)], 1),
        (
            [
                JsonlReader(folder),
                minhash.MinhashDedupFilter(f"{work}/remove", exclusion_writer=JsonlWriter(f"{work}/removed")),
                JsonlWriter(f"{work}/kept"),
            ],
            files,
        ),
    )
    for i, (pipeline, tasks) in enumerate(stages):
        start = time.perf_counter()
        LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=workers, logging_dir=f"{work}/logs/{i}").run()
        print(f"stage {i + 1}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    removed = []
    for path in glob.glob(f"{work}/removed/**/*.jsonl.gz", recursive=True):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            removed += [json.loads(line)["id"] for line in file]
    return removed, "characters for words, normalisation off; reads JSONL, writes the kept documents (gzip)"


def text_dedup(folder, work, ngram, bands, rows, workers):
    """Its MinHash script."""
    from datasets import load_from_disk

    spaced, ids = f"{work}/spaced.jsonl", set()
    with open(spaced, "w", encoding="utf-8") as out:
        for path in sorted(glob.glob(f"{folder}/*.jsonl")):
            with open(path, encoding="utf-8") as file:
                for line in file:
                    entry = json.loads(line)
                    ids.add(entry["id"])
                    entry["text"] = " ".join("".join(entry["text"].split()))
                    out.write(json.dumps(entry, ensure_ascii=False) + "\n")
    command = [sys.executable, "-m", "text_dedup.minhash", "--path", "json", "--data_files", spaced, "--split", "train"]
    command += ["--cache_dir", f"{work}/cache", "--output", f"{work}/kept", "--column", "text", "--batch_size", "10000"]
    command += ["--ngram", str(ngram), "--b", str(bands), "--r", str(rows), "--num_perm", str(bands * rows)]
    command += ["--min_length", "0", "--num_proc", str(workers), "--hash_func", "xxh3", "--hash_bits", "64"]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stderr[-3000:], file=sys.stderr)
    done.check_returncode()
    seconds = time.perf_counter() - start
    kept = set(load_from_disk(f"{work}/kept")["id"])
    return sorted(ids - kept), f"a space after every character; {seconds:.1f} s without writing that text"


def main():
    """Run the peer that is named."""
    name, folder, work = sys.argv[1:4]
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    start = time.perf_counter()
    removed, note = {"datatrove": datatrove, "text_dedup": text_dedup}[name](folder, work, *map(int, sys.argv[4:8]))
    seconds = time.perf_counter() - start
    kinds = [resource.getrusage(kind) for kind in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    with open(f"{work}/removed.json", "w", encoding="utf-8") as file:
        json.dump(sorted(removed), file)
    value = {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(sum(u.ru_utime + u.ru_stime for u in kinds), 2),
        "peak_gib": round(max(u.ru_maxrss for u in kinds) * 1024 / GIB, 3),
        "removed": len(removed),
        "note": note,
    }
    print(json.dumps(value))


if __name__ == "__main__":
    main()
