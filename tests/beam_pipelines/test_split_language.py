"""Held-out documents: the side is a function of the id, containment is what brute force says. Languages by content."""

import dataclasses

import pytest

from beam_pipelines.config import LanguageId, Split
from beam_pipelines.language import garbled, identify
from beam_pipelines.split import HELDOUT, group, hashes, notices, side
from ja_llm.documents import Document, document_id, meta_json
from ja_llm.text.normalise import squeeze


def documents(n=4000):
    for i in range(n):
        url = f"http://site{i % 40}.example/{i}"
        yield Document(
            document_id("s", url, "", str(i)), "text", url=url, meta=meta_json(package=f"p{i % 25}") if i % 2 else "{}"
        )


def test_share_and_seed():
    settings = Split(heldout_share=0.1, split_by="document")
    held = {d.id for d in documents() if side(d, settings) == HELDOUT}
    assert 0.08 < len(held) / 4000 < 0.12
    other = {d.id for d in documents() if side(d, dataclasses.replace(settings, seed=2)) == HELDOUT}
    assert len(held & other) < 0.3 * len(held)
    more = {d.id for d in documents() if side(d, dataclasses.replace(settings, heldout_share=0.2)) == HELDOUT}
    assert held < more, "a larger share must keep what is held out already"
    assert not any(side(d, dataclasses.replace(settings, heldout_share=0.0)) == HELDOUT for d in documents())


def test_groups_stay_on_one_side():
    settings = Split(heldout_share=0.3)
    sides = {}
    for d in documents():
        sides.setdefault(group(d), set()).add(side(d, settings))
    assert all(len(s) == 1 for s in sides.values()) and len({frozenset(s) for s in sides.values()}) == 2
    assert "p1" in sides and "site0.example" in sides


def test_documents_without_site_or_package_are_groups_by_themselves():
    """Where they were one group by their source, a set of them stood on one side, whichever the name hashed to."""
    settings = Split(heldout_share=0.1)
    sources = ("mine72", "wiki", "")
    for source in sources:
        found = [Document(document_id(source, "", "", str(i)), "text", source=source) for i in range(2000)]
        assert 0.07 < sum(side(d, settings) == HELDOUT for d in found) / 2000 < 0.13
    assert len({group(Document(f"{i:032x}", "text", url="http://[broken", source="s")) for i in range(9)}) == 9


def test_a_package_may_be_a_number():
    one, same = (Document(id, "text", url="http://a.example/", meta='{"package": 0}') for id in ("1", "2"))
    assert group(one) == group(same) == "0" != group(Document("3", "text", meta='{"package": null}'))
    assert side(one, Split(heldout_share=0.5)) == side(same, Split(heldout_share=0.5))


def test_an_empty_side_is_told():
    totals = {
        "documents": 9,
        "ja": {"heldout": {"documents": 4, "characters": 1}},
        "en": {"train": {"documents": 3, "characters": 1}, "heldout": {"documents": 1, "characters": 1}},
        "code": {"train": {"documents": 1, "characters": 1}},
    }
    code, ja = notices(totals, Split())
    assert "no document of language code is held out (1 on the other side)" in code and "'document'" in code
    assert "no document of language ja is left to train on (4 on the other side)" in ja
    assert "heldout_share = 0.01" in notices(totals, Split(split_by="document"))[0]
    assert notices(totals, Split(heldout_share=0.0)) == []


def test_containment_is_that_of_brute_force(web):
    a, b = web.ja_text(1), web.ja_text(1)[:200] + web.ja_text(2)

    def grams(text):
        dense = squeeze(text)
        return {dense[i : i + 13] for i in range(len(dense) - 12)}

    ha, hb = set(hashes(a, 13).tolist()), set(hashes(b, 13).tolist())
    assert len(ha) == len(grams(a)) and len(ha & hb) == len(grams(a) & grams(b)) > 0


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("この頁では設定の方法について説明します。まず最初に画面を開いてください。", "ja"),
        ("This page explains how to configure the program before its first use.", "en"),
        ("Diese Seite erklärt, wie man das Programm vor der ersten Benutzung einrichtet.", "de"),
        ("本页介绍如何在首次使用之前配置该程序，请先打开设置窗口。", "zh"),
        ("이 문서는 프로그램을 처음 사용하기 전에 설정하는 방법을 설명합니다.", "ko"),
        ("타원형 선택 도구는 원형이나 타원형으로 선택합니다. " + "The ellipse tool selects a region of the image. " * 4, "ko"),
        ("コマンド ls は一覧を表示します。 " + "usage: ls [options] file " * 4, "ja"),
        ("Copyright (C) 2003 日本 team. This manual is free software and comes without any warranty at all.", "en"),
        ("12345 --- 67", "und"),
    ],
)
def test_language_by_content(text, lang):
    assert identify(text, LanguageId())[0] == lang


JAPANESE = "この文書はコマンドの使い方を説明します。設定ファイルを編集して保存すると、次に起動したときから有効になります。"


@pytest.mark.parametrize("method", ["rule", "model"])
@pytest.mark.parametrize("charset", ["utf-8", "euc_jp", "cp932", "iso2022_jp"])
@pytest.mark.parametrize("read_as", ["utf-8", "cp932", "euc_jp", "cp1252", "gb18030", "big5"])
def test_text_that_was_read_in_a_wrong_charset_is_not_japanese(charset, read_as, method):
    text = (JAPANESE * 4 + "サーバーとユーザー").encode(charset).decode(read_as, "replace")
    assert (identify(text, LanguageId(method=method))[0] == "ja") == (charset == read_as)


def test_how_much_makes_a_text_garbled():
    text = JAPANESE * 10
    assert (
        identify("\ufffd" * 10 + text[:490], LanguageId())[0] == "und"
        and identify("\ufffd" * 9 + text[:491], LanguageId())[0] == "ja"
    )
    assert identify("縺繧" + JAPANESE[:30], LanguageId())[0] == "ja", "two signs are a matter of chance"
    assert [garbled(text + part) for part in ("〖" * 3, "〖" * 2, "〖序〗〖本〗〖跋〗")] == [True, False, False]


def test_kanji_without_kana_are_not_japanese_beyond_a_headline():
    model = LanguageId(method="model")
    kanji = "東京都知事選挙投票結果発表"
    assert identify(kanji, model)[0] == identify((kanji * 4)[:49], model)[0] == "ja"
    assert identify((kanji * 4)[:50], model)[0] == "zh", "50 kanji"
    assert identify((kanji * 8)[:98] + "のの", model)[0] == "ja", "a kana for every 50 characters"
    assert identify((kanji * 8)[:99] + "のの", model)[0] == "zh"


@pytest.mark.parametrize("method", ["rule", "model"])
def test_half_width_katakana_beside_kanji_are_japanese_with_kana_of_full_width(method):
    settings = LanguageId(method=method)
    assert identify("設定ｦ保存ｼﾃ終了ｼﾏｽ、完了です。" * 20, settings)[0] == "ja"
    assert identify("設定保存終了ｦｼﾃｼﾏｽ" * 20, settings)[0] != "ja"


def test_a_page_of_commands_with_chinese_in_it_is_not_english():
    commands = "sudo apt-get install package --option=value /etc/default/config && systemctl restart daemon.service; " * 30
    english = "The program reads its settings from a file and writes what it did to the log. " * 20
    assert identify(english + commands, LanguageId())[0] == "en"
    assert identify(commands + "安装软件包并重新启动服务，然后检查配置文件。" * 10, LanguageId())[0] == "zh"
    assert identify(english + "（株）東京", LanguageId())[0] == "en", "a name or two is not another language"
    assert identify(commands + "設定ファイルを読み、サービスを再起動します。" * 10, LanguageId())[0] == "ja"
