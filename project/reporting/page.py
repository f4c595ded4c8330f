"""A report as one HTML page: what the model is good for and where it fails, then the figures."""

import re
from base64 import b64encode
from html import escape

from project.reporting.findings import (
    MARKS,
    Block,
    Figures,
    Measure,
    Passage,
    Picture,
    Section,
    Table,
    by_mark,
    columns,
    what_it_is,
)
from project.web_page import page, table

STYLE = """\
body { max-width: 1080px } h3 { font-size: 1rem; margin: 1.5rem 0 .5rem }
p { max-width: 46rem } .look { columns: 2 26rem; column-gap: 1.4rem; margin: 1rem 0 }
.look > div { border-left: 4px solid var(--mark); padding: .1rem 0 .1rem .8rem; margin: 0 0 .7rem }
.look h2 { margin: 0; font-size: 1rem; break-after: avoid }
.look ul { margin: 0; padding: 0; list-style: none }
.look li { padding: .2rem 0; break-inside: avoid }
.look a { font-weight: 600 } a { color: inherit }
.holds { --mark: #1a7f4b } .caution { --mark: #c77700 } .fails { --mark: #c8321f }
.told, .not-run { --mark: #7a7a7a }
.mark { display: inline-block; border: 1.5px solid var(--mark); border-radius: 1em;
  padding: 0 .6em; font-size: .8rem; font-weight: 600; vertical-align: .15em; margin-left: .4em }
.verdict { font-size: 1.05rem }
figure { margin: 1rem 0 1.5rem } figcaption { max-width: 46rem; font-size: .88rem }
img { max-width: min(100%, 38rem); height: auto; background: #fff; border-radius: 4px }
td.words { overflow-wrap: anywhere }
pre { background: var(--soft); padding: .6rem .8rem; white-space: pre-wrap; font-size: .8rem;
  overflow-wrap: anywhere; max-height: 24rem; overflow-y: auto; border-radius: 4px }
td.name small { display: block; opacity: .75; font-weight: 400 }
@media (max-width: 30rem) { td, th { white-space: normal; padding: .3rem }
  td.name { min-width: 6.5rem } }
nav { font-size: .88rem } nav a { margin-right: .9em; white-space: nowrap }
@media print { pre { max-height: none } section.part { break-before: auto }
  h2, h3 { break-after: avoid } figure, tr { break-inside: avoid } nav { display: none } }
"""


def page_of(title: str, about: list[str], sections: list[Section]) -> str:
    """Return the page.

    Args:
        about: Where the report is from, in lines of plain text.
        sections: In the order of the report.
    """
    links = "".join(f'<a href="#{s.name}">{escape(s.title)}</a>' for s in sections)
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="verdict">{words(told)}</p>' for told in what_it_is(sections)),
        *(f'<p class="muted">{words(line)}</p>' for line in about),
        first_screen(sections),
        f"<nav>{links}</nav>",
        *(part(section) for section in sections),
    ]
    return page(f"{title}: report", body, STYLE)


def first_screen(sections: list[Section]) -> str:
    """Return the verdicts, those of one mark together."""
    groups = []
    for mark, group in by_mark(sections):
        items = "".join(
            f'<li><a href="#{s.name}">{escape(s.title)}</a> {words(s.verdict)}</li>' for s in group
        )
        groups.append(f'<div class="{css(mark)}"><h2>{MARKS[mark]}</h2><ul>{items}</ul></div>')
    return f'<div class="look">{"".join(groups)}</div>'


def css(mark: str) -> str:
    return mark.replace(" ", "-")


def part(section: Section) -> str:
    """Return one section."""
    mark = section.mark
    return "\n".join(
        [
            f'<section class="part {css(mark)}" id="{section.name}"><h2>{escape(section.title)}'
            f'<span class="mark">{MARKS[mark]}</span></h2>',
            f'<p class="verdict">{words(section.verdict)}</p>',
            *(shown(block) for block in section.blocks),
            f'<p class="muted">{section.seconds:.1f} s</p></section>',
        ]
    )


def shown(block: Block) -> str:
    """Return a block as HTML."""
    title = getattr(block, "title", "")
    head = f"<h3>{escape(title)}</h3>" if title else ""
    if isinstance(block, Figures):
        return f'{head}<div class="scroll">{figures(block.measures)}</div>'
    if isinstance(block, Table):
        rows = [[escape(cell) for cell in row] for row in block.rows]
        return f'{head}<div class="scroll">{table([escape(h) for h in block.head], rows)}</div>'
    if isinstance(block, Picture):
        source = f"data:image/png;base64,{b64encode(block.png).decode()}"
        return (
            f'<figure><img src="{source}" alt="{escape(block.alt)}">'
            f"<figcaption>{words(block.caption)}</figcaption></figure>"
        )
    if isinstance(block, Passage):
        return f"{head}<pre>{escape(visible(block.text))}</pre>"
    return f"<p>{words(block.text)}</p>"


def words(text: str) -> str:
    """Return running text as HTML; a number and its unit stay in one line."""
    return escape(text).replace(" %", "&nbsp;%").replace("n = ", "n&nbsp;=&nbsp;")


def visible(text: str) -> str:
    """Return text with control characters, which a page would swallow, as their pictures."""
    return re.sub(r"[\x00-\x08\x0b-\x1f]", lambda found: chr(0x2400 + ord(found[0])), text)


def figures(measures: list[Measure]) -> str:
    """Return a table of measures; how each is known stands below its name."""
    found = columns(measures)
    found["value"] = [re.sub(r"(?<=\d) ", "&nbsp;", cell) for cell in found["value"]]
    names = [
        escape(m.title) + (f"<small>{escape(m.how)}</small>" if m.how else "") for m in measures
    ]
    return table(["", *found], [list(row) for row in zip(names, *found.values(), strict=True)])
