"""Attributions of pixels, and the tests of attributions, on networks whose answer is known."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from conftest import image_subject, networks_with
from scipy.stats import spearmanr
from torch import Tensor, nn

from project.data.image_sets import Digits
from project.data.images import ImageData
from project.models.cnn import CNN
from project.models.mlp import MLP
from project.models.rnn import RNNLanguageModel
from project.models.transformer import ViT
from project.reporting import faithfulness
from project.reporting.faithfulness import (
    Faithfulness,
    area,
    cascade,
    layers_of,
    mean_over_draws,
    randomisation_test,
    rank_correlation,
    removal_curve,
)
from project.reporting.images import attributions, explained, interpretability
from project.reporting.subject import Subject

BLACK = torch.zeros(1, 1, 1, 1)
SHARES = torch.linspace(0, 1, 11)


class Linear(nn.Module):
    """Logits that are linear in the pixels, and one bias."""

    def __init__(self, side: int = 6, classes: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(side * side, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(pixels.flatten(1))


class Functional(nn.Module):
    """A network with `F.relu`, which captum's guided backpropagation does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        x = torch.relu(self.second(F.relu(self.first(pixels))))
        return self.head(x.relu().flatten(1))


def as_modules(network: Functional) -> nn.Module:
    """The same network with modules."""
    parts = [network.first, nn.ReLU(), network.second, nn.ReLU(), nn.ReLU()]
    return nn.Sequential(*parts, nn.Flatten(), network.head)


def some_images(number: int = 3, side: int = 6) -> tuple[Tensor, Tensor]:
    return torch.rand(number, 1, side, side), torch.arange(number) % 3


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_gradients_of_a_linear_network_are_its_weights() -> None:
    network, (pixels, targets) = Linear(), some_images()
    weights = network.head.weight[targets].unflatten(1, (6, 6))
    torch.testing.assert_close(attributions.saliency(network, pixels, targets), weights.detach())
    for baseline in (BLACK, torch.full_like(BLACK, 0.3)):
        maps = attributions.integrated_gradients(network, pixels, targets, baseline, steps=3)
        torch.testing.assert_close(maps, (weights * (pixels - baseline)[:, 0]).detach())
        error, difference = attributions.completeness(network, pixels, targets, baseline, maps)
        assert error.max() < 1e-5 < difference.min()


def test_completeness_finds_maps_that_do_not_add_up() -> None:
    network, (pixels, targets) = Linear(), some_images()
    maps = attributions.integrated_gradients(network, pixels, targets, BLACK, steps=3)
    error, difference = attributions.completeness(network, pixels, targets, BLACK, 1.5 * maps)
    torch.testing.assert_close(error, 0.5 * difference)


def test_integrated_gradients_do_not_depend_on_the_size_of_the_parts(monkeypatch) -> None:
    network, (pixels, targets) = Functional(), some_images(5)
    together = attributions.integrated_gradients(network, pixels, targets, BLACK, steps=8)
    monkeypatch.setattr(attributions, "ROWS", 16)
    torch.testing.assert_close(
        attributions.integrated_gradients(network, pixels, targets, BLACK, steps=8), together
    )


@pytest.mark.filterwarnings("ignore")
def test_guided_backpropagation_is_captums_also_for_functional_relus() -> None:
    from captum.attr import GuidedBackprop

    network, (pixels, targets) = Functional(), some_images()
    modules = as_modules(network)
    expected = GuidedBackprop(modules).attribute(pixels.clone().requires_grad_(), target=targets)
    for case in (network, modules):
        found = attributions.guided_backpropagation(case, pixels, targets)
        torch.testing.assert_close(found, expected[:, 0].detach())
    assert not torch.allclose(found, attributions.saliency(network, pixels, targets))


def test_guided_relus_are_relus_and_end_with_the_block() -> None:
    network, (pixels, targets) = Functional(), some_images()
    before = attributions.saliency(network, pixels, targets)
    with attributions.Guided() as guided:
        assert torch.equal(network(pixels), as_modules(network)(pixels))
    assert guided.replaced == 6
    assert torch.equal(attributions.saliency(network, pixels, targets), before)


def test_methods_refuse_networks_that_they_are_not_about() -> None:
    pixels, targets = some_images()
    with pytest.raises(ValueError, match="no ReLU"):
        attributions.guided_backpropagation(Linear(), pixels, targets)
    with pytest.raises(ValueError, match=r"no nn\.Conv2d"):
        attributions.grad_cam(Linear(), pixels, targets)


def test_grad_cam_before_a_mean_is_the_class_activation_map() -> None:
    conv, head = nn.Conv2d(1, 5, 3, padding=1), nn.Linear(5, 3)
    network = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    pixels, targets = some_images()
    features = conv(pixels)  # (B, 5, 6, 6)
    expected = torch.einsum("bk,bkhw->bhw", head.weight[targets], features) / 36
    found = attributions.grad_cam(network, pixels, targets)
    torch.testing.assert_close(found, expected.detach())
    assert attributions.last_convolution(CNN(image_size=8))[0] == "residual3.conv"


def test_occlusion_says_how_much_the_logit_falls() -> None:
    network, (pixels, targets) = Linear(), some_images()
    found = attributions.occlusion(network, pixels, targets, BLACK, side=1, stride=1)
    weights = network.head.weight[targets].unflatten(1, (6, 6))
    torch.testing.assert_close(found, (weights * pixels[:, 0]).detach(), atol=1e-5, rtol=1e-5)


def test_deletion_of_the_pixel_that_counts_takes_the_score_at_once() -> None:
    torch.manual_seed(0)
    place, removable = 7, torch.ones(50, 20, dtype=torch.bool)
    importance = torch.rand(50, 20)
    importance[:, place] = 2.0

    def score(kept: Tensor) -> Tensor:
        return kept[:, place].float()

    right = removal_curve(score, importance, removable, SHARES, generator())
    assert right[:, 0].eq(1).all()
    assert right[:, 1:].eq(0).all()
    back = removal_curve(score, importance, removable, SHARES, generator(), insert=True)
    assert torch.equal(back, 1 - right)
    random = removal_curve(score, torch.rand(50, 20), removable, SHARES, generator())
    assert area(random, SHARES).mean() == pytest.approx(0.5, abs=0.15)
    curves = {"right": right, "random": random}
    found = Faithfulness(SHARES, {"deletion": curves, "insertion": curves})
    assert found.is_faster("right")
    assert not found.is_faster("random", "right")
    (low, high), better = found.gain("right", kind="insertion")[1], found.gain("right")[0]
    assert low < -better < high < 0
    wrong = removal_curve(score, -importance, removable, SHARES, generator())
    assert wrong[:, -2].eq(1).all()


def test_what_cannot_be_removed_stays_and_is_not_counted() -> None:
    removable = torch.zeros(1, 20, dtype=torch.bool)
    removable[0, 5:15] = True
    importance = torch.arange(20.0)[None]
    kept: list[Tensor] = []

    def score(places: Tensor) -> Tensor:
        kept.append(places)
        return places.float().sum(dim=1)

    curve = removal_curve(score, importance, removable, SHARES, generator())
    assert curve[0].tolist() == list(range(20, 9, -1))
    assert all(places[~removable].all() for places in kept)
    assert kept[1][0].logical_not().nonzero().flatten().tolist() == [14]
    back = removal_curve(score, importance, removable, SHARES, generator(), insert=True)
    assert back[0].tolist() == list(range(10, 21))


def test_equal_importance_is_taken_in_a_random_order() -> None:
    removable = torch.ones(1, 400, dtype=torch.bool)
    halves = removal_curve(
        lambda kept: kept[:, :200].float().mean(dim=1),
        torch.zeros(1, 400),
        removable,
        SHARES,
        generator(),
    )
    assert halves[0, 5] == pytest.approx(0.5, abs=0.1)  # in the order of the page it would be 0


def test_area_is_the_mean_of_the_curve() -> None:
    shares = torch.linspace(0, 0.25, 5)
    assert area(torch.full((1, 5), 0.6), shares).item() == pytest.approx(0.6)
    assert area(torch.linspace(1, 0, 5)[None], shares).item() == pytest.approx(0.5)


def test_rank_correlation_is_spearmans_over_the_compared_places() -> None:
    torch.manual_seed(1)
    left, right = torch.randn(4, 30), torch.randint(0, 5, (4, 30)).float()  # with ties
    compared = torch.rand(4, 30) < 0.7
    found = rank_correlation(left, right, compared)
    for row in range(4):
        where = compared[row]
        expected = spearmanr(left[row][where], right[row][where]).statistic
        assert found[row].item() == pytest.approx(expected, abs=1e-6)
    constant = rank_correlation(left, torch.ones(4, 30), compared)
    assert constant.isnan().all()
    opposite = torch.stack([-left[0], left[0] ** 3])
    assert rank_correlation(opposite, left[:1].repeat(2, 1), torch.ones(2, 30) > 0).tolist() == (
        pytest.approx([-1, 1])
    )


def test_the_mean_over_draws_counts_constant_maps_as_0() -> None:
    values = torch.tensor([[0.2, float("nan")], [0.1, 0.5], [0.4, 0.2]])
    mean, (low, high) = mean_over_draws(values)
    assert mean == pytest.approx((0.1 + 0.3 + 0.3) / 3)
    assert (high + low) / 2 == pytest.approx(mean)
    assert (high - low) / 2 == pytest.approx(4.3027 * 0.11547 / 3**0.5, rel=1e-3)


def test_a_method_that_ignores_the_model_has_rho_1_and_one_that_follows_it_about_0() -> None:
    torch.manual_seed(0)
    network = CNN(image_size=8, width=8).eval()
    nn.init.normal_(network.head.weight)
    pixels, targets = torch.rand(12, 1, 8, 8), torch.arange(12) % 10

    def attribute(changed: nn.Module) -> dict[str, Tensor]:
        edges = pixels - F.avg_pool2d(pixels, 3, stride=1, padding=1)
        follows = attributions.saliency(changed, pixels, targets)
        return {
            "edges": edges.flatten(1),
            "saliency": follows.flatten(1),
            "constant": torch.ones(12, 64),
        }

    levels, rho = randomisation_test(network, attribute, torch.ones(12, 64) > 0, [0, 1, 2])
    assert levels == [1, 2, 3, 4, 5, 6]
    assert {values.shape for values in rho.values()} == {(3, 6, 12)}
    assert rho["edges"].min() == pytest.approx(1)
    assert abs(mean_over_draws(rho["saliency"][:, -1])[0]) < 0.1
    found = Faithfulness(SHARES, {}, levels, rho)
    assert [name for name in rho if found.follows(name)] == ["saliency", "constant"]
    assert rho["constant"].isnan().all()
    assert mean_over_draws(rho["constant"][:, -1])[0] == 0


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in network.state_dict().items()}


@pytest.mark.parametrize("cls", [CNN, MLP, ViT])
def test_a_cascade_goes_from_the_head_down_to_every_weight_of_a_copy(cls) -> None:
    network = cls(image_size=8).eval()
    for weight in network.parameters():
        nn.init.normal_(weight)
    for name, buffer in network.named_buffers():
        if "running" in name:
            buffer += 3
    original, state = weights_of(network), torch.get_rng_state()
    last_levels = []
    for _ in range(2):
        changed_at = [
            {name for name, w in weights_of(changed).items() if not torch.equal(w, original[name])}
            for _, changed in cascade(network, seed=5)
        ]
        last_levels.append([weights_of(changed) for _, changed in cascade(network, seed=5)][-1])
    assert changed_at[0] == {"head.weight", "head.bias"}
    assert all(less < more for less, more in pairwise(changed_at))
    assert changed_at[-1] >= {name for name, _ in network.named_parameters()}
    assert len(changed_at) == min(len(layers_of(network)), faithfulness.MOST_LEVELS)
    assert last_levels[0]["head.weight"].any()  # our networks' own initialisation has zeros there
    for name in original:
        assert torch.equal(last_levels[0][name], last_levels[1][name])
        assert torch.equal(network.state_dict()[name], original[name])
        if name.endswith("running_mean"):
            assert not last_levels[0][name].any()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_alone_decides_what_is_drawn() -> None:
    network = MLP(image_size=8, width=16)

    def drawn(seed: int) -> Tensor:
        torch.rand(1)  # the state outside does not matter
        return [weights_of(changed) for _, changed in cascade(network, seed)][-1]["head.weight"]

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


def test_a_shared_weight_is_drawn_anew_where_it_stands() -> None:
    network = RNNLanguageModel(vocab_size=7, width=8)
    embedding = network.embedding.weight.detach().clone()
    _, changed = next(cascade(network, seed=0))
    assert not torch.equal(changed.head.weight, embedding)
    assert torch.equal(changed.embedding.weight, embedding)
    assert network.head.weight is network.embedding.weight


@pytest.fixture(scope="module")
def digits() -> ImageData:
    data = ImageData(Digits())
    data.setup()
    return data


def subject_of(network: nn.Module, data: ImageData) -> Subject:
    """A report's subject of untrained weights under which every pixel counts."""
    torch.manual_seed(0)
    nn.init.normal_(network.head.weight, std=0.5)
    network.eval().requires_grad_(False)
    return image_subject(network, data, n=60)


SLOW = ("TorchvisionNetwork",)  # ResNet-18


def cases() -> Iterator[object]:
    for cls in networks_with("image_size"):
        marks = [pytest.mark.slow] if cls.__name__ in SLOW else []
        yield pytest.param(cls, marks=marks, id=cls.__name__)


@pytest.mark.parametrize("cls", list(cases()))
def test_every_image_network_gets_through(cls, digits, monkeypatch) -> None:
    monkeypatch.setattr(explained, "STEPS", 8)
    monkeypatch.setattr(interpretability, "SHOWN", 1)
    monkeypatch.setattr(explained, "REDRAWS", 2)
    network = cls(in_channels=1, image_size=8, num_classes=10)
    section = interpretability.section(subject_of(network, digits))
    assert section.mark in ("holds", "caution", "fails")
    rho = {m.key: m.value for m in section.measures() if m.key.startswith("rho_")}
    has_convolution = any(isinstance(m, nn.Conv2d) for m in network.modules())
    assert (rho["rho_grad_cam"] is not None) == has_convolution
    has_relu = cls.__name__ not in ("RNN", "ViT")
    assert (rho["rho_guided_backpropagation"] is not None) == has_relu
    assert len({m.key for m in section.measures()}) == len(section.measures())
    assert {b.name for b in section.blocks if hasattr(b, "png")} == {
        "attributions",
        "deletion_insertion",
        "randomisation",
    }


def test_a_network_that_says_the_same_of_everything_explains_nothing(digits, monkeypatch) -> None:
    """As ours do before any training: their heads are zero."""
    monkeypatch.setattr(explained, "STEPS", 4)
    subject = subject_of(MLP(image_size=8, width=16), digits)
    subject.network.head.weight.zero_()
    section = interpretability.section(subject)
    assert section.mark == "fails"
    assert section.measure("completeness_integrated_gradients").value is None


def test_a_section_is_a_function_of_its_seed(digits, monkeypatch) -> None:
    monkeypatch.setattr(explained, "STEPS", 4)
    monkeypatch.setattr(interpretability, "SHOWN", 1)
    network = MLP(image_size=8, width=16)
    first, second = (interpretability.section(subject_of(network, digits)) for _ in range(2))
    assert first == second


def test_explanations_of_a_linear_classifier_hold_and_shuffled_ones_do_not(
    digits, monkeypatch
) -> None:
    """The mark follows what is found: maps in a random order fail on the same network."""
    network = MLP(image_size=8, depth=0)
    templates = torch.stack(
        [
            digits.splits["train"].images[digits.splits["train"].labels == k].float().mean(dim=0)
            for k in range(10)
        ]
    ).flatten(1)
    subject = subject_of(network, digits)
    subject.n = 300
    network.head.weight.copy_((templates - templates.mean(dim=0)) / 300)
    network.head.bias.zero_()
    section = interpretability.section(subject)
    assert section.mark == "holds"
    assert section.measure("completeness_integrated_gradients").value < 1e-4

    def shuffled(*arguments: object) -> Tensor:
        return torch.rand(30, 1, 8, 8, generator=generator())[:, 0][: len(arguments[1])]

    for name in ("saliency", "integrated_gradients"):
        monkeypatch.setattr(attributions, name, shuffled)
    section = interpretability.section(subject)
    assert section.mark == "fails"
    assert "cannot be shown" in section.verdict
    assert "integrated gradients" in section.verdict
