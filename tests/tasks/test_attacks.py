"""Attacks against known optima and another library, and training on attacked images."""

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import quiet_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from project.checkpoints.checkpoint_file import read
from project.checkpoints.loading import rebuild
from project.data.image_sets import Digits
from project.data.images import ImageData, normalisation
from project.models.cnn import CNN
from project.models.mlp import MLP
from project.models.rnn import RNN
from project.reporting.images.attacks import fgsm, smallest_changes, strongest_pgd
from project.reporting.images.opened import Classifier
from project.tasks.attacks import (
    ProjectedGradientDescent,
    evaluation_mode,
    is_right,
    pgd,
    uniform_like,
)
from project.tasks.image_classification import ImageClassification, pixel_limits


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """Images float32 (1797, 1, 8, 8) in [0, 1] and labels."""
    train, test = Digits().load(Path())
    images = torch.cat([train.images, test.images]).float() / 255
    return images, torch.cat([train.labels, test.labels])


@pytest.fixture(scope="module")
def classifier(digits) -> nn.Module:
    """A small network that knows the digits, on pixels in [0, 1], in evaluation mode."""
    torch.manual_seed(0)
    images, labels = digits
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(120):
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert is_right(network, images, labels).float().mean() > 0.97
    return network.eval()


def share_right(classify, images: Tensor, labels: Tensor) -> float:
    return is_right(classify, images, labels).float().mean().item()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_an_attack_on_a_linear_classifier_is_the_optimum(attack) -> None:
    """It is at the corner of ball and box that the difference of the two rows points away from."""
    weight = torch.randn(2, 12)
    images, labels = torch.rand(50, 1, 3, 4), torch.randint(2, (50,))

    def classify(x: Tensor) -> Tensor:
        return x.flatten(1) @ weight.T

    if attack == "fgsm":
        found = fgsm(classify, images, labels, 0.2)
    else:
        found = pgd(classify, images, labels, 0.2, 0.05, 9, generator=generator())
    away = (weight[1] - weight[0]).sign().view(1, 1, 3, 4) * (1 - 2 * labels).view(-1, 1, 1, 1)
    torch.testing.assert_close(found, (images + 0.2 * away).clamp(0, 1))


def test_fgsm_and_pgd_agree_with_the_adversarial_robustness_toolbox(classifier, digits) -> None:
    from art.attacks.evasion import FastGradientMethod
    from art.attacks.evasion import ProjectedGradientDescent as TheirPGD
    from art.estimators.classification import PyTorchClassifier

    images, labels = (part[:500] for part in digits)
    theirs = PyTorchClassifier(
        classifier, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1), device_type="cpu"
    )
    np.random.seed(0)
    for epsilon in (0.05, 0.1, 0.2):
        attack = FastGradientMethod(theirs, eps=epsilon, batch_size=500)
        expected = torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))
        found = fgsm(classifier, images, labels, epsilon)
        # Where a gradient is 0 but for rounding, its sign is anything.
        assert (found - expected).abs().lt(1e-5).float().mean() > 0.999
        right = share_right(classifier, found, labels)
        assert right == pytest.approx(share_right(classifier, expected, labels), abs=0.02)

        settings = {"eps": epsilon, "eps_step": epsilon / 8, "max_iter": 20}
        attack = TheirPGD(theirs, **settings, num_random_init=1, batch_size=500, verbose=False)
        expected = torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))
        found = pgd(classifier, images, labels, epsilon, epsilon / 8, 20, generator=generator())
        right = share_right(classifier, found, labels)
        assert right == pytest.approx(share_right(classifier, expected, labels), abs=0.02)
        assert right <= share_right(classifier, fgsm(classifier, images, labels, epsilon), labels)


def test_ball_and_box_are_kept_and_used(classifier, digits) -> None:
    images, labels = (part[:200] for part in digits)
    found = pgd(classifier, images, labels, 0.1, 0.05, 10, generator=generator())
    change = (found - images).abs()
    assert found.min() >= 0
    assert found.max() <= 1
    assert 0.0999 < change.max() <= 0.1 + 1e-6
    grey = torch.full_like(images, 0.5)
    start = pgd(classifier, grey, labels, 0.1, 0.05, 0, generator=generator()) - grey
    assert start.abs().max() <= 0.1 + 1e-6
    assert start.mean() == pytest.approx(0, abs=0.002)
    assert start.std() == pytest.approx(0.1 / 3**0.5, rel=0.02)  # uniform
    bare = pgd(classifier, images, labels, 0.1, 0.05, 0, random_start=False)
    assert torch.equal(bare, images)


def test_an_attack_on_normalised_images_is_that_on_pixels() -> None:
    """Of a colour network whose channels have different mean and deviation."""
    mean, std = torch.tensor([120.0, 100.0, 30.0]), torch.tensor([60.0, 30.0, 90.0])
    network = CNN(in_channels=3, image_size=8, width=4).eval()
    nn.init.normal_(network.head.weight)
    pixels, labels = torch.rand(20, 3, 8, 8), torch.randint(10, (20,))
    on_pixels = Classifier(network, mean, std)
    expected = pgd(on_pixels, pixels, labels, 0.1, 0.03, 3, generator=generator())

    class Data:
        scale_and_offset = normalisation(mean, std)

    low, high = pixel_limits(Data())
    scale, offset = Data.scale_and_offset
    attack = ProjectedGradientDescent(epsilon=0.1, steps=3, step_size=0.03)
    found = attack(network, 255 * pixels * scale + offset, labels, low, high, generator())
    back = (found - offset) / scale / 255
    same = (back - expected).abs() < 1e-4
    assert same.float().mean() > 0.995  # a sign may turn where a gradient is 0 but for rounding


def test_restarts_only_lower_accuracy_and_attack_what_stands(classifier, digits) -> None:
    images, labels = (part[:300] for part in digits)
    sizes: list[int] = []

    def classify(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return classifier(x)

    rights, ends = [], []
    for restarts in (0, 1, 2, 5):
        found = strongest_pgd(
            classify, images, labels, 0.1, 0.02, 8, restarts, generator=generator(1)
        )
        assert (found - images).abs().max() <= 0.1 + 1e-6
        right = is_right(classifier, found, labels)
        rights.append(right)
        ends.append(sizes[-1])
        # What stands is returned as it was.
        assert torch.equal(found[right], images[right])
    for fewer, more in itertools.pairwise(rights):
        assert not (more & ~fewer).any()
    assert rights[-1].sum() < rights[1].sum() < rights[0].sum()
    assert ends[-1] < ends[1] < 300  # the last restart was given fewer images


def test_the_smallest_change_is_found_by_halving() -> None:
    """Of a grey pixel that must rise by a known amount; each size is asked about at most once."""
    needed = torch.tensor([0.03, 0.07, 0.15, 0.3, 0.45, 0.0])
    images = (0.5 - needed).view(-1, 1, 1, 1)
    labels = torch.zeros(6, dtype=torch.int64)
    asked = 0

    def classify(pixels: Tensor) -> Tensor:
        nonlocal asked
        asked += len(pixels) * pixels.requires_grad
        rises = 50 * (pixels.flatten(1) - 0.499)
        return torch.cat([-rises, rises], dim=1)

    sizes = [0.05, 0.1, 0.2, 0.35, 0.4]
    found, least = smallest_changes(classify, images, labels, sizes, steps=4)
    expected = torch.tensor([0.05, 0.1, 0.2, 0.35, torch.inf, 0.0])
    assert torch.equal(least, expected)
    assert (found - images).flatten()[:4].le(least[:4] + 1e-6).all()
    assert torch.equal(found[4:], images[4:])
    assert asked <= 4 * 5 * 3  # steps, images that were right, halvings of five sizes


def test_draws_are_those_of_the_generator_or_of_torch(classifier, digits) -> None:
    images, labels = (part[:20] for part in digits)
    attack = functools.partial(pgd, classifier, images, labels, 0.1, 0.05, 1)
    state = torch.get_rng_state()
    one, same, other = (attack(generator=generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    torch.manual_seed(5)
    first = attack()
    torch.manual_seed(5)
    assert torch.equal(first, attack())
    draws = uniform_like(torch.zeros(10_000), generator())
    assert draws.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("network", [CNN(image_size=8, width=4), RNN(image_size=8, width=8)])
def test_the_network_is_left_as_it_was_found(network, digits) -> None:
    nn.init.normal_(network.head.weight)
    network.train()
    next(network.children()).eval()  # as a frozen part is
    network.head.weight.grad = torch.ones_like(network.head.weight)
    modes = [part.training for part in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    seen = []
    network.head.register_forward_pre_hook(lambda part, _: seen.append(part.training))

    images, labels = (part[:16] for part in digits)
    attack = ProjectedGradientDescent(steps=2)
    attack(network, images, labels, torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    assert seen == [False, False]
    assert [part.training for part in network.modules()] == modes
    assert all(torch.equal(v, before[name]) for name, v in network.state_dict().items())
    others = [p for p in network.parameters() if p is not network.head.weight]
    assert all(p.grad is None for p in others)
    assert torch.equal(network.head.weight.grad, torch.ones_like(network.head.weight))
    with pytest.raises(RuntimeError, match="stop"), evaluation_mode(network):
        raise RuntimeError("stop")
    assert [part.training for part in network.modules()] == modes


def test_impossible_attacks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"epsilon 76\.5 must lie in \[0, 1\]"):
        ProjectedGradientDescent(epsilon=76.5)
    with pytest.raises(ValueError, match="steps 0 must be at least 1"):
        ProjectedGradientDescent(steps=0)


def fitted(path: Path, attack: ProjectedGradientDescent | None, **options) -> ImageClassification:
    torch.manual_seed(0)
    network = CNN(image_size=8, width=8, dropout=0.0)
    optimizer = functools.partial(torch.optim.AdamW, lr=5e-3)
    task = ImageClassification(network, optimizer, attack=attack)
    data = ImageData(Digits(), batch_size=64, seed=0)
    options = {"max_epochs": 6, "precision": "32-true"} | options
    quiet_trainer(path, **options).fit(task, data)
    return task


def test_training_with_a_radius_of_nothing_is_plain_training(tmp_path) -> None:
    nothing = ProjectedGradientDescent(epsilon=0.0, steps=2, step_size=0.1)
    plain = fitted(tmp_path, None, max_steps=4).state_dict()
    attacked = fitted(tmp_path, nothing, max_steps=4).state_dict()
    assert all(torch.equal(value, attacked[name]) for name, value in plain.items())


def test_training_on_attacked_images_makes_a_network_harder_to_fool(tmp_path) -> None:
    attack = ProjectedGradientDescent(epsilon=0.15, steps=5, step_size=0.05)
    robust, plain = fitted(tmp_path, attack), fitted(tmp_path, None)
    plain.attack = attack
    shares = {}
    for name, task in (("robust", robust), ("plain", plain)):
        data = ImageData(Digits(), seed=0)
        (shares[name],) = task.trainer.test(task, data, verbose=False)
    assert shares["robust"]["test/robust_accuracy"] > 0.15 + shares["plain"]["test/robust_accuracy"]
    assert shares["robust"]["test/accuracy"] > 0.85
    measured = robust.measured["robust_accuracy"]
    assert measured["count"] == 359
    assert measured["value"] == measured["right"] / 359
    low, high = measured["interval_95"]
    assert low < measured["value"] < high

    # The same by hand, outside of Lightning's inference mode, in pixels.
    data.setup()
    test = data.splits["test"]
    classify = Classifier(robust.network.eval(), data.mean, data.std)
    found = pgd(
        classify, test.images.float() / 255, test.labels, 0.15, 0.05, 5, generator=generator()
    )
    right = share_right(classify, found, test.labels)
    assert right == pytest.approx(measured["value"], abs=0.01)

    # A task built by hand reloads from its checkpoint with its attack.
    path = tmp_path / "saved.ckpt"
    robust.trainer.save_checkpoint(path)
    again, _ = rebuild(read(path), [])
    assert vars(again.attack) == vars(attack)


def test_attacked_training_and_evaluation_in_half_precision(tmp_path) -> None:
    attack = ProjectedGradientDescent(epsilon=0.1, steps=2, step_size=0.05)
    task = fitted(tmp_path, attack, max_epochs=1, precision="bf16-true")
    assert task.network.head.weight.dtype == torch.bfloat16
    assert task.measured["robust_accuracy"]["count"] == 143


def test_attacked_evaluation_counts_no_filler_and_needs_the_normalisation(tmp_path) -> None:
    task = ImageClassification(MLP(image_size=8, width=4), attack=ProjectedGradientDescent())
    batch = torch.randn(4, 1, 8, 8), torch.tensor([3, 1, -100, -100])
    batches = DataLoader([batch], batch_size=None)
    with pytest.raises(ValueError, match="do not say how they were normalised"):
        quiet_trainer(tmp_path).validate(task, batches, verbose=False)
    task.pixel_limits = torch.tensor([0.0, 1.0])[:, None, None, None]
    task.start_evaluation()
    task.log_dict = lambda *_, **__: None
    task.evaluate(batch, 0)
    task.finish_evaluation("val")
    assert task.measured["robust_accuracy"]["count"] == 2


@pytest.mark.slow
def test_compiled_training_on_attacked_images(tmp_path) -> None:
    from project.training.trainer import CompiledNetwork

    attack = ProjectedGradientDescent(epsilon=0.1, steps=2, step_size=0.05)
    plain = fitted(tmp_path, attack, max_steps=3).state_dict()
    compiled = fitted(tmp_path, attack, max_steps=3, callbacks=[CompiledNetwork()]).state_dict()
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(value, compiled[name], rtol=0.05, atol=0.02)
