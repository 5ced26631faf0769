"""The rapid check on raw bytes, the model's method of the stage language, and the training command on texts made here."""

import json
import struct

import numpy as np
import pytest

from beam_pipelines.language import identify
from beam_pipelines.language_texts import Labelled, read_catalogues, read_pages
from beam_pipelines.rapid_check import may_be_japanese
from beam_pipelines.settings.language import LanguageId
from beam_pipelines.train_language import main, prepare, train
from ja_llm.errors import JaLlmError, UsageError

KANA = "ひらがなとカタカナの文章です。"  # 14 kana


@pytest.mark.parametrize(
    ("page", "swallow", "kana"),
    [
        (b'<!DOCTYPE html><HTML class="x" LANG="ja-JP"><title>Home</title>', True, True),
        (b"<html xml:lang='ja'>", True, True),
        (b"<html lang=jam>", True, True),  # as in Swallow's code
        (b'<html lang="en"><title>Home</title>', False, False),
        (b'<html><body lang="ja"><title>Home</title>', False, False),  # not the html element
        ("<title>天気予報のページ</title>".encode(), True, True),
        ("<title>天気予報のページ</title>".encode("shift_jis"), True, True),
        ("<title>天気予報のページ</title>".encode("euc_jp"), True, True),
        ("<title>&#22825;&#27671;のページ</title>".encode(), True, True),
        ("<title>天气预报页面</title>".encode(), False, False),
        (f"<title>ls.1</title><p>{KANA}{KANA}".encode(), False, True),
        (f"<title>ls.1</title><p>{KANA}".encode(), False, False),
        (b"", False, False),
        (b"<title>" + b"\xff" * 50 + b"</title>", False, False),
    ],
)
def test_rapid_check(page, swallow, kana):
    assert (may_be_japanese(page), may_be_japanese(page, "kana")) == (swallow, kana)


def test_kana_at_the_limit():
    page = "<title>x</title>" + "か" * 19
    assert not may_be_japanese(page.encode(), "kana") and may_be_japanese((page + "か").encode(), "kana")


def test_kana_as_numeric_references_count_and_their_neighbours_do_not():
    """Manual pages converted to ASCII; U+303F and U+3100 stand beside the two blocks."""
    page = b"<title>ls</title>" + "か".encode() * 19
    for reference in (b"&#12352;", b"&#12399;", b"&#12543;", b"&#x3040;", b"&#X30ff;"):
        assert may_be_japanese(page + reference, "kana") and not may_be_japanese(page + reference)
    for reference in (b"&#12351;", b"&#12544;", b"&#x303f;", b"&#x3100;", b"&#12400", b"12400;"):
        assert not may_be_japanese(page + reference, "kana")


HIRAGANA = "これはつかいかたのせつめいで"  # four runs of three, and two more
WRITTEN = {
    **{
        charset: lambda n, c=charset: ((HIRAGANA + "、文書。") * n).encode(c)
        for charset in ("euc_jp", "cp932", "iso2022_jp", "utf-16")
    },
    "hexadecimal": lambda n: "".join(f"&#x{ord(c):X};" for c in HIRAGANA * n).encode(),
    "decimal": lambda n: (HIRAGANA * n).encode("ascii", "xmlcharrefreplace"),
}


@pytest.mark.parametrize("way", WRITTEN)
def test_kana_in_other_charsets_and_as_references(way):
    page = WRITTEN[way](3)
    assert may_be_japanese(page, "kana") and not may_be_japanese(page)
    if way not in ("iso2022_jp", "utf-16"):  # of which the first is Japanese by its switch alone
        assert not may_be_japanese(WRITTEN[way](1), "kana"), "a few are not enough"
    if way in ("euc_jp", "cp932"):
        assert may_be_japanese((HIRAGANA + "す").encode(way), "kana"), "five runs are"


@pytest.mark.parametrize(
    ("text", "charsets"),
    [
        ("本页介绍如何在首次使用之前配置该程序，请先打开设置窗口。" * 200, ("utf-8", "gb18030", "utf-16")),
        ("이 문서는 프로그램을 처음 사용하기 전에 설정하는 방법을 설명합니다. " * 200, ("utf-8", "cp949")),
        ("Эта страница описывает настройку программы перед первым запуском. " * 200, ("utf-8", "cp1251", "koi8_r")),
        ("Diese Seite erklärt übergroße Prüfsummen für Öffnungszeiten: 5 ¤ à côté. " * 200, ("utf-8", "cp1252")),
    ],
)
def test_other_languages_have_no_kana_in_any_charset(text, charsets):
    assert not any(may_be_japanese(text.encode(charset), "kana") for charset in charsets)


def test_the_model_decides_and_the_rule_gives_a_second_opinion():
    model, both = LanguageId(method="model"), LanguageId(method="model", second_opinion=True)
    japanese, kanji, english = (
        "設定を保存して終了します。これで完了です。",
        "東京都知事選挙投票結果発表",
        "Save the settings and quit.",
    )
    assert identify(japanese, model)[0] == identify(japanese, both)[0] == identify(japanese, LanguageId())[0] == "ja"
    assert identify(english, model)[0] == identify(english, both)[0] == "en"
    said = identify(kanji, model)[0]
    assert said in ("ja", "zh") and identify(kanji, LanguageId())[0] == "zh"
    assert identify(kanji, both)[0] == ("und" if said == "ja" else "zh"), "what the two disagree on is neither"
    assert identify("12", model) == ("und", 0.0, 0.0)


def catalogue(pairs):
    """A compiled message catalogue, as the gettext manual describes the file."""
    head, blocks, at = [], b"", 28 + 16 * len(pairs)
    for text in [*(a for a, _ in pairs), *(b for _, b in pairs)]:
        data = text.encode()
        head.append(struct.pack("<II", len(data), at + len(blocks)))
        blocks += data + b"\0"
    n = len(pairs)
    return struct.pack("<7I", 0x950412DE, 0, n, 28, 28 + 8 * n, 0, 0) + b"".join(head) + blocks


def test_catalogues_give_their_messages(tmp_path):
    for lang, words in {"ja": "ファイル", "zh_Hans": "文件", "de": "Datei", "ko": "File"}.items():
        path = tmp_path / "x/locale" / lang / "LC_MESSAGES/app.mo"
        path.parent.mkdir(parents=True)
        path.write_bytes(catalogue([("", "Content-Type: text/plain"), ("menu\4File\0Files", f"{words}\0{words}")]))
    found = {(item.text, item.lang, item.group) for item in read_catalogues([str(tmp_path)])}
    assert found == {("File", "en", "File"), ("ファイル", "ja", "File"), ("文件", "zh", "File"), ("Datei", "de", "File")}
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no compiled message catalogue"):
        list(read_catalogues([str(tmp_path / "empty")]))
    with pytest.raises(UsageError, match="no wheel that can be read"):
        list(read_catalogues([str(tmp_path / "none.whl")]))


def test_pages_give_blocks_of_their_language(web, tmp_path):
    body = "<html><p>日本語の段落です。</p><ul><li>An untranslated item</ul><p>中文段落</p>"
    web.write_warc(tmp_path / "a.warc.gz", [{"url": "http://e.example/x/page.ja.html", "body": body}])
    assert list(read_pages(str(tmp_path / "*.gz"), "ja")) == [Labelled("日本語の段落です。", "ja", "page")]
    assert {item.text for item in read_pages(str(tmp_path / "*.gz"), "zh")} == {"An untranslated item", "中文段落"}


def texts(web):
    japanese = [Labelled(line, "ja", f"j{i}") for i in range(40) for line in web.ja_text(i).split("\n")]
    return japanese + [Labelled(line, "en", f"e{i}") for i in range(40) for line in web.en_text(i).split("\n")]


def test_the_split_keeps_groups_whole_and_drops_what_two_languages_share(web):
    both = [Labelled("同文", "ja", "a"), Labelled("同文", "zh", "b")]
    training, heldout = prepare([*texts(web), *both])
    assert not {t.group for t in training} & {t.group for t in heldout} and heldout
    assert "同文" not in {t.text for t in [*training, *heldout]}
    assert (training, heldout) == prepare([*both, *reversed(texts(web))]), "the order of the input does not matter"


def test_training_is_deterministic_and_learns(web):
    training, heldout = prepare(texts(web))
    model, again = train(training, epochs=2), train(training, epochs=2)
    assert (model.weights == again.weights).all() and model.bias == again.bias
    assert all((model.score(t.text) > 0) == (t.lang == "ja") for t in heldout)
    with pytest.raises(JaLlmError, match="both kinds are needed"):
        train([t for t in training if t.lang == "ja"])


def test_the_command_writes_model_and_card(web, tmp_path):
    for lang, make in (("ja", web.ja_text), ("en", web.en_text)):
        pages = [{"url": f"http://e.example/{lang}{i}.html", "body": web.html(make(i))} for i in range(30)]
        web.write_warc(tmp_path / f"{lang}.warc.gz", pages)
    out = tmp_path / "model.npz"
    argv = [f"--pages=ja={tmp_path}/ja.warc.gz", f"--output={out}", "--note=our own pages"]
    assert main([argv[0], f"--pages=en={tmp_path}/en.warc.gz", *argv[1:]]) == 1, "the second --pages replaces the first"
    assert main(["--pages", f"ja={tmp_path}/ja.warc.gz", f"en={tmp_path}/en.warc.gz", *argv[1:]]) == 0
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["heldout"]["by_characters"]["all"]["recall"] == 1.0 and card["texts"] == "our own pages"
    assert card["inputs"]["pages"] == ["ja=ja.warc.gz", "en=en.warc.gz"]
    with np.load(out) as arrays:
        assert arrays["weights"].dtype == np.int8
