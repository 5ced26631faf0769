"""Parts of a data card, each of which is told once and written twice: as HTML and as Markdown."""

import dataclasses
import re
from collections.abc import Sequence

from ja_llm.pages import html
from ja_llm.pages.svg import escape


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str

    def html(self) -> str:
        return f"<p>{escape(self.text)}</p>"

    def markdown(self) -> str:
        return _plain(self.text)


@dataclasses.dataclass(frozen=True)
class Points:
    """A list of sentences."""

    items: Sequence[str]

    def html(self) -> str:
        return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in self.items) + "</ul>"

    def markdown(self) -> str:
        return "\n".join(f"- {_plain(item)}" for item in self.items)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: its name for those who don't see it, headings, rows; the columns from `numbers` on stand right.

    Attributes:
      shares: of each row the share that a bar shows in its last cell (HTML only); () for no bars.
    """

    name: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int = 1
    shares: Sequence[float | None] = ()

    def html(self) -> str:
        def cell(place: int, value: str, share: float | None) -> str:
            if place == 0:
                return f'<th scope="row">{escape(value)}</th>'
            right = ' class="n"' if place >= self.numbers else ""
            return f"<td{right}>{escape(value)}{html.bar(share) if place == len(self.head) - 1 else ''}</td>"

        head = "".join(
            f'<th scope="col"{" class=n" if place >= self.numbers else ""}>{escape(name)}</th>'
            for place, name in enumerate(self.head)
        )
        shares = self.shares or [None] * len(self.rows)
        body = "".join(
            f"<tr>{''.join(cell(place, value, share) for place, value in enumerate(row))}</tr>"
            for row, share in zip(self.rows, shares, strict=True)
        )
        return html.table(self.name, head, body, wide=len(self.head) > 5)

    def markdown(self) -> str:
        rule = ["---:" if place >= self.numbers else "---" for place in range(len(self.head))]
        rows = [list(self.head), rule, *([_cell(value) for value in row] for row in self.rows)]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


@dataclasses.dataclass(frozen=True)
class Plots:
    """SVG figures side by side, HTML only; with a `summary` they open below it."""

    figures: Sequence[str]
    summary: str = ""

    def html(self) -> str:
        drawn = [figure for figure in self.figures if figure]
        plots = f'<div class="plots">{"".join(drawn)}</div>' if drawn else ""
        return f"<details><summary>{escape(self.summary)}</summary>{plots}</details>" if plots and self.summary else plots

    def markdown(self) -> str:
        return ""


@dataclasses.dataclass(frozen=True)
class Quotes:
    """Texts below a line: (note, text) each."""

    summary: str
    entries: Sequence[tuple[str, str]]
    most: int = 300

    def html(self) -> str:
        return html.quotations(self.summary, self.entries, self.most)

    def markdown(self) -> str:
        parts = [f"**{_plain(self.summary)}**"]
        for note, text in self.entries:
            shown = html.cut(text, self.most) or "(no text)"
            fence = "`" * (max([2, *(len(run) for run in re.findall(r"`+", shown))]) + 1)
            parts.append(f"{_plain(note)}\n\n{fence}text\n{shown}\n{fence}")
        return "\n\n".join(parts)


@dataclasses.dataclass(frozen=True)
class Code:
    """Lines as they are typed."""

    lines: Sequence[str]

    def html(self) -> str:
        return f"<pre>{escape(chr(10).join(self.lines))}</pre>"

    def markdown(self) -> str:
        return "\n".join(["```", *self.lines, "```"])


Block = Text | Points | Table | Plots | Quotes | Code
Section = tuple[str, str, Sequence[Block]]  # anchor, heading, blocks


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The card as one HTML file."""
    return html.page(
        title, subtitle, [(key, name, "\n".join(block.html() for block in blocks)) for key, name, blocks in sections]
    )


def document(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The card as Markdown."""
    parts = [f"# {_plain(title)}", _plain(subtitle)]
    for _, name, blocks in sections:
        parts += [f"## {_plain(name)}", *filter(None, (block.markdown() for block in blocks))]
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """One line of Markdown that means the text: what comes from data must not become markup."""
    # An underscore inside a word is no markup, and reasons are full of them.
    return re.sub(r"([\\`*\[\]<>#|]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))


def _cell(text: str) -> str:
    return _plain(text) or " "
