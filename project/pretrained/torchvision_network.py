"""Any classification network of torchvision with a head of our own, to be fine-tuned.

Shape letters: B batch, C channels, H height, W width, D features, K classes.
"""

import difflib

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models


class TorchvisionNetwork(nn.Module):
    """A network of torchvision as `backbone`, whose last linear layer is replaced by `head`.

    Begins with random weights, so that a checkpoint reloads without a download; the published
    ones come with `--init_from torchvision:<name>`. They expect three channels of mean 0 and
    deviation 1, which is what `ImageData` gives, and saw images of about 224 pixels.

    Args:
        name: As in `torchvision.models.list_models(module=torchvision.models)`, such as
            `resnet18`.
        in_channels: Colour channels: 3 for RGB, or 1 for grey, which is repeated.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of logits.
        resize_to: Height and width that images are resized to first, bilinearly; null for none.
        dropout: Probability in [0, 1) of zeroing a feature before the head.

    Raises:
        ValueError: If there is no such network, it has no one linear layer at its end, or it
            cannot read images of that size.
    """

    def __init__(
        self,
        name: str = "resnet18",
        in_channels: int = 3,
        image_size: int = 224,
        num_classes: int = 10,
        resize_to: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if in_channels not in (1, 3):
            raise ValueError(f"in_channels {in_channels} must be 3, or 1 for grey images")
        self.name = name
        self.in_channels, self.image_size, self.num_classes = in_channels, image_size, num_classes
        self.resize_to, self.dropout = resize_to, dropout
        self.backbone = without_weights(name)
        place, last = last_linear_layer(self.backbone, name)
        self.backbone.set_submodule(place, nn.Identity())
        self.head = nn.Linear(last.in_features, num_classes)
        nn.init.zeros_(self.head.weight)  # the loss starts at ln K, whatever the input
        nn.init.zeros_(self.head.bias)
        self.to(memory_format=torch.channels_last)  # as in `CNN`: faster, on CPUs too
        self.check_size()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) for images (B, C, H, W)."""
        x = images.expand(-1, 3, -1, -1)  # (B, 3, H, W)
        if self.resize_to is not None:
            size = (self.resize_to, self.resize_to)
            x = F.interpolate(x, size, mode="bilinear", antialias=True)
        features = self.backbone(x.contiguous(memory_format=torch.channels_last))  # (B, D)
        return self.head(F.dropout(features, self.dropout, self.training))  # (B, K)

    @torch.no_grad()
    def check_size(self) -> None:
        """Read one empty image: some networks take one size only, others none below a limit."""
        self.eval()
        try:
            self(torch.zeros(1, self.in_channels, self.image_size, self.image_size))
        except (AssertionError, RuntimeError, ValueError) as error:
            size = self.resize_to or self.image_size
            raise ValueError(
                f"{self.name} cannot read images of {size} x {size} pixels; set "
                f"--model.network.resize_to 224 ({str(error).splitlines()[0][:80]})"
            ) from error
        self.train()


def without_weights(name: str) -> nn.Module:
    """Return a network of torchvision with random weights.

    Raises:
        ValueError: With the nearest name, if there is none of that name.
    """
    names = models.list_models(module=models)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3) or ["resnet18", "efficientnet_b0"]
        raise ValueError(f"torchvision has no network {name!r}; near are {', '.join(near)}")
    return models.get_model(name, weights=None)


def last_linear_layer(network: nn.Module, name: str) -> tuple[str, nn.Linear]:
    """Return the dotted name of the last linear layer, and the layer.

    Raises:
        ValueError: If there is none, or there are logits besides (Inception, GoogLeNet).
    """
    linear = [(path, m) for path, m in network.named_modules() if isinstance(m, nn.Linear)]
    if not linear or getattr(network, "aux_logits", False):
        raise ValueError(
            f"{name} does not end in one linear layer that could be replaced; take a resnet, "
            "convnext, efficientnet or vit instead"
        )
    return linear[-1]
