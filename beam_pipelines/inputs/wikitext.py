"""Wikitext to plain text: what a reader of the page would read as running text, one paragraph a line.

mwparserfromhell parses; templates, tables, references, galleries, files and categories go, but for templates that stand for
words in a sentence (`_INLINE`). Runs in the extractor's process, under its deadline.
"""

import re
from collections.abc import Iterable
from typing import Any

# Templates that carry text: name -> number of the argument (from 1), or a form with several. Japanese and English Wikipedia.
_INLINE: dict[str, int | str] = {
    "lang": 2, "仮リンク": 1, "ill": 1, "ill2": 1, "interlanguage link": 1, "読み仮名": "{1}（{2}）", "読み仮名 ruby不使用": "{1}（{2}）",
    "読み": "{1}（{2}）", "ruby": 1, "ルビ": 1, "ふりがな": 1, "nowrap": 1, "small": 1, "big": 1, "要出典範囲": 1, "vanchor": 1, "visible anchor": 1,
    "jis2004フォント": 1, "補助漢字フォント": 1, "cp932フォント": 1, "拡張漢字": 2, "color": 2, "font color": 2, "abbr": 1, "tooltip": 1, "sup": 1, "sub": 1,
    "en": 1, "convert": "{1} {2}", "nihongo": "{1}（{2}）", "行内引用": 1, "quote": 1, "blockquote": 1, "quotation": 1, "cquote": 1, "和暦": 1,
    "=": "=", "!": "|", "仮題": 1, "linktext": 1, "transl": 2, "math": 1, "mvar": 1, "val": 1,
}  # fmt: skip
_LANGUAGE = re.compile(r"lang-([a-z-]+)$")
_NO_TEXT_TAGS = {"ref", "references", "gallery", "timeline", "score", "templatestyles", "table", "imagemap", "graph", "mapframe", "maplink", "hiero", "section", "indicator", "inputbox", "pagelist", "rss"}  # fmt: skip
_BLOCKS = {"p", "div", "br", "li", "dt", "dd", "hr", "blockquote", "center", "poem", "pre", "syntaxhighlight", "source"}
_LINK_WITHOUT_TEXT = re.compile(r"\s*(?:file|image|media|category|ファイル|画像|メディア|カテゴリ)\s*:", re.IGNORECASE)
_INTERLANGUAGE = re.compile(r"\s*[a-z]{2,3}(?:-[a-z]+)*\s*:")
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_SWITCH = re.compile(r"__[A-Z]{3,}__")
_QUOTES = re.compile(r"'{2,5}")
_MARKERS = re.compile(r"^[*#:;]+\s*")
_SPACES = re.compile(r"[ \t\u00a0]+")
_EMPTY_BRACKETS = re.compile(r"[（(]\s*[、，,;；:：・\s]*\s*[)）]")
_BEGINS_BADLY = re.compile(r"([（(])\s*[、，,;；]\s*")
_HEADING = "\x01"


def clean(text: str) -> str:
    """Plain text of a page; "" if it has none.

    Example:
      >>> clean("'''東京'''は[[日本]]の{{lang|en|capital}}。<ref>注</ref>\\n\\n== 節 ==\\n* 項目[[File:a.jpg|thumb|図]]")
      '東京は日本のcapital。\\n節\\n項目'
    """
    import mwparserfromhell

    code = mwparserfromhell.parse(_COMMENT.sub("", text).replace(_HEADING, ""), skip_style_tags=True)
    return "\n".join(_without_empty_sections(_lines(_render(code.nodes))))


def _render(nodes: Iterable[Any]) -> str:
    return "".join(_RENDER.get(type(node).__name__, _nothing)(node) for node in nodes)


def _nothing(node: Any) -> str:
    return ""


def _text(node: Any) -> str:
    return _SWITCH.sub("", node.value)


def _heading(node: Any) -> str:
    return f"\n{_HEADING}{node.level}{_render(node.title.nodes).strip()}\n"


def _wikilink(node: Any) -> str:
    title = str(node.title)
    if _LINK_WITHOUT_TEXT.match(title) or (node.text is None and _INTERLANGUAGE.match(title)):
        return ""
    return _render((node.text if node.text is not None else node.title).nodes).strip().removeprefix(":")


def _external_link(node: Any) -> str:
    return _render(node.title.nodes) if node.title is not None else "" if node.brackets else str(node.url)


def _tag(node: Any) -> str:
    name = str(node.tag).strip().lower()
    if name in _NO_TEXT_TAGS:
        return ""
    content = _render(node.contents.nodes) if node.contents is not None else ""
    if name in ("math", "ce", "chem"):
        return f"${str(node.contents).strip()}$" if node.contents is not None else ""
    return f"\n{content}\n" if name in _BLOCKS else content


def _template(node: Any) -> str:
    name = " ".join(str(node.name).replace("_", " ").split()).lower()
    form = 1 if _LANGUAGE.match(name) else _INLINE.get(name)
    if form is None:
        return ""
    if isinstance(form, int):
        return _argument(node, form)
    filled = re.sub(r"\{(\d)\}", lambda found: _argument(node, int(found[1])), form)
    return _EMPTY_BRACKETS.sub("", filled)


def _argument(node: Any, number: int) -> str:
    return _render(node.get(str(number)).value.nodes).strip() if node.has(str(number)) else ""


_RENDER = {
    "Text": _text,
    "Heading": _heading,
    "Wikilink": _wikilink,
    "ExternalLink": _external_link,
    "Tag": _tag,
    "Template": _template,
    "HTMLEntity": lambda node: node.normalize(),
}


def _lines(text: str) -> list[str]:
    cleaned = []
    for line in text.split("\n"):
        line = _QUOTES.sub("", _MARKERS.sub("", line.strip()))
        line = _BEGINS_BADLY.sub(r"\1", _EMPTY_BRACKETS.sub("", _SPACES.sub(" ", line))).strip()
        if line and not line.startswith(("{|", "|}", "|-", "|", "!")):  # what the parser did not know as a table
            cleaned.append(line)
    return cleaned


def _without_empty_sections(lines: list[str]) -> list[str]:
    """The lines, bottom up: a heading stays if text or a heading below its own level stands before the next of its level."""
    kept, has_text, below = list[str](), False, 0
    for line in reversed(lines):
        if not line.startswith(_HEADING):
            kept.append(line)
            has_text = True
            continue
        level, title = int(line[1]), line[2:].strip()
        if title and (has_text or below > level):
            kept.append(title)
            below = level
        has_text = False
    return kept[::-1]
