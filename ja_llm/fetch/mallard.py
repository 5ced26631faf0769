"""Rendering Mallard pages (GNOME's help format, http://projectmallard.org) to plain HTML, as a help viewer shows them.

Comments and page metadata are left out; credits are too, as help viewers keep them in a folded footer.
"""

import xml.etree.ElementTree as ElementTree
from html import escape

from ja_llm.errors import JaLlmError

_DROP = {"info", "comment", "include", "media"}
_BLOCKS = {
    "p": "p", "section": "section", "note": "aside", "steps": "ol", "list": "ul", "item": "li", "terms": "dl", "quote": "blockquote",
    "screen": "pre", "code": "pre", "listing": "div", "example": "div", "figure": "figure", "synopsis": "div", "table": "table",
    "thead": "thead", "tbody": "tbody", "tfoot": "tfoot", "tr": "tr", "td": "td", "th": "th", "tree": "ul", "links": "nav",
}  # fmt: skip
_INLINE = {"em": "em", "code": "code", "cmd": "code", "input": "code", "output": "code", "key": "kbd", "var": "var", "gui": "b"}


def html(page: bytes) -> bytes:
    """A Mallard page as an HTML page in UTF-8.

    Raises:
      JaLlmError: the page is no well-formed Mallard.
    """
    try:
        root = ElementTree.fromstring(page)
    except ElementTree.ParseError as error:
        raise JaLlmError(f"the page is no well-formed XML ({error})") from error
    if _name(root) != "page":
        raise JaLlmError(f"the page is no Mallard page, its root is {_name(root)!r}")
    lang = root.get("{http://www.w3.org/XML/1998/namespace}lang", "en")
    title = next((_text(child) for child in root if _name(child) == "title"), "")
    body = _children(root, 1)
    head = f'<meta charset="utf-8"><title>{escape(title)}</title>'
    return f'<!DOCTYPE html>\n<html lang="{escape(lang)}">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'.encode()


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else "comment"


def _text(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def _children(element: ElementTree.Element, level: int, inline: bool = False) -> str:
    """Content of an element: its text, its children and the text between them. `level`: of the headings inside."""
    parts = [escape(element.text or "")]
    for child in element:
        parts.append(_element(child, level, inline))
        parts.append(escape(child.tail or ""))
    return "".join(parts)


def _element(element: ElementTree.Element, level: int, inline: bool) -> str:
    name = _name(element)
    if name in _DROP:
        return ""
    if name in ("title", "subtitle") and not inline:
        return f"<h{min(level, 6)}>{_children(element, level, True)}</h{min(level, 6)}>"
    if inline or name not in _BLOCKS:
        return _inline(element, name, level)
    tag = _BLOCKS[name]
    content = _children(element, level + (name == "section"), inline=name in ("p", "screen", "code"))
    if name == "item" and (titles := [child for child in element if _name(child) == "title"]):  # an item of <terms>
        rest = "".join(_element(child, level, False) for child in element if _name(child) != "title")
        return "".join(f"<dt>{_children(title, level, True)}</dt>" for title in titles) + f"<dd>{rest}</dd>"
    return f"<{tag}>{content}</{tag}>"


def _inline(element: ElementTree.Element, name: str, level: int) -> str:
    content = _children(element, level, True)
    if name == "keyseq":
        return "+".join(_element(child, level, True) for child in element)
    if name == "link":
        if not content.strip():
            return ""
        if href := element.get("href"):
            return f'<a href="{escape(href)}">{content}</a>'
        target = (element.get("xref") or "").partition("#")[0]
        return f'<a href="{escape(target)}.html">{content}</a>' if target else content
    tag = _INLINE.get(name)
    return f"<{tag}>{content}</{tag}>" if tag else content
