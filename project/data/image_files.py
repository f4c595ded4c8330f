"""An image file of any format, size and mode, as a network reads it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image


def read_image(path: Path, image_size: int, in_channels: int) -> tuple[Tensor, str]:
    """Return an image file as a network reads it, and what the file was, such as `640x480 RGBA`.

    uint8 (C, image_size, image_size): turned as its EXIF says, transparent parts on white, 16 bits
    scaled to 8, resized so that its shorter side is `image_size`, cut to the central square. Of
    several pictures in a file, the first.

    Raises:
        ValueError: If it cannot be read, with the reason.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            was = f"{opened.width}x{opened.height} {opened.mode}"
            image = ImageOps.exif_transpose(opened)
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                image = eight_bits(np.asarray(image))
            elif image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("L" if in_channels == 1 else "RGB")
    except Exception as error:  # Pillow has many for a damaged file, such as struct.error
        reason = getattr(error, "strerror", None) or str(error).partition(" '")[0]
        raise ValueError(f"{str(path)!r} is not a readable image: {reason}") from error
    square = ImageOps.fit(image, (image_size, image_size))
    pixels = torch.from_numpy(np.array(square))  # (H, W) or (H, W, C)
    return pixels.view(image_size, image_size, in_channels).permute(2, 0, 1), was


def eight_bits(values: NDArray[Any]) -> "Image.Image":
    """Return grey values of more than 8 bits as an image of 8.

    White is 1 where all are fractions in [0, 1], 255 where no number is larger, else 65,535; of
    unsigned 16 bits always 65,535.
    """
    from PIL import Image

    whites = {"f": (1, 255), "u": ()}.get(values.dtype.kind, (255,))
    white = next((limit for limit in whites if values.max() <= limit), 65535)
    return Image.fromarray((values.clip(0, white) * (255 / white)).round().astype(np.uint8))
