"""Augmentation of image batches as tensors: every sample draws its own parameters.

Draws are a function of (seed, epoch, sample) and of nothing else, so they are the same on every
device, for every batch size and number of processes, and after a resume. (torchvision's v2
transforms draw one set of parameters for a whole batch: pytorch/vision#8484.)

Shape letters: B batch, C channels, H height, W width.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

NUM_DRAWS = 10  # uniform numbers that one sample consumes, whatever is switched on


class Augmentation:
    """What may happen to a training image; a value of 0 switches a change off.

    Pixels that come from outside the image are 0 (black).

    Args:
        rotate_degrees: Turn by up to this angle, either way.
        scale: Zoom by a factor in [1 - scale, 1 + scale]; below 1.
        shear_degrees: Slant by up to this angle, either way; below 90.
        translate_pixels: Move by up to this distance in each direction, in fractions of pixels
            (bilinear, together with the three above).
        shift_pixels: Move by up to this many whole pixels in each direction (cheaper on a CPU).
        cutout_pixels: Blank one square of this side, centred anywhere in the image
            (DeVries & Taylor 2017, arXiv:1708.04552).
        flip: Mirror left and right with probability 1/2; not for digits and letters.

    Raises:
        ValueError: If a value is negative or too large.
    """

    def __init__(
        self,
        rotate_degrees: float = 0.0,
        scale: float = 0.0,
        shear_degrees: float = 0.0,
        translate_pixels: float = 0.0,
        shift_pixels: int = 0,
        cutout_pixels: int = 0,
        flip: bool = False,
    ) -> None:
        limits = {"scale": (scale, 1.0), "shear_degrees": (shear_degrees, 90.0)}
        for name, (value, limit) in limits.items():
            if not 0 <= value < limit:
                raise ValueError(f"{name} {value} must lie in [0, {limit:g})")
        if min(rotate_degrees, translate_pixels, shift_pixels, cutout_pixels) < 0:
            raise ValueError("no augmentation may be negative: each is applied either way")
        self.rotate_degrees = rotate_degrees
        self.scale = scale
        self.shear_degrees = shear_degrees
        self.translate_pixels = translate_pixels
        self.shift_pixels = shift_pixels
        self.cutout_pixels = cutout_pixels
        self.flip = flip

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return augmented images.

        Args:
            images: Float (B, C, H, W).
            draws: Float32 (B, NUM_DRAWS) in [0, 1), from `uniform_draws`.
        """
        if self.rotate_degrees or self.scale or self.shear_degrees or self.translate_pixels:
            images = self.warp(images, 2 * draws[:, :5] - 1)
        if self.shift_pixels:
            images = self.shift(images, draws[:, 5:7])
        if self.cutout_pixels:
            images = self.cutout(images, draws[:, 7:9])
        if self.flip:
            is_mirrored = (draws[:, 9, None, None, None] < 0.5).to(images.dtype)
            # Exactly one or the other, in less than half the time of `where` on a CPU.
            images = torch.lerp(images, images.flip(-1), is_mirrored)
        return images

    def warp(self, images: Tensor, signed: Tensor) -> Tensor:
        """Rotate, zoom, shear and translate about the centre; `signed` (B, 5) is in [-1, 1)."""
        height, width = images.shape[-2:]
        angle = signed[:, 0] * math.radians(self.rotate_degrees)  # (B,)
        zoom = 1 / (1 + signed[:, 1] * self.scale)  # the grid maps output to input: inverse
        slant = torch.tan(signed[:, 2] * math.radians(self.shear_degrees))
        # Distances are in units of half the image, as affine_grid counts them.
        right = signed[:, 3] * self.translate_pixels * 2 / width
        down = signed[:, 4] * self.translate_pixels * 2 / height
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        matrix = torch.stack([cos, slant * cos - sin, right, sin, slant * sin + cos, down], dim=1)
        matrix = matrix.view(-1, 2, 3)
        # `affine_grid` in an eighth of its time, and in float32 whatever matrix products are in.
        across = matrix[:, :, :1] * pixel_centres(width, images.device)  # (B, 2, W)
        along = matrix[:, :, 1:2] * pixel_centres(height, images.device) + matrix[:, :, 2:]
        grid = (across[:, :, None, :] + along[:, :, :, None]).permute(0, 2, 3, 1)  # (B, H, W, 2)
        return F.grid_sample(images, grid, align_corners=False)  # (B, C, H, W)

    def shift(self, images: Tensor, draws: Tensor) -> Tensor:
        """Move by whole pixels: cut a window out of the padded image; `draws` is (B, 2)."""
        height, width = images.shape[-2:]
        padded = F.pad(images, [self.shift_pixels] * 4)  # (B, C, H', W')
        start = (draws * (2 * self.shift_pixels + 1)).long()  # (B, 2)
        lines = start[:, :1] + torch.arange(height, device=images.device)  # (B, H)
        planes = torch.arange(padded[:, :, 0, 0].numel(), device=images.device)
        planes = planes.view(images.shape[:2]) * padded[0, 0].numel()  # (B, C)
        first = planes[:, :, None] + (lines * padded.shape[-1] + start[:, 1:])[:, None]
        # Whole lines of the image, as rows of a view of all that could be: no gather by pixels.
        lines_anywhere = padded.flatten().unfold(0, width, 1)
        return lines_anywhere.index_select(0, first.flatten()).view(images.shape)

    def cutout(self, images: Tensor, draws: Tensor) -> Tensor:
        """Blank a square whose centre is `draws` (B, 2) times the size of the image."""
        size = draws.new_tensor(images.shape[-2:])
        first = (draws * size).floor() - self.cutout_pixels // 2  # (B, 2)
        inside = []
        for axis in range(2):
            pixel = torch.arange(images.shape[2 + axis], device=images.device)
            distance = pixel - first[:, axis, None]
            inside.append((distance >= 0) & (distance < self.cutout_pixels))
        blank = inside[0][:, None, :, None] & inside[1][:, None, None, :]  # (B, 1, H, W)
        return images * (~blank).to(images.dtype)  # half the time of `masked_fill` on a CPU


def uniform_draws(seed: int, epoch: int, samples: Tensor, num_draws: int = NUM_DRAWS) -> Tensor:
    """Return float32 (B, num_draws) in [0, 1), a function of (seed, epoch, sample) alone.

    A counter-based generator: splitmix64 (Steele, Lea & Flood 2014) of the coordinates, in
    int64 arithmetic, so that a CPU and a GPU draw the same.

    Args:
        samples: Index of each sample in its data set, int64 (B,).
    """
    key = scramble(scramble(samples + epoch_key(seed, epoch)))  # (B,)
    counter = torch.arange(num_draws, device=samples.device) * -7046029254386353131
    bits = scramble(key[:, None] + counter)  # (B, num_draws)
    return ((bits >> 40) & 0xFFFFFF).float() / 2**24


@lru_cache
def epoch_key(seed: int, epoch: int) -> int:
    return int(scramble(scramble(torch.tensor(seed)) + epoch))


@lru_cache
def pixel_centres(count: int, device: torch.device) -> Tensor:
    """Return where `count` pixels in a row have their middles, in units of half the image."""
    return (2 * torch.arange(count, device=device) + 1) / count - 1


def scramble(x: Tensor) -> Tensor:
    """Return the output function of splitmix64 for int64 `x`; multiplication wraps around."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
