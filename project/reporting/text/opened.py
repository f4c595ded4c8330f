"""A language model and the text that it is asked about, opened for a report.

Shape letters: B windows, T tokens of a window, V vocabulary, N tokens of a split.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from project.data.loader import IGNORED
from project.data.text import TextData, TokenBatch, take_windows
from project.tasks.language_modeling import token_losses


class Text:
    """A language model and the text that it is asked about.

    Attributes:
        splits: Names of those there are.
    """

    def __init__(self, task: Any, data: TextData, device: torch.device) -> None:
        self.task, self.network, self.data, self.device = task, task.network, data, device
        self.network.requires_grad_(False)
        self.tokenizer = data.tokenizer
        self.splits = list(data.splits)
        self.context_length = data.context_length
        self.known_losses: dict[str, Tensor] = {}

    def tokens(self, split: str) -> Any:
        """Return the tokens of a split, unsigned (N,), mapped from the disk."""
        return self.data.splits[split]

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Return the text of each token."""
        return [self.tokenizer.decode([int(token)]) for token in tokens]

    def windows(
        self,
        split: str,
        n: int,
        generator: torch.Generator,
        length: int | None = None,
        apart: int | None = None,
    ) -> TokenBatch:
        """Return `n` windows in a random order, or all there are.

        Args:
            length: Tokens of a window, of which the split may have fewer; the context by default.
            apart: Tokens between two beginnings, at least. By default windows do not overlap, so
                that an interval may take them for independent.
        """
        tokens = self.tokens(split)
        length = min(length or self.context_length, len(tokens) - 1)
        starts = separate_starts(len(tokens) - length, n, apart or length, generator)
        counted = np.full(len(starts), length)
        return take_windows(tokens, starts, counted, length, continues=False)

    @torch.no_grad()
    def logits(self, inputs: Tensor) -> Tensor:
        """Return logits float32 (B, T, V) on the CPU for tokens int64 (B, T), from nothing read."""
        return self.network(inputs.to(self.device)).float().cpu()

    @torch.no_grad()
    def losses_of(self, batch: TokenBatch, rows: int = 64) -> Tensor:
        """Return the loss of each target of windows, nats float32 (B, T) on the CPU."""
        parts = [
            token_losses(self.network(inputs.to(self.device)), targets.to(self.device)).cpu()
            for inputs, targets in zip(
                batch.inputs.split(rows), batch.targets.split(rows), strict=True
            )
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def readings(self, split: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield logits, targets and their places for all of a split, as in its test.

        Read in the order of the text, recurrent networks with their state. Logits (n, V) and
        targets int64 (n,) are on the device; places int64 (n,), on the CPU, count from the second
        token of the split, each once.
        """
        state: Any = None
        for batch in self.data.evaluation_loader(split):
            counted = batch.targets != IGNORED  # (B, T)
            assert batch.starts is not None
            places = batch.starts[:, None] + torch.arange(counted.shape[1])
            batch = batch._replace(
                inputs=batch.inputs.to(self.device), targets=batch.targets.to(self.device)
            )
            logits, state = self.task.read(batch, state if batch.continues else None)
            logits, targets = logits.flatten(0, 1), batch.targets.flatten()
            if not counted.all():  # else a copy of all logits
                logits, targets = logits[targets != IGNORED], targets[targets != IGNORED]
            yield logits, targets, places[counted]

    def losses(self, split: str) -> Tensor:
        """Return the loss of each token of a split after its first, nats (N - 1,), as in its test.

        Computed once.
        """
        if split not in self.known_losses:
            losses = torch.zeros(len(self.tokens(split)) - 1)
            for logits, targets, places in self.readings(split):
                losses[places] = token_losses(logits[None], targets[None])[0].cpu()
            self.known_losses[split] = losses
        return self.known_losses[split]

    def windows_read(self, split: str) -> tuple[Tensor, Tensor]:
        """Return of each token after the first: the number of its window, what was read before.

        Both int64 (N - 1,), of the windows of a test. What was read is the number of tokens, the
        one just before included, since the network began from nothing.
        """
        keeps_state = hasattr(self.network, "extend") and not hasattr(
            self.network, "context_length"
        )
        numbers = torch.zeros(len(self.tokens(split)) - 1, dtype=torch.int64)
        read, count, before = numbers.clone(), 0, 0
        for batch in self.data.evaluation_loader(split):
            counted = batch.targets != IGNORED
            assert batch.starts is not None
            rows, length = counted.shape
            places = (batch.starts[:, None] + torch.arange(length))[counted]
            before = before + length if batch.continues and keeps_state else 0
            numbers[places] = (count + torch.arange(rows)[:, None]).expand(rows, length)[counted]
            read[places] = (before + 1 + torch.arange(length)).expand(rows, length)[counted]
            count += rows
        return numbers, read

    @cached_property
    def byte_counts(self) -> Tensor:
        """Return the bytes that each token stands for, int64 (V,)."""
        return torch.tensor(self.tokenizer.byte_counts())

    @property
    def measured_split(self) -> str:
        """Return `test`, or `val` where the data have no test split."""
        return "test" if "test" in self.splits else "val"


def separate_starts(
    places: int, n: int, apart: int, generator: torch.Generator
) -> NDArray[np.int64]:
    """Return `n` of the numbers from 0 to `places` - 1, any two at least `apart` from another.

    In a random order; as many as there are where these are fewer.
    """
    slots = (places - 1) // apart + 1
    spare = places - 1 - (slots - 1) * apart
    offset = torch.randint(spare + 1, (1,), generator=generator)
    return (offset + apart * torch.randperm(slots, generator=generator)[:n]).numpy()
