"""A page of sections, and the pieces of HTML that sections share.

No clock, no script, no network: equal input gives an equal page, and a Content-Security-Policy forbids it to load anything.
"""

import importlib.resources
import string
from collections.abc import Sequence

from ja_llm import __version__
from ja_llm.pages.svg import escape


def page(title: str, subtitle: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """The whole page.

    Args:
      title: heading, as text.
      subtitle: below it, as text.
      sections: (anchor, heading as text, content as HTML) in their order; the navigation is made from them.
    """
    template = (importlib.resources.files("ja_llm.pages") / "template.html").read_text(encoding="utf-8")
    return string.Template(template).substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        navigation="".join(f'<li><a href="#{key}">{escape(name)}</a></li>' for key, name, _ in sections),
        sections="\n".join(
            f'<section id="{key}">\n<h2>{escape(name)}</h2>\n{content}\n</section>' for key, name, content in sections
        ),
        version=escape(__version__),
    )


def table(label: str, head: str, body: str, wide: bool = False, caption: bool = False) -> str:
    """A table that scrolls sideways by itself where the page is narrow, by keyboard too; with `caption` its label is shown."""
    hint = '<p class="hint">The table scrolls sideways.</p>' if wide else ""
    kind = ' class="wide"' if wide else ""
    title = f"<h4>{escape(label)}</h4>" if caption else ""
    return (
        f'{title}{hint}<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}"><table{kind}>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def absent(what: str, command: str) -> str:
    """What stands where nothing was measured, and the command that adds it, or several, a line each."""
    lines = "<br>".join(f"<code>{escape(line)}</code>" for line in command.splitlines())
    return f'<p class="none">Not measured. {escape(what)} To add it: {lines}</p>'


def cut(text: str, most: int) -> str:
    """The text with at most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def bar(share: float | None) -> str:
    """A share of the whole as a bar of two colours, kept and gone; "" where it is unknown or no share."""
    if share is None or not 0 <= share <= 1:
        return ""
    parts = (("kept", share), ("gone", 1 - share))
    return f'<div class="bar" aria-hidden="true">{"".join(f"""<span class="{n}" style="width:{100 * v:.1f}%"></span>""" for n, v in parts)}</div>'


def quotations(summary: str, entries: Sequence[tuple[str, str]], most: int = 300) -> str:
    """Texts that open below a line: (note, text) each."""
    quotes = "".join(
        f"<blockquote><b>{escape(note)}</b>\n{escape(cut(text, most)) or '(no text)'}</blockquote>" for note, text in entries
    )
    return f"<details><summary>{escape(summary)}</summary>{quotes}</details>"
