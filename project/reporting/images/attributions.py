"""Which pixels a class score rests on: attributions of any network from pixels to logits.

Every method returns one signed map an image, (B, H, W), summed over the channels: positive where
a pixel speaks for the class. `network` may be any module on pixels in [0, 1], in evaluation mode.

Shape letters: B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from project.reporting.subject import gradients

ROWS = 128  # images that go through a network at once where gradients are kept
RELUS = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)

Method = Callable[[nn.Module, Tensor, Tensor], Tensor]


def saliency(network: nn.Module, pixels: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient of the target's logit (Simonyan et al. 2013, arXiv:1312.6034), signed."""
    from captum.attr import Saliency

    with gradients():
        pixels = pixels.detach().clone().requires_grad_()
        return Saliency(network).attribute(pixels, target=targets, abs=False).sum(dim=1)


def integrated_gradients(
    network: nn.Module, pixels: Tensor, targets: Tensor, baseline: Tensor, steps: int = 64
) -> Tensor:
    """Return gradients along the straight path from a baseline, times the way (captum).

    Source: Sundararajan et al. 2017 (arXiv:1703.01365), Gauss-Legendre quadrature.

    Args:
        baseline: Image without evidence, (1, C, 1, 1) or (1, C, H, W); it gets no attribution
            where it equals the pixels, so a black one is silent about the absence of a stroke.
        steps: Points of the path.
    """
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(network)
    with gradients():
        maps = [
            method.attribute(
                part, baselines=baseline.expand_as(part), target=target, n_steps=steps
            ).sum(dim=1)
            for part, target in parts(pixels, targets, max(1, ROWS // steps))
        ]
    return torch.cat(maps).float()


@torch.no_grad()
def completeness(
    network: nn.Module, pixels: Tensor, targets: Tensor, baseline: Tensor, maps: Tensor
) -> tuple[Tensor, Tensor]:
    """Return |sum of attributions - difference| and |difference| of logits, each (B,).

    The difference is that of the target's logit between the image and the baseline, to which
    integrated gradients add up with enough steps.
    """
    rows = torch.arange(len(targets), device=targets.device)
    full, empty = network(pixels), network(baseline.expand_as(pixels))
    difference = (full - empty)[rows, targets]
    return (maps.sum(dim=(1, 2)) - difference).abs(), difference.abs()


def last_convolution(network: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """Return the dotted name of the convolution that was registered last, and it; None without."""
    found = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    return found[-1] if found else None


def grad_cam(network: nn.Module, pixels: Tensor, targets: Tensor) -> Tensor:
    """Return Grad-CAM of the last convolution, brought to the size of the image (captum).

    Source: Selvaraju et al. 2016 (arXiv:1610.02391), here without its last ReLU, so that what
    speaks against the class is kept and no map is constant.

    Raises:
        ValueError: If the network has no convolution.
    """
    from captum.attr import LayerGradCam

    if (last := last_convolution(network)) is None:
        raise ValueError(f"{type(network).__name__} has no nn.Conv2d, which Grad-CAM is about")
    with gradients():
        maps = LayerGradCam(network, last[1]).attribute(pixels.detach(), target=targets)
    maps = maps.detach().contiguous()  # (B, 1, h, w)
    return F.interpolate(maps, pixels.shape[2:], mode="bilinear", align_corners=False)[:, 0]


@torch.no_grad()
def occlusion(
    network: nn.Module, pixels: Tensor, targets: Tensor, baseline: Tensor, side: int, stride: int
) -> Tensor:
    """Return by how much the logit falls when a square is covered by the baseline (captum).

    Source: Zeiler & Fergus 2013 (arXiv:1311.2901). A pixel has the mean over its squares.

    Args:
        baseline: As for `integrated_gradients`.
        side: Of the square, in pixels; at most that of the image.
        stride: Pixels from one square to the next.
    """
    from captum.attr import Occlusion

    channels = pixels.shape[1]
    maps = Occlusion(network).attribute(
        pixels,
        sliding_window_shapes=(channels, side, side),
        strides=(channels, stride, stride),
        baselines=baseline.expand_as(pixels),
        target=targets,
    )
    return maps[:, 0].float()  # the same in each channel


class GuidedReLU(torch.autograd.Function):
    """ReLU through which only positive gradients flow back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clamp(min=0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return gradient[0].clamp(min=0) * (y > 0)


class Guided(TorchFunctionMode):
    """Makes every ReLU called inside its block a `GuidedReLU`, functional ones too.

    captum's class replaces modules `nn.ReLU` alone, and would leave `F.relu` as it is.

    Attributes:
        replaced: ReLUs so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.replaced = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in RELUS:
            self.replaced += 1
            return GuidedReLU.apply(args[0] if args else kwargs["input"])
        return func(*args, **(kwargs or {}))


def guided_backpropagation(network: nn.Module, pixels: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient with guided ReLUs (Springenberg et al. 2014, arXiv:1412.6806).

    Known to draw edges whatever the network has learnt: a negative control, not an explanation.

    Raises:
        ValueError: If the network has no ReLU, so that this would be `saliency`.
    """
    with gradients(), Guided() as guided:
        pixels = pixels.detach().clone().requires_grad_()
        scores = network(pixels).gather(1, targets[:, None]).sum()
        if guided.replaced == 0:
            raise ValueError(f"{type(network).__name__} has no ReLU for guided backpropagation")
        (gradient,) = torch.autograd.grad(scores, pixels)
    return gradient.sum(dim=1)


def parts(pixels: Tensor, targets: Tensor, rows: int) -> Any:
    """Return pairs of at most `rows` images and targets."""
    return zip(pixels.detach().split(rows), targets.split(rows), strict=True)
