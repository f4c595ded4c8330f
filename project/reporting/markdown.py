"""A report as Markdown, for a repository or a pull request; pictures stay files beside it."""

from project.reporting.findings import (
    MARKS,
    Block,
    Figures,
    Passage,
    Picture,
    Section,
    Table,
)


def markdown_of(title: str, about: list[str], sections: list[Section]) -> str:
    """Return the same as `page.page_of`, in Markdown."""
    lines = [f"# {title}", "", *(f"{line}  " for line in about), ""]
    for mark, name in MARKS.items():
        here = [s for s in sections if s.mark == mark]
        if here:
            lines += [f"**{name}**", "", *(f"- **{s.title}**: {s.verdict}" for s in here), ""]
    for section in sections:
        lines += [f"## {section.title}: {MARKS[section.mark].lower()}", "", section.verdict, ""]
        for block in section.blocks:
            lines += [shown(block), ""]
    return "\n".join(lines)


def shown(block: Block) -> str:
    """Return a block as Markdown."""
    title = getattr(block, "title", "")
    head = f"### {title}\n\n" if title else ""
    if isinstance(block, Figures):
        names = ["", "value", "95 % interval", "n", "seed", "how"]
        rows = [
            [
                m.title,
                m.number(),
                m.interval(),
                "" if m.n is None else f"{m.n:,}",
                "" if m.seed is None else str(m.seed),
                m.how,
            ]
            for m in block.measures
        ]
        return head + table(names, rows)
    if isinstance(block, Table):
        return head + table(block.head, block.rows)
    if isinstance(block, Picture):
        return f"![{block.alt}](figures/{block.name}.png)\n\n{block.caption}"
    if isinstance(block, Passage):
        fence = "`" * max(3, longest_run(block.text, "`") + 1)
        return f"{head}{fence}text\n{block.text}\n{fence}"
    return block.text


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table; bars and line ends in cells are kept from breaking it."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(" ".join(c.split()).replace("|", "\\|") for c in cells) + " |"

    rule = "|" + "|".join([" :--- ", *(" ---: " for _ in head[1:])]) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def longest_run(text: str, character: str) -> int:
    longest = here = 0
    for c in text:
        here = here + 1 if c == character else 0
        longest = max(longest, here)
    return longest
