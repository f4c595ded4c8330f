"""How far a report is: a bar for a person, nothing for a file but the line of each section."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


class Progress:
    """Shows one bar at a time on a terminal, on stderr, and takes it away when it is full."""

    def __init__(self) -> None:
        self.is_shown = sys.stderr.isatty()

    def track(self, items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
        """Yield `items`; `total` is needed where they have no length."""
        if not self.is_shown:
            yield from items
            return
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        yield from track(items, f"  {what}", total, console=console, transient=True)
