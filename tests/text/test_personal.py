"""Personal data: one hand-checked page per type, near misses of each that stay, and what holds for any text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ja_llm.text.personal import KINDS, PLACEHOLDERS, find, luhn, mask, my_number_check_digit, redact

# A page, and the page as it must be after; read and agreed to by hand.
PAGES = {
    "phone": (
        "ご予約は電話（０３－１２３４－５６７８）か携帯090-1234-5678へ。夜間は0120-123-456、海外からは+81-3-1234-5678です。\n"
        "FAX:0422(12)3456、TEL 0312345678。(045)123-4567の内線12。０８０ー１２３４ー５６７８\n"
        "電話 03 1234 5678、店は045 123 4567、夜は０４２２　１２　３４５６。",
        "ご予約は電話（[電話番号]）か携帯[電話番号]へ。夜間は[電話番号]、海外からは[電話番号]です。\n"
        "FAX:[電話番号]、TEL [電話番号]。[電話番号]の内線12。[電話番号]\n"
        "電話 [電話番号]、店は[電話番号]、夜は[電話番号]。",
    ),
    "postal_code": (
        "書類は〒100-0001あてに、小包は〒１００－０００２あてに送る。郵便番号：1000003は旧番号です。",
        "書類は[郵便番号]あてに、小包は[郵便番号]あてに送る。[郵便番号]は旧番号です。",
    ),
    "address": (
        "東京都千代田区霞が関1丁目2番3号で開く。支店は神奈川県横浜市西区みなとみらい２－３－１、倉庫は長野県北佐久郡軽井沢町大字長倉123番地4。\n"
        "住所：札幌市中央区北一条西二丁目\n"
        "本店は大阪市北区梅田3-1-3、横浜市西区みなとみらい２－２－１と名古屋市中区三の丸3丁目1番2号にも。"
        "北海道札幌市中央区北1条西2丁目、札幌市中央区北１条西２、札幌市豊平区月寒東2条10丁目1-8、北海道旭川市1条通8丁目。",
        "[住所]で開く。支店は[住所]、倉庫は[住所]。\n住所：[住所]\n"
        "本店は[住所]、[住所]と[住所]にも。[住所]、[住所]、[住所]、[住所]。",
    ),
    "email": (
        "連絡はtaro.yamada+web@mail.example.co.jpまで。ｉｎｆｏ＠ｅｘａｍｐｌｅ．ｊｐでも受け付ける。",
        "連絡は[メールアドレス]まで。[メールアドレス]でも受け付ける。",
    ),
    "my_number": (
        "見本の番号は123456789018と書かれ、札には1234 5678 9018とある。",
        "見本の番号は[個人番号]と書かれ、札には[個人番号]とある。",
    ),
    "card": (
        "試験用の番号は4111 1111 1111 1111と5555-5555-5555-4444、もう一つは378282246310005。",
        "試験用の番号は[カード番号]と[カード番号]、もう一つは[カード番号]。",
    ),
}
NEAR_MISSES = {
    "phone": [
        "第0.12.1版は2024-01-02に出た。次は03-12-2024。", "型番06-1234-5678-9と品番AB03-1234-5678。", "ISBN 4-00-310101-4", "値は0.0312345678",
        "時刻は09:01:23、資料は10.1000/03-1234-5678", "+81-3-12-5678", "第03-1234号", "12,090,1234,5678円",
        "表は03 1234 5678 9012", "12 03 1234 5678", "01 1234 5678", "03 1234 567", "045 123 45678", "2024 01 02 0304",
    ],
    "postal_code": ["100-0001個の部品", "〒は郵便の印。100番と0001番。", "〒100-00012"],
    "address": [
        "東京都は八王子市が3-2で勝った。", "東京都の人口は千四百万人、大阪府は3番目。", "神奈川県横浜市で5月1日に開く。", "千代田区1番の店", "住所は3-2の通り",
        "大阪市北区が3-2で勝った。", "横浜市西区の人口は10万人、2024-05-01の数。", "名古屋市中区では3番目。", "大阪市立中央区3-1", "大阪市の3-1-3", "神戸市中央区第1条2項",
        "北海道条例1条3項", "札幌市中央区条例第2条西3", "札幌市中央区条例第十二条西3", "福岡市は5-4-3の順",
    ],
    "email": ["git@github.com:owner/repo.git", "logo@2x.pngを使う", "react@18.2.0", "@taroさんへ", "user@localhostで入る"],
    "my_number": ["123456789017", "202403151230に撮った。", "1234567890180", "4111 1111 1111 1112", "価格は123,456,789,018円", "番号A123456789018"],
    "card": ["4111 1111 1111 1112", "9784003101018", "4901234567894", "9999999999999995"  # Luhn's digit, but no issuer's first ones
        , "9111111111111111", "4.1111111111111111"],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_of_each_kind(kind):
    page, wanted = PAGES[kind]
    redacted, counts = redact(page)
    assert redacted == wanted and counts == {kind: wanted.count(PLACEHOLDERS[kind])}
    assert redact(page, [other for other in KINDS if other != kind]) == (page, {}), "another kind takes it for its own"


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in NEAR_MISSES.items() for text in texts])
def test_near_misses_stay(kind, text):
    assert kind in KINDS
    for page in (text, f"これは{text}です", f"（{text}）"):
        assert redact(page) == (page, {})


def test_every_kind_has_its_page_and_near_misses():
    assert set(PAGES) == set(NEAR_MISSES) == set(PLACEHOLDERS) == set(KINDS)


def test_check_digits():
    # The specimen of the individual number card's leaflets, and the issuers' published test numbers.
    assert my_number_check_digit("12345678901") == 8
    assert all(luhn(n) for n in ("4111111111111111", "5555555555554444", "378282246310005", "30569309025904", "3530111333300000"))
    for number, check in (("4111111111111111", luhn), ("123456789018", lambda n: my_number_check_digit(n[:11]) == int(n[11]))):
        for place in range(len(number)):
            for digit in set("0123456789") - {number[place]}:
                wrong = number[:place] + digit + number[place + 1 :]
                if place == len(number) - 1 or check is luhn:
                    assert not check(wrong), "one wrong digit is seen"


@settings(deadline=None)
@given(st.text(st.sampled_from("0123456789０３-－ー()（）+@＠.,:/ \n〒aA丁目番地号市東京都千代区TEL電話住所："), max_size=80))
def test_redaction_is_idempotent_and_leaves_nothing(text):
    redacted, counts = redact(text)
    assert find(redacted) == [] and redact(redacted) == (redacted, {})
    assert (redacted == text) == (not counts)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([page for page, _ in PAGES.values()] + ["090-1234-5678", "a@b.jp", "123456789018", "x", "-", " "]),
        max_size=8,
    )
)
def test_pieces_that_touch_are_replaced_in_the_same_run(pieces):
    redacted, _ = redact("".join(pieces))
    assert redact(redacted) == (redacted, {})


@settings(deadline=None)
@given(st.text("あ漢。、abc \n", max_size=60))
def test_text_without_digits_and_addresses_is_left_alone(text):
    assert redact(text) == (text, {})


def test_what_another_piece_kept_from_view_is_found_once_that_is_gone():
    """A number is no card while digits stand behind it."""
    assert redact("4111111111111111 03-1234-5678") == ("[カード番号] [電話番号]", {"card": 1, "phone": 1})


def test_a_mask_shows_nothing_and_keeps_its_place():
    for page in (*(page for page, _ in PAGES.values()), "4111111111111111 03-1234-5678"):
        masked = mask(page)
        assert len(masked) == len(page) and find(masked) == [] and "●" in masked
        assert all(a == b or b == "●" for a, b in zip(page, masked, strict=True))


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'name' is none of"):
        find("x", ["name"])
