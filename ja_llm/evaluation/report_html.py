"""Pieces of HTML that the report's sections share."""

from ja_llm.evaluation.svg import escape


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
    """What stands where nothing was measured, and the command that adds it."""
    return f'<p class="none">Not measured. {escape(what)} To add it: <code>{escape(command)}</code></p>'


def cut(text: str, most: int) -> str:
    """The text with at most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
