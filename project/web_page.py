"""An HTML page that needs no other file and no script: to mail, to print, to read on a phone."""

from collections.abc import Sequence
from html import escape

LONG = 24  # characters, which no number with its unit has
STYLE = """\
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --line: #ddd; --soft: #f5f5f5 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #161616; --line: #3a3a3a; --soft: #222 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1320px; margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.5rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap;
  font-size: .88rem }
th, td { padding: .35rem .5rem; border-bottom: 1px solid var(--line); text-align: right }
th { font-weight: 600; background: var(--soft) }
td.name, th.name { text-align: left; white-space: normal;
  overflow-wrap: anywhere; min-width: min(9.5rem, 40vw);
  position: sticky; left: 0; background: var(--paper) }
th.name { background: var(--soft) }
td.words, th.words { text-align: left; white-space: normal }
code { font-size: .85em; overflow-wrap: anywhere; white-space: pre-wrap }
summary { cursor: pointer } .muted { opacity: .75 }
@media print { body { max-width: none } .scroll { overflow: visible } }
"""


def page(title: str, body: Sequence[str], style: str = "") -> str:
    """Return the page of a plain-text title and pieces of HTML."""
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body>",
            *body,
            "</body></html>\n",
        ]
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table of cells that are HTML already.

    The first column is a name. Columns of numbers are aligned on the right, those of words left.
    """
    styles = ["name"]
    styles += ["words" if is_words([row[i] for row in rows]) else "" for i in range(1, len(head))]

    def line(cells: list[str], tag: str) -> str:
        styled = [
            f'<{tag} class="{style}">{cell}</{tag}>' if style else f"<{tag}>{cell}</{tag}>"
            for cell, style in zip(cells, styles, strict=True)
        ]
        return f"<tr>{''.join(styled)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"


def is_words(cells: Sequence[str]) -> bool:
    """Return whether most of the cells that are filled begin with a letter, or are long."""
    words = [c[0].isalpha() or (len(c) > LONG and "<" not in c) for c in cells if c]
    return 2 * sum(words) > len(words)
