"""A classifier and the images that it is asked about, opened for a report.

Shape letters: B batch, C channels, H height, W width, K classes, N images of a split.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from project.data.images import ImageData

if TYPE_CHECKING:
    from project.reporting.images.neighbours import Known

BATCH = 500  # images that are classified at once


class Classifier(nn.Module):
    """A network with its normalisation inside: pixels in [0, 1] to logits, both float32.

    So an attack, a corruption or an attribution is stated in pixels, whatever the network was
    trained on. Its parameters ask for no gradient; a gradient reaches the pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        """Take a network and the statistics of its training pixels in [0, 255], (C,)."""
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean[:, None, None].float() / 255)
        self.register_buffer("std", std[:, None, None].float() / 255)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (B, K) for pixels (B, C, H, W) in [0, 1]."""
        return self.network((pixels - self.mean) / self.std).float()


class Images:
    """A classifier and the images that it is asked about.

    Attributes:
        classifier: Frozen, in evaluation mode.
        class_names: Of the logits, (K,).
        splits: Names of those there are: `train`, `val`, `test`.
    """

    def __init__(self, network: nn.Module, data: ImageData, device: torch.device) -> None:
        assert data.mean is not None
        self.data, self.device = data, device
        self.classifier = Classifier(network, data.mean, data.std).eval().to(device)
        self.classifier.requires_grad_(False)
        self.class_names = list(data.class_names)
        self.splits = list(data.splits)
        self.known_logits: dict[str, Tensor] = {}
        self.known: Known | None = None  # of `known_images`, once it has searched

    def count(self, split: str) -> int:
        return len(self.data.splits[split].labels)

    def labels(self, split: str, indices: Tensor | None = None) -> Tensor:
        """Return labels int64 (N,) on the CPU, or those at `indices`."""
        labels = self.data.splits[split].labels.cpu()
        return labels if indices is None else labels[indices]

    def pixels(self, split: str, indices: Tensor | None = None) -> Tensor:
        """Return images float32 (N, C, H, W) in [0, 1] on the device, or those at `indices`."""
        images = self.data.splits[split].images
        chosen = images if indices is None else images[indices.to(images.device)]
        return chosen.to(self.device).float() / 255

    def sample(self, split: str, n: int, generator: torch.Generator) -> Tensor:
        """Return the sorted indices of `n` images drawn without repetition; of all where fewer.

        Not the first n: MNIST's first 5,000 test images are easier than the others.
        """
        return torch.randperm(self.count(split), generator=generator)[:n].sort().values

    @torch.no_grad()
    def classify(self, pixels: Tensor) -> Tensor:
        """Return logits (N, K) on the CPU for pixels (N, C, H, W) in [0, 1]."""
        parts = [self.classifier(part.to(self.device)).cpu() for part in pixels.split(BATCH)]
        return torch.cat(parts)

    def logits(self, split: str) -> Tensor:
        """Return the logits of all images of a split, (N, K) on the CPU, computed once."""
        if split not in self.known_logits:
            indices = torch.arange(self.count(split)).split(BATCH)
            parts = [self.classify(self.pixels(split, part)) for part in indices]
            self.known_logits[split] = torch.cat(parts)
        return self.known_logits[split]

    @property
    def measured_split(self) -> str:
        """Return `test`, or `val` where the data have no test split."""
        return "test" if "test" in self.splits else "val"
