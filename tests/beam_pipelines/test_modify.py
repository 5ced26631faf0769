"""The stage that changes text: what it does by hand, that it is idempotent, what it counts and what its samples show."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipelines import modify as stage
from beam_pipelines.config import Corpus
from beam_pipelines.modify import modify
from beam_pipelines.settings.modify import Modify
from beam_pipelines.tally import Tally
from beam_pipelines.yields import write_samples
from ja_llm.documents import Document
from ja_llm.text.personal import KINDS, find

ALL = Modify(widths="letters", form="NFKC", personal=KINDS, footer_lines=10, punctuation=True)
V1 = Modify(footer_lines=10, punctuation=True)
PIECES = [
    "雨，", "風．", "花、", "。", "1", "０", "-", "ー", "090-1234-5678", "taro@mail.jp", "123456789018", "〒100-0001", "\n", "\n利用規約\n", "前の記事 次の記事",
    "Copyright", "ｶﾞ", "゛", "Ａ", "本文です。", "東京都千代田区霞が関1-2-3", "+81-", "．03-1234-5678", " ", "か\u3099", "\u3000",
]  # fmt: skip


@given(
    st.lists(st.sampled_from(PIECES), max_size=24),
    st.sampled_from([ALL, V1, dataclasses.replace(ALL, form="NFC"), Modify(form="NFC", widths="all", personal=KINDS)]),
)
@settings(deadline=None, max_examples=300)
def test_modifying_is_idempotent(pieces, how):
    once = modify("".join(pieces), how, "ja")
    again = modify(once.text, how, "ja")
    assert (again.text, again.kinds, again.personal) == (once.text, (), {})
    assert not how.personal or find(once.text) == []


def test_without_a_binding_nothing_changes():
    text = "".join(PIECES)
    assert modify(text, Modify(), "ja").text == text


def test_each_step_is_named():
    cases = {
        "雨，風．": (V1, "雨、風。", ("punctuation",)),
        "本文です。\n会社概要 | 利用規約": (V1, "本文です。", ("footer",)),
        "ＡＢＣとｶﾅ": (ALL, "ABCとカナ", ("widths",)),
        "①か\u3099": (ALL, "1が", ("unicode",)),
        "電話は03-1234-5678。": (ALL, "電話は[電話番号]。", ("personal_phone",)),
        "本文，です．\n連絡はtaro@mail.jp\nCopyright 2024 ＡＢＣ": (
            dataclasses.replace(ALL, form="NFC"), "本文、です。\n連絡は[メールアドレス]", ("widths", "personal_email", "footer", "punctuation"),
        ),
    }  # fmt: skip
    for text, (how, wanted, kinds) in cases.items():
        done = modify(text, how, "ja")
        assert (done.text, done.kinds) == (wanted, kinds)


def test_other_languages_keep_their_footers_and_marks():
    text = "雨，風．\n利用規約"
    assert modify(text, V1, "zh").text == text
    assert modify("call 03-1234-5678", ALL, "en").text == "call [電話番号]"


def test_a_footer_that_turns_the_count_of_commas():
    text = "雨，風，雪が降る、冷たい夜。\n" + "、".join(["利用規約あ", "会社概要い", "お問い合わせう", "サイトマップえ"])
    assert modify(text, V1, "ja").text == "雨、風、雪が降る、冷たい夜。"


def test_a_replaced_stop_that_bares_a_number():
    """ "．" before digits reads as a point of a version, "。" does not."""
    done = modify("窓口は東．03-1234-5678へ．", dataclasses.replace(ALL, form="NFC"), "ja")
    assert done.text == "窓口は東。[電話番号]へ。" and done.kinds == ("punctuation", "personal_phone")


@pytest.fixture
def documents():
    texts = {
        "a": "雨，風．",
        "b": "そのままです。",
        "c": "利用規約",
        "d": "電話は03-1234-5678と090-1234-5678。",
        "e": "住所：札幌市中央区北一条西二丁目",
    }
    return [Document(id=key, text=text, url=f"http://x/{key}", lang="ja") for key, text in texts.items()]


def dropped_with(text):
    tally = Tally(5, 100, 1)
    tally.drop("bad", "key", text)
    return tally.to_json()


def test_the_stage_counts_samples_and_masks(documents, run_stages, tmp_path):
    config = Corpus(modify=Modify(personal=KINDS, footer_lines=3, punctuation=True))
    done = run_stages(documents, [stage.STAGE], config)
    assert {d.id: d.text for d in done.left} == {
        "a": "雨、風。",
        "b": "そのままです。",
        "d": "電話は[電話番号]と[電話番号]。",
        "e": "住所：[住所]",
    }
    (result,) = done.results["modify"]
    assert result["drops"] == [[2, "empty_when_modified"]]
    assert {kind: counts[0] for kind, counts in result["modified"].items()} == {
        "punctuation": 1, "personal_phone": 1, "personal_address": 1,
    }  # fmt: skip
    assert result["tables"] == {"personal_data": {"phone": 2, "address": 1}}
    came = sum(len(d.text) for d in documents)
    assert came == sum(c[1] for t in (result["kept"], result["dropped"]) for c in t.values()) + result["shrunk"][0]
    samples = {kind: entries[0][1] for kind, entries in result["modified_samples"].items()}
    assert (samples["punctuation"]["before"], samples["punctuation"]["after"]) == ("雨，風．", "雨、風。")
    assert samples["personal_phone"]["before"] == "電話は●●-●●●●-●●●●と●●●-●●●●-●●●●。"
    write_samples(tmp_path, {"extract": [dropped_with("電話は03-1234-5678。")]}, 5, ("phone",))
    assert json.loads((tmp_path / "dropped" / "bad.jsonl").read_text())["text"] == "電話は●●-●●●●-●●●●。"
    write_samples(tmp_path, {"extract": [dropped_with("電話は03-1234-5678。")]}, 5)
    assert "03-1234" in (tmp_path / "dropped" / "bad.jsonl").read_text(), "a set that keeps numbers shows them"
    told = json.dumps(result, ensure_ascii=False)
    assert "1234" not in told and "札幌" not in told, "personal data must not come out by a sample"
