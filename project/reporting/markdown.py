"""A report as Markdown, for a repository or a pull request; pictures stay files beside it."""

from itertools import groupby

from project.reporting.findings import (
    MARKS,
    Block,
    Figures,
    Passage,
    Picture,
    Section,
    Table,
    by_mark,
    columns,
    what_it_is,
)
from project.reporting.page import visible
from project.web_page import is_words


def markdown_of(title: str, about: list[str], sections: list[Section]) -> str:
    """Return the same as `page.page_of`, in Markdown."""
    parts = [f"# {title}", *what_it_is(sections), *about, first_screen(sections)]
    for section in sections:
        parts += [f"## {section.title}: {MARKS[section.mark].lower()}", line(section.verdict)]
        parts += map(shown, section.blocks)
    return "\n\n".join(parts) + "\n"


def first_screen(sections: list[Section]) -> str:
    """Return the verdicts, those of one mark together."""
    parts = []
    for mark, group in by_mark(sections):
        parts += [
            f"**{MARKS[mark]}**",
            "\n".join(f"- **{s.title}**: {line(s.verdict)}" for s in group),
        ]
    return "\n\n".join(parts)


def shown(block: Block) -> str:
    """Return a block as Markdown."""
    title = getattr(block, "title", "")
    head = f"### {title}\n\n" if title else ""
    if isinstance(block, Figures):
        names, hows = ([getattr(m, name) for m in block.measures] for name in ("title", "how"))
        found = {"": names} | columns(block.measures) | {"how": hows}
        return head + table([*found], [list(row) for row in zip(*found.values(), strict=True)])
    if isinstance(block, Table):
        return head + table(block.head, block.rows)
    if isinstance(block, Picture):
        return f"![{block.alt}](figures/{block.name}.png)\n\n{block.caption}"
    if isinstance(block, Passage):
        longest = max((len(list(run)) for c, run in groupby(block.text) if c == "`"), default=0)
        fence = "`" * max(3, longest + 1)
        return f"{head}{fence}text\n{visible(block.text)}\n{fence}"
    return block.text


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table; bars and line ends in cells are kept from breaking it."""

    def row_of(cells: list[str]) -> str:
        return "| " + " | ".join(line(cell).replace("|", "\\|") for cell in cells) + " |"

    sides = ["---" if is_words([row[i] for row in rows]) else "---:" for i in range(1, len(head))]
    return "\n".join([row_of(head), row_of(["---", *sides]), *map(row_of, rows)])


def line(text: str) -> str:
    return " ".join(text.split())
