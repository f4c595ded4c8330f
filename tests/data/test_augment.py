"""Augmentation: per sample, reproducible from coordinates, right in geometry."""

import math

import pytest
import torch

from project.data.augment import NUM_DRAWS, Augmentation, uniform_draws

CHANGES = [
    {"rotate_degrees": 15.0},
    {"scale": 0.2},
    {"shear_degrees": 10.0},
    {"translate_pixels": 3.0},
    {"shift_pixels": 2},
    {"cutout_pixels": 6},
    {"flip": True},
]


def draws_of(**values: float) -> torch.Tensor:
    """Draws (1, NUM_DRAWS) in the middle of their range, but for the named positions."""
    draws = torch.full((1, NUM_DRAWS), 0.5)
    for name, value in values.items():
        draws[0, int(name[1:])] = value
    return draws


def test_draws_are_a_function_of_seed_epoch_and_sample() -> None:
    samples = torch.tensor([5, 9, 2])
    draws = uniform_draws(1, 3, samples)
    assert torch.equal(draws, uniform_draws(1, 3, samples))
    assert torch.equal(draws[1:2], uniform_draws(1, 3, torch.tensor([9])))  # whatever the batch
    for other in (uniform_draws(2, 3, samples), uniform_draws(1, 4, samples)):
        assert (draws != other).all()


def test_draws_are_uniform_and_uncorrelated() -> None:
    draws = uniform_draws(0, 0, torch.arange(20_000)).double()
    assert draws.min() >= 0
    assert draws.max() < 1
    assert (draws.mean(0) - 0.5).abs().max() < 5 * math.sqrt(1 / 12 / 20_000)
    assert (draws.var(0) - 1 / 12).abs().max() < 0.003
    off_diagonal = torch.corrcoef(draws.T) - torch.eye(NUM_DRAWS)
    assert off_diagonal.abs().max() < 0.04
    following = torch.corrcoef(torch.stack([draws[:-1, 0], draws[1:, 0]]))[0, 1]
    assert following.abs() < 0.04


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_samples_of_a_batch_are_changed_differently(change) -> None:
    image = torch.rand(1, 1, 28, 28)
    augmented = Augmentation(**change)(
        image.expand(64, -1, -1, -1), uniform_draws(0, 0, torch.arange(64))
    )
    kinds = len({tuple(a.flatten().tolist()) for a in augmented})
    assert kinds == 2 if "flip" in change else kinds > 10


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_sample_does_not_depend_on_its_batch(change) -> None:
    images, samples = torch.rand(5, 3, 12, 12), torch.arange(5)
    together = Augmentation(**change)(images, uniform_draws(0, 1, samples))
    alone = Augmentation(**change)(images[2:3], uniform_draws(0, 1, samples[2:3]))
    torch.testing.assert_close(together[2:3], alone)


def test_nothing_switched_on_changes_nothing() -> None:
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(Augmentation()(images, uniform_draws(0, 0, torch.arange(3))), images)


def test_middle_draws_are_the_identity_of_the_affine_changes() -> None:
    images = torch.rand(1, 1, 9, 9)
    warped = Augmentation(rotate_degrees=30, scale=0.5, shear_degrees=20, translate_pixels=4)
    torch.testing.assert_close(warped(images, draws_of()), images, atol=1e-5, rtol=0)


def test_rotation_turns_by_the_angle() -> None:
    images = torch.rand(1, 1, 9, 9)
    quarter = Augmentation(rotate_degrees=90)(images, draws_of(d0=1.0))
    expected = images.rot90(-1, dims=(2, 3))
    opposite = images.rot90(1, dims=(2, 3))
    close = [torch.allclose(quarter, e, atol=1e-4) for e in (expected, opposite)]
    assert close.count(True) == 1


def test_translation_and_shift_move_by_pixels() -> None:
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4] = 1
    moved = Augmentation(translate_pixels=2)(image, draws_of(d3=1.0, d4=0.0))
    assert moved.flatten().argmax().item() in (4 * 9 + 4 + 16, 4 * 9 + 4 - 16)
    moved = Augmentation(shift_pixels=2)(image, draws_of(d5=0.0, d6=0.999))
    assert moved[0, 0, 6, 2] == 1
    assert moved.sum() == 1


def test_scale_zooms_by_the_factor() -> None:
    image = torch.zeros(1, 1, 21, 21)
    image[..., 5:16, 5:16] = 1  # 11 pixels wide
    larger = Augmentation(scale=0.5)(image, draws_of(d1=1.0))
    assert larger.sum() / image.sum() == pytest.approx(1.5**2, rel=0.1)


@pytest.mark.parametrize("wrong", [{"scale": 1.0}, {"shift_pixels": -1}, {"shear_degrees": 90}])
def test_values_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"must lie in|may be negative"):
        Augmentation(**wrong)


def test_cutout_blanks_a_square_of_the_size() -> None:
    blank = Augmentation(cutout_pixels=4)(torch.ones(1, 1, 20, 20), draws_of())
    assert (blank == 0).sum() == 16


@pytest.mark.parametrize("shape", [(4, 1, 9, 9), (3, 3, 8, 12)])
def test_shift_cuts_the_window_that_was_drawn(shape) -> None:
    images, draws = torch.rand(shape), uniform_draws(0, 0, torch.arange(shape[0]))
    shifted = Augmentation(shift_pixels=2)(images, draws)
    padded = torch.nn.functional.pad(images, [2] * 4)
    for image, its, (row, column) in zip(shifted, padded, (draws[:, 5:7] * 5).long(), strict=True):
        assert torch.equal(image, its[:, row : row + shape[2], column : column + shape[3]])


def test_warp_is_what_affine_grid_and_grid_sample_do() -> None:
    F = torch.nn.functional  # noqa: N806
    images, draws = torch.rand(5, 3, 8, 12), uniform_draws(0, 0, torch.arange(5))
    warped = Augmentation(translate_pixels=3)(images, draws)
    moved = (2 * draws[:, 3:5] - 1) * 3 * 2 / torch.tensor([12, 8])  # right, down
    matrix = torch.cat([torch.eye(2).expand(5, 2, 2), moved[:, :, None]], dim=2)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    torch.testing.assert_close(warped, F.grid_sample(images, grid, align_corners=False))
