"""Byte-level BPE: old text keeps its ids, every piece is reached, characters are never left half-made, added tokens stay."""

import json
import random
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from ja_llm.errors import JaLlmError
from ja_llm.vocab.base import load_tokenizer
from ja_llm.vocab.byte_level import TOUCHED, ByteLevelModel, only_japanese, parts, to_bytes, to_characters
from ja_llm.vocab.certify import certify
from ja_llm.vocab.expand_byte_level import dead_byte_pieces, expand_byte_level, learn
from ja_llm.vocab.hf_tokenizer import HFTokenizer
from ja_llm.vocab.initialise import expand_params
from ja_llm.vocab.kinds import kind_of

FAMILIES = ("smollm2", "llama3", "qwen")


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, byte_level, english, code, japanese, base_japanese):
    base = byte_level([english, code, base_japanese], request.param)
    # English and code stand in real Japanese pages too, and nothing may be learnt from them.
    return base, expand_byte_level(base, [japanese, english * 3, code * 3], new_pieces=240)


def surfaces(expansion) -> list[bytes]:
    return [to_bytes(piece) for piece in expansion.pieces]


def test_bytes_are_written_as_the_library_writes_them():
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in ("".join(map(chr, range(0x800))), "日本語😀\u3040"):
        written = cut.pre_tokenize_str(text)[0][0]
        assert to_characters(text.encode()) == written
        assert to_bytes(written) == text.encode()
    assert len({to_characters(bytes([b])) for b in range(256)}) == 256
    assert to_bytes("<tool call>") is None


def test_korean_and_western_punctuation_are_not_japanese():
    for text in ("한국어", "ᄀ", "\ua000", "\ue000", "ﾡ", "“”", "—", "䷀"):
        assert not TOUCHED.search(text), text
    for text in ("\uf900", "\ufaff", "々", "〆", "ゟ", "ㇿ", "ﾟ", "𠮷", "！"):
        assert TOUCHED.search(text), text


@given(text=st.text(max_size=6), data=st.data())
@settings(max_examples=300, deadline=None)
def test_parts_cut_any_stretch_of_utf8_at_its_characters(text, data):
    whole = text.encode()
    a = data.draw(st.integers(0, len(whole)))
    b = data.draw(st.integers(a, len(whole)))
    cut = parts(whole[a:b])
    starts = {len(text[:i].encode()) for i in range(len(text) + 1)}
    inside = [p for p in range(a, b + 1) if p in starts]
    if inside:
        assert cut.text == whole[inside[0] : inside[-1]].decode()
        assert cut.head == whole[a : inside[0]] and cut.tail == whole[inside[-1] : b]
    else:
        assert cut is None or cut.text == ""


def test_only_japanese_is_what_no_other_text_can_hold():
    for piece in ("日本", " の", "。", "ー", "𠮷"):
        assert only_japanese(piece.encode()), piece
    for data in (b"\xe6\x97", b"\xe3\x81", "ル".encode() + b"\xe3\x83", b" \xe6\x97"):
        assert only_japanese(data), data
    for data in ("日a".encode(), b" ", b"", b"\xe3", b"\xe2\x80", b"\x97\xa5", "  の".encode(), b"\xe3\x87", "한".encode()[:2]):
        assert not only_japanese(data), data


def test_ids_of_old_text_stay_and_so_do_added_tokens(pair, english, code, tricky):
    base, expansion = pair
    new = expansion.tokenizer
    assert new.vocab_size == base.vocab_size + len(expansion.pieces) and len(expansion.pieces) > 150
    for text in [english, code, *tricky, "<|im_start|>user <tool call> <|endoftext|>", *english.split(" ")]:
        if not TOUCHED.search(text):
            assert new.encode(text) == base.encode(text), text
    for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool call>"):
        assert new._tokenizer.token_to_id(name) == base._tokenizer.token_to_id(name)
    assert new.model_json["added_tokens"] == base.model_json["added_tokens"]
    assert [new.id_to_piece(i) for i in range(base.vocab_size)] == [base.id_to_piece(i) for i in range(base.vocab_size)]


@given(text=st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_ids_of_any_text_without_japanese_stay(pair, text):
    assert kind_of(pair[0]).touched(text) or pair[1].tokenizer.encode(text) == pair[0].encode(text)


def test_a_character_that_the_normaliser_makes_japanese_counts_as_japanese(byte_level, english, code):
    """NFC has two such outside the Japanese blocks, the brackets U+2329 and U+232A; all of Unicode is asked."""
    base = byte_level([english, code], "qwen")
    kind = kind_of(base)
    made = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and TOUCHED.search(unicodedata.normalize("NFC", chr(c)))]
    assert {"\u2329", "\u232a"} <= set(made) and all(kind.touched(f"a{c}b") for c in made)
    assert not kind.touched("a\u2328 \u232b") and not kind_of(byte_level([english, code], "llama3")).touched("\u2329")
    grown = kind.expand(["これは\u3008かぎ\u3009です。" * 30], 20).tokenizer
    assert grown.encode("\u2329") != base.encode("\u2329")  # so it is no text that must stay as it is


def test_every_piece_is_reached_in_running_text_or_is_a_step(pair, japanese):
    base, expansion = pair
    new = expansion.tokenizer
    assert dead_byte_pieces(new, base.vocab_size) == [] == expansion.unreachable
    for i, data in enumerate(surfaces(expansion)):
        cut = parts(data)
        assert cut is not None and not cut.head  # no piece begins inside a character
        if cut.whole:
            found = new.encode("x\n" + cut.text)
            assert base.vocab_size + i in found or base.vocab_size + i in new.encode(cut.text), cut.text
    used = Counter(new.encode(japanese))
    assert sum(i >= base.vocab_size for i in used) > 100


def test_pieces_stay_inside_runs_but_where_the_base_joins_characters(pair):
    from ja_llm.vocab.japanese import Runs

    base, expansion = pair
    model, word = ByteLevelModel(base), Runs("word")
    for data in surfaces(expansion):
        cut = parts(data)
        crossing = any((p := parts(model.bytes_of[i])) and p.head and (p.text or p.tail) for i in model.spell(data))
        assert crossing or not cut.whole or word.one(cut.text.removeprefix(" ")), cut.text


def test_sources_are_the_bases_own_spelling(pair):
    base, expansion = pair
    for data, ids in zip(surfaces(expansion), expansion.sources, strict=True):
        assert b"".join(ByteLevelModel(base).bytes_of[i] for i in ids) == data
        assert len(ids) > 1
        if parts(data).whole and not base.model_json["model"]["ignore_merges"]:
            assert base.encode(data.decode()) == ids


def test_texts_come_back_and_japanese_is_shorter(pair, japanese, tricky):
    import unicodedata

    base, expansion = pair
    new = expansion.tokenizer
    for text in [japanese, *tricky]:
        wanted = unicodedata.normalize("NFC", text) if base.model_json["normalizer"] else text
        assert new.decode(new.encode(text)) == wanted
    assert len(new.encode(japanese)) < 0.6 * len(base.encode(japanese))


def test_transformers_gives_the_same_ids(pair, japanese, english, tmp_path):
    from transformers import AutoTokenizer

    new = pair[1].tokenizer
    new.export_hf(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text in (japanese, english, " 日本語のmixed text です。"):
        assert theirs(text, add_special_tokens=False)["input_ids"] == new.encode(text)
    assert theirs.convert_tokens_to_ids("<|im_end|>") == new._tokenizer.token_to_id("<|im_end|>")
    assert load_tokenizer(tmp_path).fingerprint == new.fingerprint


def test_the_result_does_not_depend_on_order_and_a_shorter_list_is_its_beginning(pair, japanese):
    base, expansion = pair
    again = expand_byte_level(base, reversed(japanese.split("\n")), new_pieces=240)
    assert again.tokenizer.fingerprint == expansion.tokenizer.fingerprint
    short = expand_byte_level(base, [japanese], new_pieces=90)
    assert short.pieces == expansion.pieces[:90]
    assert len(expand_byte_level(base, [japanese], new_pieces=90, align=64).pieces) == 90 - (base.vocab_size + 90) % 64


def encode(word: tuple[bytes, ...], merges: list[tuple[bytes, bytes]]) -> tuple[bytes, ...]:
    """BPE as the encoder does it: the best-ranked pair, the leftmost first, until none is left."""
    word = list(word)
    while True:
        found = [(merges.index(pair), i) for i, pair in enumerate(zip(word, word[1:], strict=False)) if pair in merges]
        if not found:
            return tuple(word)
        i = min(found)[1]
        word[i : i + 2] = [word[i] + word[i + 1]]


def brute_force(words: dict, old: list[tuple[bytes, bytes]], size: int) -> list[tuple[bytes, bytes]]:
    """BPE by encoding and counting everything anew for each merge."""
    merges = list(old)
    for _ in range(size):
        counts = Counter()
        for word, count in words.items():
            spelt = encode(word, merges)
            for pair in zip(spelt, spelt[1:], strict=False):
                counts[pair] += count
        if not counts:
            break
        merges.append(min(counts, key=lambda p: (-counts[p], len(p[0] + p[1]), p[0] + p[1], p[0])))
    return merges[len(old) :]


def test_merges_are_those_of_encoding_and_counting_everything_anew():
    """Also where the base has a piece that its own merges never make, and a merge that goes on from it."""
    draw = random.Random(0)
    names, old = [b"a", b"b", b"c", b"ab", b"abc"], [(b"ab", b"c")]
    again = 0
    for _ in range(60):
        words = Counter({tuple(draw.choices(range(3), k=draw.randint(2, 12))): draw.randint(1, 5) for _ in range(8)})
        pieces, merges = learn(names, words, 30, 1, lambda a, b: True, old)
        assert merges == brute_force({tuple(names[i] for i in w): c for w, c in words.items()}, old, len(merges))
        assert len(pieces) == len(set(pieces)) and not set(pieces) & set(names)
        again += len(merges) > len(pieces)
    assert again > 10


def changed(base: HFTokenizer, change) -> HFTokenizer:
    value = json.loads(base.model_text)
    change(value)
    return HFTokenizer(json.dumps(value), base.bos_id, base.eos_id)


def test_what_can_not_be_expanded_is_refused(byte_level, english, code, japanese):
    base = byte_level([english, code], "smollm2")
    with pytest.raises(JaLlmError, match="no Japanese"):
        expand_byte_level(base, [english], new_pieces=50)
    with pytest.raises(JaLlmError, match="no Japanese"):
        expand_byte_level(base, [], new_pieces=50)
    cases = {
        "normaliser Lowercase loses text": lambda v: v.update(normalizer={"type": "Lowercase"}),
        "normaliser NFKC loses text": lambda v: v.update(
            normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]}
        ),
        "no piece for the byte 0xE3, which Japanese": lambda v: v["model"]["vocab"].pop(to_characters(b"\xe3")),
        "dropout": lambda v: v["model"].update(dropout=0.1),
        "not over bytes": lambda v: v.update(pre_tokenizer={"type": "Whitespace"}),
        "both have the id 5": lambda v: v["model"]["vocab"].update({"zzz": 5}),
        "an empty piece": lambda v: v["model"]["vocab"].update({"": 900}),
    }
    for reason, change in cases.items():
        with pytest.raises(JaLlmError, match=reason):
            expand_byte_level(changed(base, change), [japanese], new_pieces=50)
    with pytest.raises(JaLlmError, match="newer format"):
        changed(base, lambda v: v.update(version="9.0"))


def test_a_base_that_lacks_bytes_as_smollm2s_does_is_expanded_and_the_loss_is_named(byte_level, english, code, japanese):
    """Its real vocabulary has no piece for 21 bytes, the control character 0x04 among them, and drops them from a text."""
    base = byte_level([english, code], "smollm2")
    gone = to_characters(b"\x04")
    small = changed(base, lambda v: v["model"]["vocab"].pop(gone))
    assert small.decode(small.encode("a\x04b")) == "ab" and base.decode(base.encode("a\x04b")) == "a\x04b"
    grown = expand_byte_level(small, [japanese], new_pieces=60)
    assert len(grown.pieces) == 60 and not dead_byte_pieces(grown.tokenizer, grown.base_size)
    assert any("0x04 and drops them" in clause for clause in kind_of(small).losses()) and kind_of(base).losses() == []
    rows = {"token_embedder": {"embedding": np.zeros((small.vocab_size, 2), np.float32)}}
    certificate = certify(small, grown.tokenizer, grown.sources, rows, expand_params(rows, grown.sources), {"ja": [japanese]})
    assert certificate["passed"] and certificate["base_loses"] == kind_of(small).losses()
    assert certificate["checks"]["round_trip"]["hard"]["control characters"] == "as with the base"


def test_a_piece_that_an_added_token_takes_is_left_out(byte_level, english, code, japanese):
    def add(value):
        token = dict(value["added_tokens"][0], id=value["added_tokens"][-1]["id"] + 1000, content="する", special=False)
        value["model"]["vocab"]["する"] = token["id"] = max(value["model"]["vocab"].values()) + 1
        value["added_tokens"].append(token)

    base = changed(byte_level([english, code], "smollm2"), add)
    expansion = expand_byte_level(base, [japanese], new_pieces=300)
    assert to_characters("する".encode()) not in expansion.pieces
    assert expansion.unreachable == ["する"] or "する" in expansion.unreachable
    assert base.vocab_size - 1 in expansion.tokenizer.encode("学習する")
