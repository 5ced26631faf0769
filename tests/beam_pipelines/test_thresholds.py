"""Every rule of the filters on two hand-made pages: one that stands on the limit and stays, one a step beyond that goes.

The pages are built so that the statistic can be counted by eye; the step is one character, line or sentence in a hundred.
"""

import dataclasses

import pytest

from beam_pipelines import config, filters_en, filters_ja, rules

V1 = config.load("swallow_v1").japanese
EN = config.EnglishFilter()
# Rules that no preset binds: the limit that the pages here are made for.
UNBOUND = {"max_kanji_share": 0.4, "min_terminal_line_share": 0.3, "max_newline_share": 0.3}
UNBOUND |= {f"max_top_{n}gram_char_share": 0.24 for n in (2, 3, 4)}
UNBOUND |= {f"max_duplicate_{n}gram_char_share": 0.3 for n in range(5, 11)}


def unique(count: int, start: int = 0) -> str:
    """Characters of which none is like another."""
    return "".join(chr(0x4E00 + start + i) for i in range(count))


def sentences(*lengths: int) -> str:
    """Sentences of these lengths with their full stops, each with a word of its own."""
    return "".join(unique(length - 1, 200 * i) + "。" for i, length in enumerate(lengths))


def rows(kinds: int, repeats: int, end: str = "") -> str:
    """Lines of four characters: `kinds` different ones, then the first of them `repeats` times more."""
    different = [unique(4, 4 * i) + end for i in range(kinds)]
    return "\n".join(different + different[:1] * repeats)


def frequent(n: int, times: int, length: int) -> str:
    """A text of `length` characters in which one n-gram occurs `times` times and no other twice."""
    gram = "あいうえ"[:n]
    text = "".join(gram + unique(1, i) for i in range(times))
    return text + unique(length - len(text), 1000)


def repeated(n: int, grams: int, length: int) -> str:
    """A text of `length` characters whose first n + grams - 1 come again, so that `grams` n-grams occur twice."""
    block = unique(n + grams - 1)
    return block + "あ" + block + unique(length - 2 * len(block) - 1, 1000)


def japanese_pages() -> dict[str, tuple[str, str]]:
    """rule -> (on the limit, a step beyond)."""
    pages = {
        "min_letters": (unique(400), unique(399)),
        "min_japanese_letters": ("あ" * 400 + "abc", "あ" * 399 + "abc"),
        "min_japanese_share": ("あ" * 100 + "a" * 100, "あ" * 100 + "a" * 101),
        "min_hiragana_share": ("あ" * 20 + "漢" * 80, "あ" * 19 + "漢" * 81),
        "max_katakana_share": ("カ" * 50 + "漢" * 50, "カ" * 51 + "漢" * 49),
        "max_kanji_share": ("漢" * 40 + "あ" * 60, "漢" * 41 + "あ" * 59),
        "min_mean_sentence_length": (sentences(*[20] * 50), sentences(19, *[20] * 49)),
        "max_mean_sentence_length": (sentences(*[90] * 50), sentences(91, *[90] * 49)),
        "max_longest_sentence": (sentences(30, 200, 40), sentences(30, 201, 40)),
        "max_ellipsis_share": ("\n".join(["続く…"] * 20 + ["終。"] * 80), "\n".join(["続く…"] * 21 + ["終。"] * 79)),
        "max_duplicate_line_share": (rows(70, 30), rows(69, 31)),
        "max_duplicate_line_char_share": (rows(80, 20), rows(79, 21)),
        "max_duplicate_sentence_share": (rows(70, 30, "。"), rows(69, 31, "。")),
        "max_duplicate_sentence_char_share": (rows(80, 20, "。"), rows(79, 21, "。")),
        "min_terminal_line_share": ("\n".join(["文。"] * 30 + ["語"] * 70), "\n".join(["文。"] * 29 + ["語"] * 71)),
        "max_newline_share": ("あ" * 70 + "\n" * 30, "あ" * 69 + "\n" * 31),
    }
    for n, times in ((2, 20), (3, 18), (4, 16)):  # of 100 n-grams, and of 99
        pages[f"max_top_{n}gram_share"] = frequent(n, times, 99 + n), frequent(n, times, 98 + n)
        pages[f"max_top_{n}gram_char_share"] = frequent(n, 24 // n, 100), frequent(n, 24 // n, 99)
    for n, grams in zip(range(5, 11), (15, 14, 13, 12, 11, 10), strict=True):  # of 100 different n-grams, and of 99
        pages[f"max_duplicate_{n}gram_share"] = repeated(n, grams, 99 + n + grams), repeated(n, grams, 98 + n + grams)
        pages[f"max_duplicate_{n}gram_char_share"] = repeated(n, 31 - n, 100), repeated(n, 31 - n, 99)
    return pages


def english_pages() -> dict[str, tuple[str, str]]:
    """rule -> (on the limit, a step beyond); words are numbered so that none repeats by chance."""

    def lines(kind: str, number: int) -> str:
        return "\n".join([kind.format(i) for i in range(number)] + [f"line {i}" for i in range(100 - number)])

    def top(n: int, times: int, characters: int) -> str:
        """One n-gram of two-letter words `times` times, in a text of so many characters."""
        gram = " ".join(("ab", "cd", "ef", "gh")[:n])
        words = " ".join(f"{gram} {chr(0x3B1 + i)}" for i in range(times)).split()
        left = characters - sum(map(len, words))
        return " ".join([*words, *(chr(0x400 + i) for i in range(left))])

    return {
        "min_words": ("word " * 50, "word " * 49),
        "max_words": ("w " * 100_000, "w " * 100_001),
        "min_mean_word_length": ("abc " * 100, "abc " * 99 + "ab"),
        "max_mean_word_length": ("a" * 10 + " abcdefghij" * 99, "a" * 11 + " abcdefghij" * 99),
        "max_symbol_word_ratio": ("# " * 10 + "w " * 90, "# " * 10 + "w " * 89),
        "max_bullet_line_share": (lines("- item {}", 90), lines("- item {}", 91)),
        "max_ellipsis_line_share": (lines("more {}...", 30), lines("more {}...", 31)),
        "min_alphabetic_word_share": ("w " * 80 + "7 " * 20, "w " * 79 + "7 " * 21),
        "min_stop_words": ("the dog and cat", "the dog or cat"),
        "max_foreign_letter_share": ("a" * 98 + "漢字", "a" * 97 + "漢字"),
        "max_duplicate_line_share": (rows(70, 30), rows(69, 31)),
        "max_duplicate_line_char_share": (rows(80, 20), rows(79, 21)),
        "max_top_2gram_char_share": (top(2, 10, 200), top(2, 10, 199)),
        "max_top_3gram_char_share": (top(3, 6, 200), top(3, 6, 199)),
        "max_top_4gram_char_share": (top(4, 4, 200), top(4, 4, 199)),
    }


CASES = [("ja", V1, filters_ja.measure, name, *pages) for name, pages in japanese_pages().items()]
CASES += [("en", EN, filters_en.measure, name, *pages) for name, pages in english_pages().items()]


@pytest.mark.parametrize(("lang", "filters", "measure", "name", "on", "beyond"), CASES, ids=[f"{c[0]}.{c[3]}" for c in CASES])
def test_a_page_on_the_limit_stays_and_one_step_beyond_goes(lang, filters, measure, name, on, beyond):
    side, _, statistic = name.partition("_")
    limit = getattr(filters, name) if getattr(filters, name) is not None else UNBOUND[name]
    alone = dataclasses.replace(filters, **{other: None for other, *_ in rules.rule_names(filters)} | {name: limit})
    assert measure(on)[statistic] == pytest.approx(limit, abs=1e-12), "the page must stand on the limit"
    assert abs(measure(beyond)[statistic] - limit) <= (1 if limit >= 1 else 0.06 * limit), "one step, not more"
    assert rules.decide(measure(on), alone, lang) is None
    assert rules.decide(measure(beyond), alone, lang) == f"{lang}_{statistic}_{'low' if side == 'min' else 'high'}"
    if hasattr(filters, "drop_on_limit"):
        strict = dataclasses.replace(alone, drop_on_limit=(name,))
        assert rules.decide(measure(on), strict, lang) is not None


def test_every_rule_has_its_pages():
    assert {(lang, name) for lang, _, _, name, *_ in CASES} == {
        (lang, name) for lang, filters in (("ja", V1), ("en", EN)) for name, *_ in rules.rule_names(filters)
    }
