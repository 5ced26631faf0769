"""Personal data in Japanese text: found by form and check digit, replaced by a placeholder that says what stood there.

| kind | form | left alone |
|---|---|---|
| email | local@domain.tld | git@host:path, logo@2x.png, package@1.2.3 |
| card | 14 to 19 digits with an issuer's first digits and Luhn's check digit (ISO/IEC 7812-1, annex B) | JAN and ISBN (13 digits), a wrong digit |
| my_number | 12 digits with the check digit of the ordinance of 2014 (`my_number_check_digit`) | a wrong digit, times as 202403151230 |
| phone | 0 and 9 or 10 digits in the groups of the numbering plan, mobile, free, +81 | versions, dates, ISBNs, part numbers, columns of numbers |
| postal_code | the mark (or its name) and 7 digits | 7 digits without the mark |
| address | prefecture, label or designated city with ward; municipality, then block numbers | scores, counts and places without block numbers |

What stands unmarked in running text can only be told by its form: one in eleven numbers of 12 digits has My Number's check digit by chance and
is replaced too. Company numbers (13 digits) are public and stay.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

KINDS = ("email", "card", "my_number", "phone", "postal_code", "address")
PLACEHOLDERS = {
    "email": "[メールアドレス]",
    "card": "[カード番号]",
    "my_number": "[個人番号]",
    "phone": "[電話番号]",
    "postal_code": "[郵便番号]",
    "address": "[住所]",
}

# Full-width forms and the many dashes, each to one ASCII character, so that places in the shadow are places in the text.
_SHADOW = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | dict.fromkeys("‐‑‒–—―−－", "-") | {"\u3000": " "}
_WIDE = re.compile("[！-～‐‑‒–—―−\u3000]")  # few of a text's characters: finding them is five times as fast as str.translate
_LONG_MARK = re.compile("(?<=[0-9])[ーｰ](?=[0-9])")  # typed for a hyphen
_ANY = re.compile("[0-9０-９@＠]|丁目")
_DIGIT = re.compile("[0-9]")
_SHOWN = re.compile(r"\w")
_FEWEST = {"card": 14, "my_number": 12, "phone": 9, "postal_code": 7}  # digits

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+@-])[A-Za-z0-9_+-](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_+-])?"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+([A-Za-z]{2,24})(?![A-Za-z0-9@-]|:[A-Za-z~/])"
)
_FILES = {
    "png",
    "jpg",
    "jpeg",
    "gif",
    "svg",
    "webp",
    "avif",
    "ico",
    "js",
    "mjs",
    "css",
    "ts",
    "tsx",
    "jsx",
    "json",
    "html",
    "htm",
    "php",
}
_FILES |= {"py", "rb", "sh", "md", "txt", "xml", "yml", "yaml", "map"}

_FREE = r"(?<![0-9A-Za-z.,/:#_-])"  # not inside a longer number, a version or a part number
_END = r"(?![0-9A-Za-z_]|[-.,/:][0-9A-Za-z])"
_ALONE = r"(?<![0-9] )", r"(?! [0-9])"  # nor groups of digits before and behind
_CARD = re.compile(
    _ALONE[0]
    + _FREE
    + r"(?:[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{2,4}|[0-9]{4}([ -])[0-9]{6}\2[0-9]{4,5}|[0-9]{14,19})"
    + _END
    + _ALONE[1]
)
_ISSUERS = re.compile(
    r"4(?:.{15}|.{18})$|(?:5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720).*(?<=^.{16})$|3[47].{13}$|3(?:0[0-5]|[689].).{11}$|35(?:2[89]|[3-8].).{12}$"
    r"|(?:6011|64[4-9].|65..).{12}$|62.{14,17}$"
)
_MY_NUMBER = re.compile(_ALONE[0] + _FREE + r"[0-9]{4}([ -]?)[0-9]{4}\1[0-9]{4}" + _END + _ALONE[1])
_TIME = re.compile(r"(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])(?:[01][0-9]|2[0-3])[0-5][0-9]$")

# Groups of the numbering plan: fixed lines have 10 digits with an area code of 2 to 5, the others are of their own shapes.
_DASH = r"(?:[ ]?-[ ]?|[ ])"
_FIXED = "|".join(
    rf"0[1-9]\d{{{a - 2}}}(?:-|[ ]-[ ])\d{{{b}}}(?:-|[ ]-[ ])\d{{4}}|\(0[1-9]\d{{{a - 2}}}\)[ ]?\d{{{b}}}-\d{{4}}|0[1-9]\d{{{a - 2}}}[ ]?\(\d{{{b}}}\)[ ]?\d{{4}}"
    for a, b in ((2, 4), (3, 3), (4, 2), (5, 1))
)
# With spaces alone a column of numbers looks the same: only by themselves, and of two digits only the area codes that there are.
_FIXED += rf"|{_ALONE[0]}(?:0[346] \d{{4}}|0[1-9]\d \d{{3}}|0[1-9]\d\d \d\d) \d{{4}}{_ALONE[1]}"
_MOBILE = rf"0[5789]0{_DASH}\d{{4}}{_DASH}\d{{4}}|0[5789]0\d{{8}}"  # and IP
_SERVICE = (
    rf"(?:0120|0570|0990|0800){_DASH}\d{{2,3}}{_DASH}\d{{3,4}}|\((?:0120|0800)\)[ ]?\d{{2,3}}-\d{{3,4}}|0120\d{{6}}|0800\d{{7}}"
)
_ABROAD = r"\+81[ -]?(?:\(0\)[ ]?)?[1-9]\d{0,4}[ -]?\d{1,4}[ -]?\d{4}"
_LABEL = r"(?:(?<=[Tt][Ee][Ll])|(?<=[Ff][Aa][Xx])|(?<=電話)|(?<=番号))[ :./は]{1,3}"
_PHONE = re.compile(
    rf"(?=[0(+ :./は])(?:(?:{_FREE.replace(':', '')}|{_LABEL})(?:{_FIXED}|{_MOBILE}|{_SERVICE}|{_ABROAD})|{_LABEL}0[1-9]\d{{8}}){_END}",
    re.ASCII,
)
_LENGTHS = {"0120": 10, "0570": 10, "0990": 10, "0800": 11}

_POSTAL = re.compile(r"(?:〒[ :]?|郵便番号[ :は]{0,2})[0-9]{3}-?[0-9]{4}(?![0-9]|-[0-9])")

_PREFECTURE = (
    "(?:東京都|北海道|(?:京都|大阪)府|(?:青森|岩手|宮城|秋田|山形|福島|茨城|栃木|群馬|埼玉|千葉|神奈川|新潟|富山|石川|福井|山梨|長野|岐阜|静岡|愛知|三重|滋賀|兵庫"
    "|奈良|和歌山|鳥取|島根|岡山|広島|山口|徳島|香川|愛媛|高知|福岡|佐賀|長崎|熊本|大分|宮崎|鹿児島|沖縄)県)"
)
_NAME = "[一-鿿々〇ヶケノツァ-ヺー]"
_MUNICIPALITY = f"(?:(?:[ぁ-ん]|{_NAME}){{1,7}}?[市区町村郡]){{1,3}}"
# A town's name as far as its block numbers. Hiragana begins a town only where the numbers leave no doubt: "八王子市が3-2" is a score.
_NUMBER = "(?:[0-9]{1,4}|[一二三四五六七八九十]{1,3})"
_MARKED = f"{_NUMBER}丁目(?:[ ]?[0-9]{{1,4}}(?:番地?|-)(?:の?[ ]?[0-9]{{1,4}}号?)?)?|[0-9]{{1,5}}番(?:地(?:の?[0-9]{{1,4}})?|[0-9]{{1,4}}号?)"
# Cities that are written without their prefecture, by Local Autonomy Act, article 252-19; their wards have names of kanji.
_CITY = (
    "(?:札幌|仙台|さいたま|千葉|横浜|川崎|相模原|新潟|静岡|浜松|名古屋|(?<!東)京都|大阪|堺|神戸|岡山|広島|北九州|福岡|熊本)市(?!立)"
    "[一-鿿ヶケ]{1,4}区"
)
_DASHED = "[0-9]{1,4}(?:-[0-9]{1,4}){1,3}"
# Hokkaido's towns have numbers themselves: 北1条西2丁目, 月寒東2条10丁目, 1条通8丁目. 第2条 is an article of a law.
_STREET = f"(?:(?!第){_NAME}(?:(?!第)(?:{_NAME}|[のがつ])){{0,7}})?{_NUMBER}条(?:(?:通|[東西南北])?(?:{_MARKED}|{_DASHED})|[東西南北][0-9]{{1,2}})"
_ADDRESS = re.compile(
    f"(?:(?:{_PREFECTURE}|(?<=住所)[ :]{{1,2}}|(?<=所在地)[ :]{{1,2}}){_MUNICIPALITY}|{_CITY})"
    f"(?:{_STREET}|(?:{_NAME}(?:{_NAME}|[のがつ]){{0,11}})?(?:{_MARKED}|{_DASHED})"
    f"|[ぁ-ん一-鿿ァ-ヺー]{{1,12}}(?:{_MARKED}|[0-9]{{1,3}}(?:-[0-9]{{1,4}}){{2,3}}))(?![0-9])"
)


def luhn(digits: str) -> bool:
    """Whether the last digit is Luhn's check digit of the others (ISO/IEC 7812-1, annex B).

    Example:
      >>> luhn("4111111111111111"), luhn("4111111111111112")
      (True, False)
    """
    doubled = [int(d) * 2 for d in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(d - 9 if d > 9 else d for d in doubled)) % 10 == 0


def my_number_check_digit(digits: str) -> int:
    """The check digit of the first 11 digits of a Japanese individual number.

    Ordinance of the Ministry of Internal Affairs and Communications no. 85 of 2014, article 5: 11 - (sum over n = 1..11 of P_n Q_n, modulo
    11), or 0 where that remainder is 0 or 1; P_n is the n-th digit from the right, Q_n = n + 1 for n <= 6 and n - 5 from 7 on.

    Example:
      >>> my_number_check_digit("12345678901")
      8
    """
    total = sum(int(digit) * (n + 1 if n <= 6 else n - 5) for n, digit in enumerate(reversed(digits), 1))
    return 0 if total % 11 <= 1 else 11 - total % 11


def find(text: str, kinds: Sequence[str] = KINDS) -> list[tuple[int, int, str]]:
    """Places of personal data: (first character, one after the last, kind), in order, none overlapping.

    Args:
      text: any text.
      kinds: of KINDS; where two overlap, the one that stands first in KINDS is it.

    Raises:
      ValueError: a kind that is none.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"kinds: {unknown[0]!r} is none of {KINDS}")
    wanted = [kind for kind in KINDS if kind in kinds]
    found: list[tuple[int, int, str]] = []
    at = 0
    for line in text.split("\n"):  # no form reaches over a line's end
        if _ANY.search(line):
            found += [(at + start, at + end, kind) for start, end, kind in _in_line(line, wanted)]
        at += len(line) + 1
    return found


def _in_line(line: str, kinds: Sequence[str]) -> list[tuple[int, int, str]]:
    shadow = _LONG_MARK.sub("-", _WIDE.sub(lambda found: _SHADOW[found[0]], line))
    digits = len(_DIGIT.findall(shadow))
    found: list[tuple[int, int, str]] = []
    for kind in kinds:
        if digits >= _FEWEST.get(kind, 0):
            for start, end in _FINDERS[kind](shadow):
                if not any(start < b and a < end for a, b, _ in found):
                    found.append((start, end, kind))
    return sorted(found)


def redact(text: str, kinds: Sequence[str] = KINDS) -> tuple[str, dict[str, int]]:
    """The text with a placeholder for each piece of personal data, and how many of which kind there were.

    Example:
      >>> redact("電話は０３－１２３４－５６７８、郵便は〒100-0001へ。")
      ('電話は[電話番号]、郵便は[郵便番号]へ。', {'phone': 1, 'postal_code': 1})
    """
    counts = Counter[str]()
    while places := find(text, kinds):  # a placeholder may free what stood against it; each round leaves fewer digits and @
        parts, at = [], 0
        for start, end, kind in places:
            parts += [text[at:start], PLACEHOLDERS[kind]]
            at = end
            counts[kind] += 1
        text = "".join([*parts, text[at:]])
    return text, {kind: counts[kind] for kind in KINDS if counts[kind]}


def mask(text: str, kinds: Sequence[str] = KINDS) -> str:
    """The text with each letter and digit of personal data replaced by ●: what may be shown of it, place for place as long.

    Example:
      >>> mask("電話は03-1234-5678。")
      '電話は●●-●●●●-●●●●。'
    """
    while places := find(text, kinds):
        for start, end, _ in places:
            text = text[:start] + _SHOWN.sub("●", text[start:end]) + text[end:]
    return text


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


def _emails(shadow: str) -> Iterator[tuple[int, int]]:
    for found in _EMAIL.finditer(shadow) if "@" in shadow else ():
        if found[1].lower() not in _FILES:
            yield found.span()


def _cards(shadow: str) -> Iterator[tuple[int, int]]:
    for found in _CARD.finditer(shadow):
        digits = _digits(found[0])
        if _ISSUERS.match(digits) and luhn(digits):
            yield found.span()


def _my_numbers(shadow: str) -> Iterator[tuple[int, int]]:
    for found in _MY_NUMBER.finditer(shadow):
        digits = _digits(found[0])
        if my_number_check_digit(digits[:11]) == int(digits[11]) and not _TIME.match(digits):
            yield found.span()


def _phones(shadow: str) -> Iterator[tuple[int, int]]:
    for found in _PHONE.finditer(shadow):
        digits = _digits(found[0])
        if digits.startswith("81") and "+" in found[0]:
            fine = len(digits) - 2 in (9, 10)
        elif digits[:4] in _LENGTHS:
            fine = len(digits) == _LENGTHS[digits[:4]]
        else:
            fine = True
        if fine:
            yield _bare(found)


def _postal_codes(shadow: str) -> Iterator[tuple[int, int]]:
    return (found.span() for found in _POSTAL.finditer(shadow))


def _addresses(shadow: str) -> Iterator[tuple[int, int]]:
    begins = any(mark in shadow for mark in ("県", "府", "東京都", "北海道", "住所", "所在地")) or (
        "市" in shadow and "区" in shadow
    )
    return (_bare(found) for found in (_ADDRESS.finditer(shadow) if begins else ()))


def _bare(found: re.Match[str]) -> tuple[int, int]:
    """The match without what stands between it and its label."""
    return found.end() - len(found[0].lstrip(" :./は")), found.end()


_FINDERS = {
    "email": _emails,
    "card": _cards,
    "my_number": _my_numbers,
    "phone": _phones,
    "postal_code": _postal_codes,
    "address": _addresses,
}
