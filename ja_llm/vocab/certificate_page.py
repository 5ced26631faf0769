"""The certificate as a page: one HTML file that needs nothing beside it."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

PAGE = "certificate.html"

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --good: #1a7f37; --bad: #cf222e; --mark: #8882; }
body { font: 16px/1.5 system-ui, "Noto Sans CJK JP", sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; } h2 { margin: 1.6rem 0 .4rem; font-size: 1.15rem; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; } th { font-weight: 600; } code { font-size: .85em; overflow-wrap: anywhere; }
.passed, .whole { color: var(--good); } .FAILED, .lost { color: var(--bad); font-weight: 600; }
.verdict { font-size: 1.3rem; font-weight: 600; margin: .2rem 0 1rem; } .pieces { margin: .1rem 0 .7rem; line-height: 2; }
.pieces span { background: var(--mark); border: 1px solid var(--line); border-radius: 4px; padding: .1rem .25rem; margin-right: .15rem; white-space: pre; }
.scroll { overflow-x: auto; }
"""


def page(certificate: Mapping[str, Any], title: str, of: str = "a vocabulary expansion") -> str:
    """A certificate (`ja_llm.vocab.certify.certify`, `ja_llm.vocab.trim_model`) as HTML.

    Args:
      certificate: as it was returned or read from certificate.json; parts that an older one lacks are left out.
      title: heading, e.g. the names of both models.
      of: what was done.
    """
    passed = "passed" if certificate["passed"] else "FAILED"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict">Certificate of {escape(of)}: <span class="{passed}">{passed}</span></p>',
        _failures(certificate["failures"]),
        _vocabularies(certificate),
        _domains(certificate.get("domains", {})),
        _examples(certificate.get("examples", [])),
        _checks(certificate["checks"]),
        _hard(certificate["checks"].get("round_trip", {}).get("hard", {})),
        _losses(certificate.get("base_loses", [])),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def _table(heading: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML; a cell that is a number stands right."""

    def cell(value: str) -> str:
        number = value[:1].isdigit() or value[:2].strip("-\u2212")[:1].isdigit()
        return f'<td class="n">{value}</td>' if number else f"<td>{value}</td>"

    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "\n".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows)
    return f'<h2>{escape(heading)}</h2>\n<div class="scroll"><table><tr>{top}</tr>\n{body}</table></div>'


def _failures(failures: Sequence[str]) -> str:
    return "<ul>" + "".join(f'<li class="FAILED">{escape(reason)}</li>' for reason in failures) + "</ul>" if failures else ""


def _vocabularies(certificate: Mapping[str, Any]) -> str:
    rows = [
        [name, f"{certificate[key]['vocab_size']:,}", f"<code>{escape(certificate[key]['fingerprint'])}</code>"]
        for key, name in (("old", "before"), ("new", "after"))
    ]
    if certificate.get("padding"):
        rows.append(["rows that pad the tables, masked", f"{certificate['padding']:,}", ""])
    return _table("Vocabularies", ["", "pieces", "SHA-256 of all that decides ids"], rows)


def _domains(domains: Mapping[str, Any]) -> str:
    rows = []
    for name, domain in domains.items():
        values = [domain[key][when] for key in ("characters_per_token", "bytes_per_token") for when in ("before", "after")]
        if None in values:
            continue
        saved = 1 - values[0] / values[1]
        rows.append([escape(name), f"{domain['characters']:,}", *(f"{value:.3f}" for value in values), f"{saved:.1%}"])
    head = ["text", "characters", "characters per token before", "after", "bytes per token before", "after", "tokens saved"]
    return _table("Text per token", head, rows) if rows else ""


def _examples(found: Sequence[Mapping[str, Any]]) -> str:
    def pieces(values: Sequence[str]) -> str:
        return "".join(f"<span>{escape(value) or '&#8203;'}</span>" for value in values)

    parts = [
        f'<p class="pieces">before, {len(x["before"])} tokens: {pieces(x["before"])}</p>'
        f'<p class="pieces">after, {len(x["after"])}: {pieces(x["after"])}</p>'
        for x in found
    ]
    note = "<p>A + is a further token on the same character.</p>"
    return "<h2>Held-out lines, cut by both</h2>" + note + "<hr>".join(parts) if parts else ""


def _checks(checks: Mapping[str, Any]) -> str:
    def figures(check: Mapping[str, Any]) -> str:
        told = [
            f"{key.replace('_', ' ')}&nbsp;{value:.3g}" if isinstance(value, float) else f"{key.replace('_', ' ')}&nbsp;{value:,}"
            for key, value in check.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        listed = [
            f"{key.replace('_', ' ')}: {escape(str(value))}" for key, value in check.items() if isinstance(value, list) and value
        ]
        return "; ".join([*told, *listed, *([escape(check["reason"])] if check.get("reason") else [])])

    rows = []
    for name, check in checks.items():
        word = "passed" if check["passed"] else "FAILED"
        rows.append([escape(name.replace("_", " ")), f'<span class="{word}">{word}</span>', f"<span>{figures(check)}</span>"])
    return _table("Checks", ["check", "", "figures"], rows)


def _hard(hard: Mapping[str, str]) -> str:
    rows = [[escape(name), f'<span class="{escape(how.split()[0])}">{escape(how)}</span>'] for name, how in hard.items()]
    return _table("Round trip over hard text", ["text", "comes back"], rows) if rows else ""


def _losses(clauses: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(clause)}</li>" for clause in clauses)
    return f"<h2>What the base itself does not give back</h2><ul>{items}</ul>" if items else ""
