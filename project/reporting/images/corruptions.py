"""Damage to images that no one intends: noise, blur, geometry, light, dirt, in five severities.

In the style of MNIST-C (Mu & Gilmer 2019, arXiv:1906.02337), whose kinds and numbers come in part
from ImageNet-C (Hendrycks & Dietterich 2019, arXiv:1903.12261). Written anew on tensors, for any
size and any number of channels, so figures are not comparable with published ones of MNIST-C.

Lengths are pixels of an image of side 28, and grow with the image. Each image draws its own
damage; the draws are the same at each severity. Pixels are in [0, 1], 0 is black.

Shape letters: B batch, C channels, H height, W width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from project.tasks.attacks import uniform_like

SIDE = 28  # of the images that lengths are stated for
SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """One kind of damage.

    Attributes:
        levels: Of severity 1 to 5, in `unit`.
        unit: What a level is.
        damage: From pixels (B, C, H, W), a level and a generator on the CPU to pixels.
    """

    name: str
    levels: tuple[float, float, float, float, float]
    unit: str
    damage: Callable[[Tensor, float, torch.Generator], Tensor]

    def __call__(self, pixels: Tensor, severity: int, generator: torch.Generator) -> Tensor:
        """Return damaged pixels float32 (B, C, H, W) in [0, 1]; severity 0 leaves them.

        Raises:
            ValueError: If there is no such severity.
        """
        if severity not in (0, *SEVERITIES):
            raise ValueError(f"severity {severity} of {self.name} must be 0 to {SEVERITIES[-1]}")
        if severity == 0:
            return pixels
        return self.damage(pixels, self.levels[severity - 1], generator).clamp(0, 1)


def gaussian_noise(pixels: Tensor, std: float, generator: torch.Generator) -> Tensor:
    return pixels + std * torch.randn(pixels.shape, generator=generator).to(pixels)


def shot_noise(pixels: Tensor, photons: float, generator: torch.Generator) -> Tensor:
    return torch.poisson(pixels.cpu() * photons, generator=generator).to(pixels) / photons


def impulse_noise(pixels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    draws = uniform_like(pixels, generator)
    pixels = torch.where(draws < share / 2, 0.0, pixels)
    return torch.where(draws > 1 - share / 2, 1.0, pixels)


def gaussian_blur(pixels: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    return blur(pixels, sigma * min(pixels.shape[-2:]) / SIDE)


def motion_blur(pixels: Tensor, length: float, generator: torch.Generator) -> Tensor:
    """Take the mean over a way of some length, at an angle in [-45, 45] degrees."""
    angle = (uniform_like(pixels[:, 0, 0, 0], generator) - 0.5) * math.pi / 2  # (B,)
    way = torch.stack([angle.cos(), angle.sin()], dim=1) * length / SIDE  # (B, 2) of the side
    moments = torch.linspace(-0.5, 0.5, 2 * math.ceil(length) + 1).tolist()
    return sum((moved(pixels, moment * way) for moment in moments), start=0 * pixels) / len(moments)


def shear(pixels: Tensor, slant: float, generator: torch.Generator) -> Tensor:
    one, none = torch.ones(len(pixels)), torch.zeros(len(pixels))
    slants = slant * either_way(len(pixels), generator)
    return warp(pixels, torch.stack([one, slants, none, none, one, none], dim=1))


def rotate(pixels: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    angle = math.radians(degrees) * either_way(len(pixels), generator)
    cos, sin, none = angle.cos(), angle.sin(), torch.zeros(len(pixels))
    return warp(pixels, torch.stack([cos, -sin, none, sin, cos, none], dim=1))


def scale(pixels: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    matrix = torch.tensor([1 / factor, 0.0, 0.0, 0.0, 1 / factor, 0.0])
    return warp(pixels, matrix.expand(len(pixels), 6))


def translate(pixels: Tensor, distance: float, generator: torch.Generator) -> Tensor:
    signs = either_way(2 * len(pixels), generator).view(-1, 2)
    return moved(pixels, signs * distance / SIDE)


def brightness(pixels: Tensor, more: float, generator: torch.Generator) -> Tensor:
    return pixels + more


def contrast(pixels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    mean = pixels.mean(dim=(2, 3), keepdim=True)
    return mean + share * (pixels - mean)


def stripe(pixels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    width = pixels.shape[-1]
    band = max(1, round(share * width))
    column = torch.arange(width, device=pixels.device)
    return torch.where((column < band) | (column >= width - band), 1 - pixels, pixels)


def spatter(pixels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Cover a share of the image by drops of dark mud: where smooth noise is highest."""
    noise = torch.randn(pixels[:, :1].shape, generator=generator).to(pixels)
    smooth = blur(noise, 1.5 * min(pixels.shape[-2:]) / SIDE)
    limit = smooth.flatten(1).quantile(1 - share, dim=1)
    return torch.where(smooth > limit[:, None, None, None], 63 / 255, pixels)


def dotted_line(pixels: Tensor, lines: float, generator: torch.Generator) -> Tensor:
    """Draw straight lines from the left to the right edge, with gaps as long as the dots."""
    ends = uniform_like(pixels.new_empty(len(pixels), SEVERITIES[-1], 2), generator)
    across = centres(pixels)  # (W,) in [0, 1]
    dot = max(2 / SIDE, 1 / pixels.shape[-1])
    is_dot = (across / dot).floor() % 2 == 1
    for line in range(int(lines)):
        start, end = ends[:, line].unbind(1)
        height = start[:, None] + (end - start)[:, None] * across  # (B, W)
        pixels = pixels + stroke(pixels, height) * is_dot
    return pixels


def zigzag(pixels: Tensor, lines: float, generator: torch.Generator) -> Tensor:
    """Draw lines from the left to the right edge that go up and down by 2 pixels every 4."""
    draws = uniform_like(pixels.new_empty(len(pixels), SEVERITIES[-1], 2), generator)
    across = centres(pixels)
    phase = (across * SIDE / 8) % 1
    teeth = (4 * (phase - 0.5).abs() - 1) * 2 / SIDE  # (W,): a wave of triangles
    for line in range(int(lines)):
        start, rise = draws[:, line].unbind(1)
        slope = (rise - 0.5) * 10 / SIDE
        height = start[:, None] + slope[:, None] * across + teeth  # (B, W)
        pixels = pixels + stroke(pixels, height)
    return pixels


CORRUPTIONS = [
    Corruption("Gaussian noise", (0.08, 0.12, 0.18, 0.26, 0.38), "std", gaussian_noise),
    Corruption("shot noise", (60, 25, 12, 5, 3), "photons of a white pixel", shot_noise),
    Corruption(
        "impulse noise", (0.03, 0.06, 0.09, 0.17, 0.27), "share of pixels lost", impulse_noise
    ),
    Corruption("Gaussian blur", (0.5, 1, 1.5, 2, 3), "sigma, pixels", gaussian_blur),
    Corruption("motion blur", (3, 5, 7, 9, 11), "length, pixels", motion_blur),
    Corruption("shear", (0.2, 0.4, 0.6, 0.8, 1), "slant", shear),
    Corruption("scale", (0.9, 0.8, 0.7, 0.6, 0.5), "factor", scale),
    Corruption("rotation", (11.5, 22.9, 34.4, 45.8, 57.3), "degrees, either way", rotate),
    Corruption("translation", (1, 2, 3, 4, 5), "pixels, both ways", translate),
    Corruption("brightness", (0.1, 0.2, 0.3, 0.4, 0.5), "added", brightness),
    Corruption("contrast", (0.4, 0.3, 0.2, 0.1, 0.05), "share left", contrast),
    Corruption("stripes", (0.05, 0.1, 0.15, 0.2, 0.25), "share inverted, each side", stripe),
    Corruption("spatter", (0.05, 0.1, 0.15, 0.2, 0.3), "share covered", spatter),
    Corruption("dotted line", (1, 2, 3, 4, 5), "lines", dotted_line),
    Corruption("zigzag", (1, 2, 3, 4, 5), "lines", zigzag),
]


def either_way(count: int, generator: torch.Generator) -> Tensor:
    """Return -1 or 1, each with probability 1/2, float32 (count,)."""
    return torch.randint(2, (count,), generator=generator).float() * 2 - 1


def warp(pixels: Tensor, matrix: Tensor) -> Tensor:
    """Return pixels where `matrix` (B, 6) sends each, about the middle, in halves of the side."""
    grid = F.affine_grid(matrix.view(-1, 2, 3).to(pixels), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, align_corners=False)


def moved(pixels: Tensor, shares: Tensor) -> Tensor:
    """Return pixels (B, C, H, W) moved by `shares` (B, 2) of the width and the height."""
    one, none = torch.ones(len(pixels)), torch.zeros(len(pixels))
    right, down = (-2 * shares.cpu()).unbind(1)
    return warp(pixels, torch.stack([one, none, right, none, one, down], dim=1))


def blur(pixels: Tensor, sigma: float) -> Tensor:
    """Return pixels under a Gaussian filter; at the edges the last pixel goes on."""
    radius = math.ceil(3 * sigma)
    places = torch.arange(-radius, radius + 1, device=pixels.device)
    kernel = torch.exp(-(places**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(pixels)
    planes = pixels.flatten(0, 1)[:, None]  # (B * C, 1, H, W)
    planes = F.pad(planes, [radius] * 4, mode="replicate")
    planes = F.conv2d(F.conv2d(planes, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return planes.view(pixels.shape)


def centres(pixels: Tensor) -> Tensor:
    """Return where the middles of the columns are, in [0, 1], (W,)."""
    width = pixels.shape[-1]
    return (torch.arange(width, device=pixels.device) + 0.5) / width


def stroke(pixels: Tensor, height: Tensor) -> Tensor:
    """Return the white of a line at `height` (B, W) from the top, in [0, 1]: (B, 1, H, W)."""
    rows = pixels.shape[-2]
    row = (torch.arange(rows, device=pixels.device) + 0.5) / rows
    half = max(1.5 / SIDE, 0.75 / rows)  # of its width: a line is never lost between pixels
    distance = (row[:, None] - height[:, None, :]).abs()  # (B, H, W)
    return (1 - distance / half).clamp(min=0)[:, None]
