"""Small caches without TensorFlow, and a byte tokenizer whose id 0 is a real token."""

import hashlib
import random

import pytest

from ja_llm import manifest
from ja_llm.data import cache as cache_module
from ja_llm.documents import Document, document_id, to_example, write_record
from ja_llm.vocab.base import Tokenizer

JA = "かな漢字とカタカナがまざった文章です。世界のどこかで、今日も雨が降っています。"
EN = "Every evening the keeper lit the lamp, and the ships came home by its light. "


class ByteTokenizer(Tokenizer):
    """UTF-8 bytes, moved so that 0xE3, the first byte of every kana, is id 0; BOS 256, EOS 257."""

    vocab_size, bos_id, eos_id, unk_id = 258, 256, 257, None
    fingerprint = hashlib.sha256(b"bytes, 0xE3 is 0").hexdigest()

    def encode(self, text):
        return [(b - 0xE3) % 256 for b in text.encode("utf-8")]

    def decode(self, ids):
        return bytes((i + 0xE3) % 256 for i in ids if i < 256).decode("utf-8", "replace")

    def encode_with_offsets(self, text):
        offsets = [(i, i + 1) for i, c in enumerate(text) for _ in c.encode("utf-8")]
        return self.encode(text), offsets

    def id_to_piece(self, index):
        return f"<{index}>"

    def _save_model(self, directory):
        (directory / "bytes.txt").write_text("0xE3 is 0")

    def export_hf(self, directory):
        raise NotImplementedError


def make_documents(lang, count, seed=0, shortest=1, longest=90):
    """`count` documents of random length, cut out of our own sentences."""
    rng = random.Random(f"{lang}{seed}")
    text = (JA if lang == "ja" else EN) * 20
    documents = []
    for i in range(count):
        start = rng.randrange(200)
        body = f"{i}: {text[start : start + rng.randint(shortest, longest)]}"
        url = f"https://example.org/{lang}/{seed}/{i}"
        documents.append(Document(document_id("test", url, "2026-01-01", body), body, "test", url, lang, "2026-01-01", "CC0-1.0"))
    return documents


@pytest.fixture(scope="session")
def byte_tokenizer():
    return ByteTokenizer()


@pytest.fixture(scope="session")
def documents():
    return make_documents


@pytest.fixture(scope="session")
def make_cache(byte_tokenizer):
    """make_cache(folder, {task: (rate, documents)}) writes what `cache` would, without seqio; returns the folder."""

    def make(folder, members, split="train", seed=0):
        folder.mkdir(parents=True, exist_ok=True)
        cache_module._save_vocabulary(byte_tokenizer, folder)
        entries, rates = [], {task: rate for task, (rate, _) in members.items()}
        for task, (rate, docs) in members.items():
            rows = (_row(byte_tokenizer, d) for d in docs)
            config = {"task": task, "split": split, "seed": seed, "vocabulary": byte_tokenizer.fingerprint}
            value = cache_module._write_documents(folder / task / split, rows, config, ["0" * 64])
            part = {"path": f"{task}/{split}", "fingerprint": manifest.fingerprint(value), **value["totals"]}
            entries.append({"task": task, "rate": rate, "splits": {split: part}})
        request = {"name": "test", "rates": rates, "seed": seed, "splits": [split], "vocabulary": byte_tokenizer.fingerprint}
        cache_module._write_mixture(folder, request, entries, ["0" * 64])
        return folder

    return make


def _row(tokenizer, document):
    import numpy as np

    return document.id, np.array(tokenizer.document_ids(document.text), np.int32), document.text


@pytest.fixture(scope="session")
def write_document_set():
    """write_document_set(root, {(lang, split): documents}) writes TFRecords in two shards a split, and the manifest."""

    def write(root, parts):
        shards = []
        for (lang, split), docs in parts.items():
            for number in range(2):
                path = root / lang / f"{split}-{number:05d}-of-00002.tfrecord"
                path.parent.mkdir(parents=True, exist_ok=True)
                chosen = sorted(docs, key=lambda d: d.id)[number::2]
                with open(path, "wb") as file:
                    for document in chosen:
                        write_record(file, to_example(document))
                characters = sum(len(d.text) for d in chosen)
                shards.append(
                    manifest.file_entry(path, root, documents=len(chosen), characters=characters, lang=lang, split=split)
                )
        manifest.write(root, schema=manifest.DOCUMENTS, job="test", config={}, inputs=[], shards=shards)
        return root

    return write
