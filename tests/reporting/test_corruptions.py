"""Each kind of damage: shapes, range, draws, order, and what it is by hand."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from project.data.image_sets import Digits
from project.reporting.images.corruptions import CORRUPTIONS, SEVERITIES, blur

KINDS = {kind.name: kind for kind in CORRUPTIONS}
every_kind = pytest.mark.parametrize("name", KINDS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def digits(side: int, channels: int = 1) -> Tensor:
    """Return images float32 (50, C, side, side) in [0, 1]."""
    images = Digits().load(Path())[0].images[:50].float() / 255
    images = F.interpolate(images, size=(side, side), mode="bilinear").clamp(0, 1)
    return images.expand(-1, channels, -1, -1).contiguous()


@every_kind
@pytest.mark.parametrize(("side", "channels"), [(8, 1), (28, 1), (32, 3)])
def test_shape_range_and_draws(name, side, channels) -> None:
    kind, pixels = KINDS[name], digits(side, channels)
    before = pixels.clone()
    assert torch.equal(kind(pixels, 0, generator()), pixels)
    for severity in SEVERITIES:
        damaged = kind(pixels, severity, generator())
        assert damaged.shape == pixels.shape
        assert damaged.dtype == torch.float32
        assert 0 <= damaged.min() <= damaged.max() <= 1
        assert torch.equal(damaged, kind(pixels, severity, generator()))
        is_damaged = (damaged != pixels).flatten(1).any(dim=1)
        assert is_damaged.float().mean() > 0.5  # impulses may miss a small image
    assert torch.equal(pixels, before)


@every_kind
@pytest.mark.parametrize("side", [8, 28])
def test_the_change_grows_with_the_severity(name, side) -> None:
    pixels = digits(side)
    changes = [
        (KINDS[name](pixels, severity, generator()) - pixels).abs().mean().item()
        for severity in (0, *SEVERITIES)
    ]
    assert changes == sorted(changes)
    assert changes[5] > 1.2 * changes[1] > 0


DRAWN = sorted(KINDS.keys() - {"Gaussian blur", "scale", "brightness", "contrast", "stripes"})


@pytest.mark.parametrize("name", DRAWN)
def test_each_image_draws_its_own(name) -> None:
    same = digits(28)[:1].expand(40, -1, -1, -1)
    damaged = KINDS[name](same, 3, generator())
    assert (damaged != damaged[:1]).any()
    assert (damaged != KINDS[name](same, 3, generator(1))).any()


def test_geometry_is_that_of_the_pixels() -> None:
    pixels = torch.zeros(20, 1, 28, 28)
    pixels[:, :, 12:16, 10:13] = 1.0  # 4 high, 3 wide
    moved = KINDS["translation"](pixels, 2, generator())
    places = set()
    for image in moved:
        rows, columns = (image[0] > 0.5).nonzero().unbind(1)
        assert image.sum() == pytest.approx(12, abs=1e-3)  # whole pixels: nothing is smeared
        places.add((int(rows.min()) - 12, int(columns.min()) - 10))
    assert places == {(2, 2), (2, -2), (-2, 2), (-2, -2)}

    halved = KINDS["scale"](pixels, 5, generator())
    assert halved.sum(dim=(1, 2, 3)).mean() == pytest.approx(12 / 4, rel=0.3)
    centred = torch.zeros(20, 1, 28, 28)
    centred[:, :, 4:24, 13:15] = 1.0
    turned = KINDS["rotation"](centred, 3, generator())  # an upright bar, by 34.4 degrees
    rows, columns = (torch.arange(28) - 13.5 for _ in range(2))
    slopes = ((turned[:, 0] * rows[:, None]) * columns).sum(dim=(1, 2)) / (
        turned[:, 0] * rows[:, None] ** 2
    ).sum(dim=(1, 2))
    assert slopes.abs().mean() == pytest.approx(0.685, abs=0.05)  # tan of 34.4 degrees
    assert slopes.min() < 0 < slopes.max()
    slanted = KINDS["shear"](centred, 2, generator())
    slopes = ((slanted[:, 0] * rows[:, None]) * columns).sum(dim=(1, 2)) / (
        slanted[:, 0] * rows[:, None] ** 2
    ).sum(dim=(1, 2))
    assert slopes.abs().mean() == pytest.approx(0.4, abs=0.03)
    assert slopes.min() < 0 < slopes.max()


def test_levels_are_what_they_say() -> None:
    grey = torch.full((200, 1, 28, 28), 0.5)
    for severity, std in enumerate(KINDS["Gaussian noise"].levels[:3], 1):
        noise = KINDS["Gaussian noise"](grey, severity, generator()) - grey
        assert noise.std() == pytest.approx(std, rel=0.02)
    shot = KINDS["shot noise"](grey, 1, generator())
    assert shot.mean() == pytest.approx(0.5, abs=0.005)
    assert shot.std() == pytest.approx((0.5 / 60) ** 0.5, rel=0.03)
    lost = KINDS["impulse noise"](grey, 5, generator())
    assert (lost == 0).float().mean() == pytest.approx(0.135, abs=0.01)
    assert (lost == 1).float().mean() == pytest.approx(0.135, abs=0.01)
    covered = KINDS["spatter"](grey, 5, generator()) == torch.tensor(63 / 255)
    assert covered.float().mean(dim=(1, 2, 3)).sub(0.3).abs().max() < 0.01
    inverted = KINDS["stripes"](torch.zeros(1, 1, 28, 28), 5, generator())
    assert inverted[0, 0, 0].tolist() == 7 * [1.0] + 14 * [0.0] + 7 * [1.0]  # as in MNIST-C
    flat = KINDS["contrast"](digits(28), 3, generator())
    torch.testing.assert_close(flat.mean(dim=(1, 2, 3)), digits(28).mean(dim=(1, 2, 3)))
    spread = digits(28).flatten(1).std(dim=1)
    torch.testing.assert_close(flat.flatten(1).std(dim=1), 0.2 * spread)


def test_blur_is_a_mean_with_the_spread_of_sigma() -> None:
    spot = torch.zeros(1, 1, 29, 29)
    spot[0, 0, 14, 14] = 1.0
    spread = blur(spot, 2.0)[0, 0]
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    distance = (torch.arange(29) - 14.0) ** 2
    assert (spread.sum(dim=0) * distance).sum() == pytest.approx(4, rel=0.05)
    torch.testing.assert_close(blur(torch.ones(2, 3, 8, 8), 3.0), torch.ones(2, 3, 8, 8))


def test_other_severities_are_refused() -> None:
    with pytest.raises(ValueError, match="severity 6 of zigzag must be 0 to 5"):
        KINDS["zigzag"](digits(8), 6, generator())
