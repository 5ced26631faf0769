"""Texts of our own writing and the vocabularies that the tests of this room share."""

import json

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from ja_llm import documents, manifest
from ja_llm.documents import Document, document_id
from ja_llm.vocab.expand import expand_sentencepiece
from ja_llm.vocab.expansion import Expansion
from ja_llm.vocab.hf_tokenizer import HFTokenizer
from ja_llm.vocab.sentencepiece_tokenizer import SentencePieceTokenizer
from ja_llm.vocab.train import train_sentencepiece

ENGLISH = """\
The harbour master keeps a notebook in which every boat that enters or leaves is written down with the hour and the weather.
On the first of March the wind came from the north, and nothing left the harbour until the evening of the third.
My grandmother used to say that bread which is not shared goes stale twice as fast, and she was right about most things.
A small model can be trained on a laptop; a large one needs many machines, a good network and a great deal of patience.
We measured the distance between the two towers three times and took the mean: 412.7 metres, give or take half a metre.
When the library closed at nine, the students carried their books, their laptops and their unfinished tea to the stairs.
The old bridge was built in 1873 and repaired in 1921, 1958 and 1999; the new one was opened on 14 June 2016.
Please write to the office before Friday if you want to take part in the walk; there are places for thirty people.
It rained, and it rained, and then it rained some more; by Sunday the river had reached the third step of the old mill.
"Is this the train to the coast?" she asked. "It was," said the guard, "but today it stops here, because of the snow."
Nobody knows why the clock in the station hall runs four minutes fast; travellers are grateful and do not ask.
The committee's report recommends cheaper tickets, more frequent trains and, above all, clocks that tell the same time.
Water boils at a lower temperature on a mountain, so beans take longer there and cooks become patient people.
If you open the window in winter for five minutes, the air changes but the walls stay warm; so do not leave it tilted.
"""

CODE = """\
def mean(values):
    if not values:
        raise ValueError("no values")
    return sum(values) / len(values)


class Counter:
    def __init__(self, start=0):
        self.value = start

    def add(self, amount=1):
        self.value += amount
        return self.value

for (int i = 0; i < n; i++) { total += values[i]; }
if (x == null) { return; } else { print(x.name + ": " + x.value); }
{"name": "example", "values": [1, 2, 3], "nested": {"a": true, "b": null}}
"""

JAPANESE = """\
港の管理人は、出入りする船を一隻ずつ、時刻と天気といっしょに帳面に書きとめています。
三月一日は北風が強く、三日の夕方まで、港を出る船は一隻もありませんでした。
祖母はよく、分け合わないパンは二倍の速さで固くなると言っていました。
小さな言語モデルはノートパソコンでも学習できますが、大きな言語モデルには多くの計算機が必要です。
二つの塔のあいだの距離を三回測定し、その平均を取りました。
図書館が閉まると、学生たちは本とパソコンと飲みかけのお茶を持って階段に移動しました。
古い橋は明治時代に作られ、何度も修理されました。新しい橋は去年の六月に開通しました。
参加を希望する方は、金曜日までに事務所に連絡してください。定員は三十名です。
雨が降り続き、日曜日には川の水が古い水車小屋の三段目まで届きました。
「これは海岸行きの電車ですか」と彼女は聞きました。「今日は雪のため、ここで止まります」と車掌は答えました。
駅の時計がなぜ四分進んでいるのか、だれも知りません。旅行者は感謝して、何も聞きません。
委員会の報告書は、運賃の値下げと電車の本数の増加と、同じ時刻を示す時計を勧めています。
山の上では水が低い温度で沸騰するので、豆を煮るのに時間がかかります。
冬に窓を五分だけ開けると、空気は入れかわりますが、壁は冷えません。
コンピューターのファイルを保存するときは、ファイルの名前と保存する場所を選択してください。
設定ファイルを変更したときは、プログラムを再起動する必要があります。
このコマンドを実行すると、システムの設定を表示することができます。
データベースの接続に失敗した場合は、ネットワークの設定を確認してください。
ユーザーの名前とパスワードを入力してから、ログインのボタンを押してください。
日本語の文章を学習するために、日本語の語彙をモデルに追加することができます。
語彙を追加すると、同じ文章を少ないトークンで表現することができます。
学習したモデルを評価するために、評価用の文章を学習用の文章から分けておく必要があります。
インターネットからダウンロードしたファイルは、実行する前に確認してください。
明日の天気は晴れのち曇りで、最高気温は二十度の予想です。
"""

# Words that occur in the base's text often enough to become pieces of it, as a few Japanese words are in Llama 2.
BASE_JAPANESE = "「する」と「です」。のがをにはで日本人、した、ました。\n" * 4

TRICKY = [
    "",
    " ",
    "  ",
    " leading",
    "trailing ",
    "  two  and   three  ",
    "\n",
    "\n\n\t \r\n",
    "tab\tand\u3000wide space",
    "</s>",
    "<s>hello</s> <unk> <pad> <0x0A> <0xE3><0x81>",
    "a</s>b",
    "▁literal▁mark ▁▁",
    "\u2047 unknown mark",
    "日本語とEnglishのmixed文章123です。",
    "ｶﾀｶﾅ ﾊﾝｶｸ ＡＢＣ１２３ ！？",
    "がぎぐ か\u3099き\u3099",
    "吉野家と𠮷野家、髙島屋、齋藤、﨑",
    "😀👨‍👩‍👧 🇯🇵 ✅ ok",
    "\u200b\ufeff zero\u200dwidth",
    "éàü ñ ß ǆ ﬁ Ω ∑",
    "안녕하세요 中文 Привет שלום مرحبا",
    "x" * 300,
    " " * 77 + "end",
    "ー" * 40 + "。" * 30,
    "\x00\x01\x7f",
    "for (i=0;i<10;i++) {\n\t\treturn x[i];\n}\n",
    "3.14159 1,000,000 2024-02-29T12:00:00Z",
    "\ufffd replacement",
    "するするするですですのののの",
]

HELDOUT = "評価用の文章です。" + "鰯鯖鰯鯖鰯鯖鰯鯖" * 20


@pytest.fixture(scope="session")
def document_set(tmp_path_factory):
    """English and Japanese train documents, and a held-out Japanese one."""
    root = tmp_path_factory.mktemp("documents")
    entries = []
    for lang, split, texts in (
        ("en", "train", [ENGLISH]),
        ("ja", "train", JAPANESE.split("\n\n")),
        ("ja", "heldout", [HELDOUT]),
    ):
        path = root / lang / f"{split}-00000-of-00001.tfrecord"
        path.parent.mkdir(exist_ok=True)
        with open(path, "wb") as file:
            for text in texts:
                documents.write_record(
                    file, documents.to_example(Document(id=document_id("t", "", "", text), text=text, lang=lang))
                )
        entries.append(manifest.file_entry(path, root, documents=len(texts), lang=lang, split=split))
    manifest.write(root, schema=manifest.DOCUMENTS, job="test", config={}, inputs=[], shards=entries)
    return root


@pytest.fixture(scope="session")
def english() -> str:
    return ENGLISH


@pytest.fixture(scope="session")
def japanese() -> str:
    return JAPANESE


@pytest.fixture(scope="session")
def code() -> str:
    return CODE


@pytest.fixture(scope="session")
def tricky() -> list[str]:
    return TRICKY


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> SentencePieceTokenizer:
    """A Llama-like base: English and code, and a little Japanese."""
    return train_sentencepiece([ENGLISH, CODE, BASE_JAPANESE], tmp_path_factory.mktemp("base"), vocab_size=640)


@pytest.fixture(scope="session")
def expansion(base) -> Expansion:
    # English and code stand in real Japanese pages too, and nothing may be learnt from them.
    return expand_sentencepiece(base, [JAPANESE, ENGLISH * 3, CODE * 3], new_pieces=400)


# The split of Llama 3 (its tokenizer.json).
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def train_byte_level(texts: list[str], family: str = "smollm2", vocab_size: int = 700) -> HFTokenizer:
    """SmolLM2: special tokens first, in the vocabulary; Llama 3: behind it, not in it, words looked up whole; Qwen: NFC."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=family == "llama3"))
    glue = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=family == "smollm2")
    first = (
        pre_tokenizers.Digits(individual_digits=True) if family == "smollm2" else pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, glue])
    tokenizer.decoder = decoders.ByteLevel()
    if family == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=special if family == "smollm2" else [],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if family != "smollm2":
        tokenizer.add_special_tokens(special)
        tokenizer.add_tokens([AddedToken("<tool call>", normalized=False)])
    bos = tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", bos)])
    return HFTokenizer(json.dumps(json.loads(tokenizer.to_str())), bos_id=bos, eos_id=bos)


@pytest.fixture(scope="session")
def family():
    """`train_byte_level` under a name that a module's own fixture does not hide."""
    return train_byte_level


@pytest.fixture(scope="session")
def byte_level():
    """`train_byte_level`: a byte-level BPE base in the shape of a named family."""
    return train_byte_level


@pytest.fixture(scope="session")
def base_japanese() -> str:
    return BASE_JAPANESE


def drawn_params(config, seed: int = 0):
    """Parameters of a decoder drawn with numpy: their shapes without compiling an initialiser; scales (one-dimensional, or stacked) near 1."""
    import jax
    import numpy as np

    from ja_llm.models.decoder import abstract_params

    draw = np.random.default_rng(seed)

    def fill(path, leaf):
        centre = 1.0 if jax.tree_util.keystr(path[-1:], simple=True) == "scale" else 0.0
        return draw.normal(centre, 0.1, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, abstract_params(config))


@pytest.fixture(scope="session")
def params_of():
    """`drawn_params`."""
    return drawn_params


@pytest.fixture(scope="session")
def forward():
    """(configuration, parameters, ids [B, L]) -> logits, compiled as one."""
    import jax
    import numpy as np

    from ja_llm.models.decoder import Decoder

    def run(config, params, ids):
        return np.asarray(jax.jit(lambda p, t: Decoder(config).apply({"params": p}, t, t))(params, np.asarray(ids)))

    return run
