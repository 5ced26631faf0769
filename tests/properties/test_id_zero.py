"""Id 0 is a number like any other: renumbering the ids of a vocabulary changes nothing from the cache to the evaluation.

Two byte tokenizers differ by a permutation of their ids, so that 0 is a letter, a byte inside a character, BOS or EOS; the model's
table is permuted alike. Caching (by seqio), packing, loss, gradient and bits per byte must be those of the unpermuted ones.
"""

import hashlib

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ja_llm import manifest
from ja_llm.data import registry
from ja_llm.data.batches import BatchSource
from ja_llm.data.cache import cache
from ja_llm.documents import Document, document_id, to_example, write_record
from ja_llm.errors import JaLlmError
from ja_llm.evaluation.bits_per_byte import document_scores
from ja_llm.evaluation.scoring import Scorer
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, init_params
from ja_llm.train.checkpoints import LoadedModel
from ja_llm.train.step import loss_sums
from ja_llm.vocab.base import Tokenizer

SIZE, LENGTH, BATCH = 258, 24, 4
TEXTS = [
    "",
    "\x00\x00",
    "e",
    "ee" * 30,
    "the sea, eels, and the bees " * 3,
    "ああああ" * 8,
    "かな漢字とeel\n" * 4,
    "\ufffd\x00あ\x00",
]


class Bytes(Tokenizer):
    """UTF-8 bytes, BOS 256 and EOS 257, renumbered."""

    vocab_size, unk_id = SIZE, None
    bos_id = eos_id = fingerprint = None  # each instance has its own

    def __init__(self, numbers):
        self.numbers = np.asarray(numbers)
        self.bos_id, self.eos_id = int(self.numbers[256]), int(self.numbers[257])
        self.fingerprint = hashlib.sha256(self.numbers.tobytes()).hexdigest()

    def encode(self, text):
        return self.numbers[list(text.encode("utf-8"))].tolist() if text else []

    def decode(self, ids):
        raw = np.argsort(self.numbers)[list(ids)]
        return bytes(raw[raw < 256].tolist()).decode("utf-8", "replace")

    def encode_with_offsets(self, text):
        return self.encode(text), [(i, i + 1) for i, c in enumerate(text) for _ in c.encode("utf-8")]

    def id_to_piece(self, index):
        return f"<{int(np.argsort(self.numbers)[index])}>"

    def _save_model(self, directory):
        (directory / "numbers.txt").write_text(str(self.numbers.tolist()))

    def export_hf(self, directory):
        raise NotImplementedError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    path = folder / "en" / "train-00000-of-00001.tfrecord"
    path.parent.mkdir()
    documents = sorted((Document(document_id("t", "", "", text), text, "t", lang="en") for text in TEXTS), key=lambda d: d.id)
    with open(path, "wb") as file:
        for document in documents:
            write_record(file, to_example(document))
    entry = manifest.file_entry(path, folder, documents=len(documents), characters=1, lang="en", split="train")
    manifest.write(folder, schema=manifest.DOCUMENTS, job="test", config={}, inputs=[], shards=[entry])
    return folder


CONFIG = DecoderConfig(
    vocab_size=SIZE,
    embed_dim=8,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_dim=8,
    max_length=64,
    tie_embeddings=True,
)


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(lambda x: np.asarray(x) * 3, init_params(CONFIG, jax.random.PRNGKey(0)))


@jax.jit
def loss_and_gradient(params, batch):
    def loss(p):
        return loss_sums(Decoder(CONFIG), p, batch, 1e-3)

    return jax.value_and_grad(loss, has_aux=True)(params)


def permuted(params, numbers):
    table = np.empty_like(params["token_embedder"]["embedding"])
    table[numbers] = params["token_embedder"]["embedding"]
    return {**params, "token_embedder": {"embedding": table}}


def run(tokenizer, params, root, folder):
    """Batches of an epoch, losses, gradients of the table, and the scores of the documents."""
    cache("web_en", tokenizer, root, folder, splits=("train",))
    source = BatchSource(folder, LENGTH, BATCH, seed=1)
    batches = [source[n] for n in range(-(-source.statistics()["web_en"]["rows"] // BATCH))]
    results = [loss_and_gradient(params, batch) for batch in batches]
    model = LoadedModel(CONFIG, params, tokenizer, 0, folder, {})
    return batches, results, document_scores(Scorer(model, batch_size=4, length=64), TEXTS)


@pytest.fixture(scope="module")
def plain(root, params, tmp_path_factory):
    numbers = np.roll(np.arange(SIZE), 1)  # id 0 is the byte 1, which stands in no text: what the others are compared with
    batches, results, scores = run(Bytes(numbers), permuted(params, numbers), root, tmp_path_factory.mktemp("plain") / "c")
    assert not any((b["decoder_target_tokens"][b["decoder_loss_weights"] > 0] == 0).any() for b in batches)
    return numbers, batches, results, scores


@given(zero=st.sampled_from([ord("e"), 0, 0xE3, 0x81, 256, 257]), seed=st.integers(0, 1000))
@settings(max_examples=6, deadline=None)
def test_renumbering_changes_nothing_from_cache_to_evaluation(root, params, plain, tmp_path_factory, zero, seed):
    others = np.delete(np.arange(SIZE), zero)
    numbers = np.empty(SIZE, np.int64)
    numbers[[zero, *np.random.default_rng(seed).permutation(others)]] = np.arange(SIZE)
    reference, batches, results, scores = plain
    rename = np.empty(SIZE, np.int64)
    rename[reference] = numbers
    mine = run(Bytes(numbers), permuted(params, numbers), root, tmp_path_factory.mktemp("p") / "c")
    zeros = 0
    for old, new in zip(batches, mine[0], strict=True):
        real = old["decoder_segment_ids"] > 0
        for name in ("decoder_loss_weights", "decoder_segment_ids", "decoder_positions"):
            np.testing.assert_array_equal(old[name], new[name])
        for name in ("decoder_input_tokens", "decoder_target_tokens"):
            np.testing.assert_array_equal(rename[old[name][real]], new[name][real])
        zeros += int((new["decoder_target_tokens"][real] == 0).sum() + (new["decoder_input_tokens"][real] == 0).sum())
    assert zeros > 4
    for ((loss, sums), gradient), ((my_loss, my_sums), my_gradient) in zip(results, mine[1], strict=True):
        np.testing.assert_allclose(my_loss, loss, rtol=1e-5)
        assert my_sums["weight_sum"] == sums["weight_sum"]
        old, new = (g["token_embedder"]["embedding"] for g in (gradient, my_gradient))
        np.testing.assert_allclose(new[numbers], old[reference], rtol=1e-4, atol=1e-5 * np.abs(old).max())
    for old, new in zip(scores, mine[2], strict=True):
        assert old["tokens"] == new["tokens"]
        np.testing.assert_allclose(new["bits"], old["bits"], rtol=1e-5)


def test_seqio_is_refused_where_it_would_lose_id_0_and_served_where_not(root):
    """What is refused is what seqio does: asked all the same, its converter gives a real 0 no weight."""
    seqio = registry.import_seqio()

    def weights_of_zeros(tokenizer):
        name = registry.bind("web_en", tokenizer, root, splits=("train",)).name
        converter = seqio.LMFeatureConverter(pack=False)
        rows = list(seqio.get_dataset(name, {"targets": 200}, shuffle=False, feature_converter=converter).as_numpy_iterator())
        assert len(rows) == len(TEXTS)
        lengths = [len(tokenizer.document_ids(text)) for text in TEXTS]
        return sum(lengths) - sum(int(row["decoder_loss_weights"].sum()) for row in rows)

    wrong = Bytes(np.roll(np.arange(SIZE), ord("e")))
    assert wrong.encode("e") == [0]
    with pytest.raises(JaLlmError, match=r"take id 0 for padding, but in this vocabulary it is the token '<101>'.*ja-llm cache"):
        weights_of_zeros(wrong)
    numbers = wrong.numbers.copy()
    numbers[[1, 2]] = numbers[[2, 1]]  # another vocabulary, so that seqio gets another task
    silent = type("Silent", (Bytes,), {"zero_is_real": False})
    assert weights_of_zeros(silent(numbers)) > 50  # this is what would be lost
    numbers = np.roll(np.arange(SIZE), 1)
    unused = silent(np.append(numbers[:-2], numbers[:-3:-1]))  # BOS and EOS swapped: `plain` has a task of the unswapped ones
    assert unused.encode("\x01") == [0] and weights_of_zeros(unused) == 0


def test_whether_0_is_real_is_read_from_the_model(tmp_path):
    from ja_llm.vocab.sentencepiece_tokenizer import BYTE, NORMAL, SentencePieceTokenizer
    from ja_llm.vocab.train import train_sentencepiece
    from ja_llm.vocab.train_byte_level import train_byte_level

    text = ["a few words of text, and some more of them " * 3]
    llama = train_sentencepiece(text, tmp_path / "a", vocab_size=290)
    assert not llama.zero_is_real  # <unk>, never used beside byte pieces
    proto = llama.proto
    proto.trainer_spec.byte_fallback = False
    for piece in proto.pieces:
        piece.type = NORMAL if piece.type == BYTE else piece.type
    assert SentencePieceTokenizer(proto.SerializeToString()).zero_is_real  # <unk> stands for real text
    own = train_byte_level(text, tmp_path / "b", vocab_size=300)
    assert not own.zero_is_real  # a special token of its own
    value = own.model_json
    assert own.with_model(value, bos_id=0).zero_is_real  # SmolLM2's base: BOS
    assert own.with_model(
        {**value, "added_tokens": value["added_tokens"][1:]}
    ).zero_is_real  # an ordinary piece, as Llama 3's "!"
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "ab": 5}
    special = [
        {**token, "id": i, "content": content}
        for i, content, token in zip(range(3), list(words)[:3], value["added_tokens"], strict=True)
    ]
    bpe = {"type": "BPE", "unk_token": "<unk>", "vocab": words, "merges": [["a", "b"]]}
    unknown = own.with_model({**value, "model": bpe, "added_tokens": special, "pre_tokenizer": None, "decoder": None})
    assert unknown.document_ids("abzab") == [1, 5, 0, 5, 2] and unknown.zero_is_real  # a special token, and the unknown piece
