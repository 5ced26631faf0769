"""The curve that training draws is what `eval` measures on the same documents and window, whatever the tokenizer rewrites."""

import io
import math

import jax
import pytest
import sentencepiece

from ja_llm import manifest
from ja_llm.data.cache import cache
from ja_llm.documents import Document, document_id, to_example, write_record
from ja_llm.evaluation.heldout import heldout_evaluators
from ja_llm.evaluation.run import evaluate
from ja_llm.files import atomic_write
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import init_params
from ja_llm.train.checkpoints import load_model, save_model
from ja_llm.vocab.sentencepiece_tokenizer import SentencePieceTokenizer

LENGTH = 48
# NFKC gives other characters, and other numbers of bytes, for most of these.
TEXTS = [f"{n} ＡＢＣ①㍿ｶﾞｷﾞ、株式会社の港です。\n　㌔と２００ｍ。" * (1 + n % 3) for n in range(7)]


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    root = tmp_path_factory.mktemp("curve") / "documents"
    path = root / "ja/heldout-00000-of-00001.tfrecord"
    with atomic_write(path) as file:
        for text in TEXTS:
            write_record(file, to_example(Document(id=document_id("t", "", "", text), text=text, lang="ja")))
    entry = manifest.file_entry(path, root, documents=len(TEXTS), lang="ja", split="heldout")
    manifest.write(root, schema=manifest.DOCUMENTS, job="test", config={}, inputs=[], shards=[entry])
    return root


@pytest.mark.parametrize("rule", ["identity", "nfkc"])
def test_the_curve_equals_eval(documents, tmp_path, rule):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 4),
        model_writer=model,
        vocab_size=300,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name=rule,
        num_threads=1,
        minloglevel=2,
    )
    tokenizer = SentencePieceTokenizer(model.getvalue())
    back = [tokenizer.decode(tokenizer.encode(text)) for text in TEXTS]
    changed = [len(a.encode()) != len(b.encode()) for a, b in zip(back, TEXTS, strict=True)]
    assert all(changed) if rule == "nfkc" else True
    config = DecoderConfig(tokenizer.vocab_size, 16, 1, 2, 1, 8, 24, 64)
    params = jax.tree.map(lambda a: a * 3, init_params(config, jax.random.key(0)))
    save_model(tmp_path / "model", config=config, params=params, tokenizer=tokenizer, ledger={"job": "test"})
    cache("web_ja", tokenizer, documents, tmp_path / "cache", splits=("heldout",))
    task = evaluate(tmp_path / "model", "bits_per_byte_ja", root=documents, out_dir=tmp_path / "eval", length=LENGTH)["tasks"]
    measured = task["bits_per_byte_ja"]
    assert measured["bytes"] == sum(len(text.encode()) for text in TEXTS)
    assert max(len(tokenizer.document_ids(text)) for text in TEXTS) > LENGTH + 1, "one window would prove little"
    loaded = load_model(tmp_path / "model")
    curve = heldout_evaluators(tmp_path / "cache", loaded.config, length=LENGTH, documents=100, batch_size=3)["web_ja"]
    assert curve(loaded.params)["bits_per_byte"] == pytest.approx(measured["bits_per_byte"], rel=1e-6)
    assert math.isfinite(measured["bits_per_byte"])
