"""Augmentation of image batches as tensors: every sample draws its own parameters.

Draws are a function of (seed, epoch, sample) and of nothing else, so they are the same on every
device, for every batch size and number of processes, and after a resume. (torchvision's v2
transforms draw one set of parameters for a whole batch: pytorch/vision#8484.)

Shape letters: B batch, C channels, H height, W width.
"""

import math

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
            images = torch.where(draws[:, 9, None, None, None] < 0.5, images.flip(-1), images)
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
        grid = F.affine_grid(matrix.view(-1, 2, 3), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)  # (B, C, H, W)

    def shift(self, images: Tensor, draws: Tensor) -> Tensor:
        """Move by whole pixels: cut a window out of the padded image; `draws` is (B, 2)."""
        _, channels, height, width = images.shape
        padded = F.pad(images, [self.shift_pixels] * 4)
        start = (draws * (2 * self.shift_pixels + 1)).long()  # (B, 2)
        rows = start[:, 0, None] + torch.arange(height, device=images.device)  # (B, H)
        columns = start[:, 1, None] + torch.arange(width, device=images.device)  # (B, W)
        rows = rows[:, None, :, None].expand(-1, channels, -1, padded.shape[-1])
        columns = columns[:, None, None, :].expand(-1, channels, height, -1)
        return padded.gather(2, rows).gather(3, columns)  # (B, C, H, W)

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
        return images.masked_fill(blank, 0.0)


def uniform_draws(seed: int, epoch: int, samples: Tensor, num_draws: int = NUM_DRAWS) -> Tensor:
    """Return float32 (B, num_draws) in [0, 1), a function of (seed, epoch, sample) alone.

    A counter-based generator: splitmix64 (Steele, Lea & Flood 2014) of the coordinates, in
    int64 arithmetic, so that a CPU and a GPU draw the same.

    Args:
        samples: Index of each sample in its data set, int64 (B,).
    """
    key = scramble(scramble(torch.tensor(seed)) + epoch).to(samples.device)  # ()
    key = scramble(scramble(key + samples))  # (B,)
    counter = torch.arange(num_draws, device=samples.device) * -7046029254386353131
    bits = scramble(key[:, None] + counter)  # (B, num_draws)
    return ((bits >> 40) & 0xFFFFFF).float() / 2**24


def scramble(x: Tensor) -> Tensor:
    """Return the output function of splitmix64 for int64 `x`; multiplication wraps around."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
