"""One text, one row of ids: from the tokenizer, inside tf.data, and on a Beam worker."""

import pytest

from ja_llm.vocab.base import load_tokenizer
from ja_llm.vocab.train import train_sentencepiece
from ja_llm.vocab.train_byte_level import train_byte_level
from ja_llm.vocab.train_joint import Part, train_joint

JA = (
    "港の管理人は、出入りする船を一隻ずつ、時刻と天気といっしょに帳面に書きとめています。\n小さな言語モデルでも学習できます。" * 4
)
EN = "The harbour master keeps a notebook: 412.7 metres, 3 < 4.\n\tfor (i = 0; i < n; ++i) { total += x[i]; }\n" * 4
TEXTS = [JA, EN, "", " ", "\n\n", "a\x00b\x00", "</s> <s> <0x0A>", "龘😀が", " 両端 ", "日本語とEnglishのmixed文章123。"]


@pytest.fixture(scope="module", params=["sentencepiece_bpe", "sentencepiece_joint", "byte_level", "gpt2"])
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("v")
    if request.param == "sentencepiece_bpe":
        return train_sentencepiece([JA, EN], folder, vocab_size=450)
    if request.param == "sentencepiece_joint":
        return train_joint([Part("ja", [JA], 120, 8, True, "word"), Part("en", [EN], 110)], folder)
    own = train_byte_level([JA, EN], folder, vocab_size=450, special_tokens=("<|endoftext|>",))
    return own if request.param == "byte_level" else own.with_model(own.model_json, bos_id=3, eos_id=3)


def test_tf_data_and_beam_give_what_the_tokenizer_gives(tokenizer, tmp_path):
    import apache_beam as beam
    import tensorflow as tf
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.testing.util import assert_that, equal_to

    from ja_llm.data.seqio_vocabulary import SeqioVocabulary

    wanted = [tokenizer.encode(text) for text in TEXTS]
    assert tokenizer.encode_batch(TEXTS) == wanted
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).encode_batch(TEXTS) == wanted
    vocabulary = SeqioVocabulary(tokenizer)
    texts = tf.data.Dataset.from_tensor_slices([text.encode() for text in TEXTS])
    assert [row.tolist() for row in texts.map(vocabulary.encode_tf).as_numpy_iterator()] == wanted
    assert [ids for rows in texts.batch(4).map(vocabulary.encode_tf) for ids in rows.to_list()] == wanted
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        found = pipeline | beam.Create(TEXTS) | beam.Map(lambda text, tokenizer: (text, tokenizer.encode(text)), tokenizer)
        assert_that(found, equal_to(list(zip(TEXTS, wanted, strict=True))))


def test_a_whole_document_comes_back_through_seqio_where_bos_is_eos_too(tokenizer):
    """seqio cuts at the first EOS, which in GPT-2's kind of document is the first token."""
    import tensorflow as tf

    from ja_llm.data.seqio_vocabulary import SeqioVocabulary

    vocabulary = SeqioVocabulary(tokenizer)
    documents = [tokenizer.document_ids(text) for text in TEXTS]
    for text, ids in zip(TEXTS, documents, strict=True):
        assert vocabulary.decode(ids) == text == vocabulary.decode(ids[1:])
        assert vocabulary.decode(tf.constant([*ids, *documents[0]])) == text
        assert vocabulary.decode_tf(tf.constant(ids)).numpy().decode() == text
    longest = max(map(len, documents))
    padded = [ids + [tokenizer.eos_id] * (longest - len(ids)) for ids in documents]
    assert [text.decode() for text in vocabulary.decode_tf(tf.constant(padded)).numpy()] == TEXTS
