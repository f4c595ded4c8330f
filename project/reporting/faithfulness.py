"""Does an attribution say something about the model? Two tests, for pixels and tokens alike.

Removal: what is named as important is taken away first; the score must fall faster than in a
random order. Randomisation: the weights are drawn anew, layer by layer; what explained the
trained network must not explain a random one.

Shape letters: B examples, P places (the pixels of an image, the tokens of a window), S steps of
a curve, R draws of the weights, L levels of a cascade.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from project.data.loader import derived_seed
from project.intervals import mean_interval, seed_interval
from project.reporting.findings import Measure

Track = Callable[[Iterable[Any], str], Iterable[Any]]  # shows how far it is

MOST_LEVELS = 6  # of a cascade; deeper networks lose several layers at once

REDRAWS = 3  # of all weights
RANDOM_ORDERS = 3

# The rule of both sections.
MOST_RHO = 0.15  # |rank correlation| with random weights, below which a method follows the model
MOST_ERROR = 0.05  # of completeness, of the difference that is to be explained


@dataclass
class Faithfulness:
    """What the two tests say of each method.

    Attributes:
        shares: Of the places that are taken away at each step, (S,).
        curves: Of `deletion`, and perhaps of `insertion`: for each method and control, (B, S).
        levels, rho: Of `randomisation_test`.
    """

    shares: Tensor
    curves: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    levels: list[int] = field(default_factory=list)
    rho: dict[str, Tensor] = field(default_factory=dict)

    def gain(
        self, name: str, control: str = "random", kind: str = "deletion"
    ) -> tuple[float, tuple[float, float] | None]:
        """Return by how much the area of a method is better than a control's, with its interval.

        Better is smaller, and larger where places are put back. The interval is over the B
        examples, paired, by the normal approximation.
        """
        areas = [area(self.curves[kind][each], self.shares).double() for each in (name, control)]
        better = areas[0] - areas[1] if kind == "insertion" else areas[1] - areas[0]  # (B,)
        return better.mean().item(), mean_interval(better.tolist(), [1] * len(better))

    def is_faster(self, name: str, control: str = "random") -> bool:
        """Return whether the gain in deletion is one beyond chance: its interval lies above 0."""
        interval = self.gain(name, control)[1]
        return interval is not None and interval[0] > 0

    def area(self, name: str, kind: str = "deletion") -> float:
        return area(self.curves[kind][name], self.shares).mean().item()

    def last_rho(self, name: str) -> float:
        """Return the rank correlation after all layers were drawn anew."""
        return mean_over_draws(self.rho[name][:, -1])[0]

    def follows(self, name: str) -> bool:
        """Return whether a method depends on the weights: what it says of random ones is other."""
        return abs(self.last_rho(name)) < MOST_RHO

    def rho_measures(self, titles: dict[str, str], seed: int) -> list[Measure]:
        """Return the rank correlation of each method after all layers were drawn anew."""
        found = []
        for name, rho in self.rho.items():
            value, interval = mean_over_draws(rho[:, -1])
            constant = int(rho[:, -1].isnan().sum())
            how = f"Student's t over {len(rho)} draws; {constant} constant, taken as 0"
            said = f"{titles[name]}: rank correlation after all layers"
            n = rho.shape[2]
            found.append(Measure(f"rho_{name}", said, value, "", n, interval, seed, how))
        return found


def removal_curves(
    score: Callable[[Tensor], Tensor],
    orders: dict[str, Tensor],
    removable: Tensor,
    shares: Tensor,
    generator: torch.Generator,
    kinds: Sequence[str],
    track: Track,
) -> dict[str, dict[str, Tensor]]:
    """Return `Faithfulness.curves`: of each order, and of `random`, the mean of several.

    Args:
        score, removable, shares: As for `removal_curve`.
        orders: Importance by each method and control, (B, P).
        kinds: `deletion`, `insertion`, or both.
    """
    random = [torch.rand(removable.shape, generator=generator) for _ in range(RANDOM_ORDERS)]
    every = {name: [order] for name, order in orders.items()} | {"random": random}
    curves: dict[str, dict[str, Tensor]] = {kind: {} for kind in kinds}
    for name, several in track(every.items(), "removing what is named first"):
        for kind in kinds:
            insert = kind == "insertion"
            runs = [
                removal_curve(score, order, removable, shares, generator, insert=insert)
                for order in several
            ]
            curves[kind][name] = torch.stack(runs).mean(dim=0)
    return curves


def removal_curve(
    score: Callable[[Tensor], Tensor],
    importance: Tensor,
    removable: Tensor,
    shares: Tensor,
    generator: torch.Generator,
    *,
    insert: bool = False,
) -> Tensor:
    """Return the score while places are taken away, the most important first, (B, S) on the CPU.

    Source: deletion and insertion of Petsiuk et al. 2018 (arXiv:1806.07421).

    Args:
        score: Maps the places that are kept, bool (B, P) on the CPU, to a score each (B,).
        importance: (B, P); equal ones are taken in a random order.
        removable: bool (B, P): the others always stay and are no part of a share.
        shares: Taken away at each step, in [0, 1], (S,).
        insert: Begin with none of them and put them back instead.
    """
    rank = ranks(importance.cpu(), removable, generator)
    counts = removable.sum(dim=1, keepdim=True)
    curve = []
    with torch.no_grad():
        for share in shares.tolist():
            moved = rank < (share * counts).round()  # the others rank last
            curve.append(score(moved | ~removable if insert else ~moved).cpu())
    return torch.stack(curve, dim=1)


def ranks(importance: Tensor, removable: Tensor, generator: torch.Generator) -> Tensor:
    """Return the place of each in the order of removal, 0 first, int64 (B, P)."""
    # Shuffled, then sorted stably: else equal ones would go in the order of the page.
    shuffle = torch.randperm(importance.shape[1], generator=generator)
    shuffled = importance.masked_fill(~removable, -math.inf)[:, shuffle]
    order = shuffle[shuffled.argsort(dim=1, descending=True, stable=True)]
    return order.argsort(dim=1)


def area(curve: Tensor, shares: Tensor) -> Tensor:
    """Return the area under each curve (B, S) over the width of `shares` (S,): its mean, (B,)."""
    return torch.trapezoid(curve, shares, dim=1) / (shares[-1] - shares[0])


def randomisation_test(
    network: nn.Module,
    attribute: Callable[[nn.Module], dict[str, Tensor]],
    compared: Tensor,
    seeds: Sequence[int],
    track: Track = lambda items, _: items,
) -> tuple[list[int], dict[str, Tensor]]:
    """Compare attributions of a network with those of copies whose weights are drawn anew.

    Source: model parameter randomisation, cascading from the top (Adebayo et al. 2018,
    arXiv:1810.03292). Signs count, and only the places in `compared`: over all pixels, absolute
    values measure the black background (0 whatever the weights) and not the method.

    Returns:
        The layers drawn anew at each level (L,), and for each method Spearman's rank correlation
        (R, L, B), NaN where an attribution is constant.

    Args:
        attribute: Maps a network to the attributions (B, P) of each method.
        compared: bool (B, P).
        seeds: Of the draws, (R,).
    """
    before = attribute(network)
    levels: list[int] = []
    found: dict[str, list[Tensor]] = {name: [] for name in before}
    for seed in track(seeds, "drawing weights anew"):
        levels = []
        for drawn, changed in cascade(network, seed):
            levels.append(drawn)
            for name, after in attribute(changed).items():
                found[name].append(rank_correlation(before[name], after, compared))
    return levels, {
        name: torch.stack(rows).unflatten(0, (len(seeds), len(levels)))
        for name, rows in found.items()
    }


def cascade(network: nn.Module, seed: int) -> Iterator[tuple[int, nn.Module]]:
    """Yield (layers drawn anew so far, copy of the network), from the head down to the input.

    Each layer takes torch's default initialisation and not the network's own, under which our
    heads are zero and so is every gradient. A batch norm goes back to mean 0 and variance 1, as
    it stands before any training: the statistics of other weights would mean nothing. At most
    `MOST_LEVELS` levels; the first is the head alone. The copy is the same object each time.
    """
    changed = untied(copy.deepcopy(network))
    layers = layers_of(changed)[::-1]
    ends = torch.linspace(1, len(layers), min(len(layers), MOST_LEVELS)).round().int().tolist()
    for start, end in pairwise([0, *ends]):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("redraw", seed, start))
            for module in chain(*layers[start:end]):
                redraw_(module)
        yield end, changed


def layers_of(network: nn.Module) -> list[list[nn.Module]]:
    """Return the modules with weights of their own, in the order in which they were registered.

    A norm, all of whose weights are vectors, is part of the layer before it.
    """
    layers: list[list[nn.Module]] = []
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if not own:
            continue
        if layers and all(weight.dim() == 1 for weight in own):
            layers[-1].append(module)
        else:
            layers.append([module])
    return layers


def untied(network: nn.Module) -> nn.Module:
    """Give each module that shares a weight a copy of its own, in place."""
    seen: set[int] = set()
    for module in network.modules():
        for name, weight in module.named_parameters(recurse=False):
            if id(weight) in seen:
                own = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
                setattr(module, name, own)
            seen.add(id(weight))
    return network


@torch.no_grad()
def redraw_(module: nn.Module) -> None:
    """Draw a module's own weights anew; those without an initialisation are shuffled."""
    own = list(module.parameters(recurse=False))
    device = own[0].device
    initialise = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
    if initialise is not None:
        module.cpu()  # so that the draws are the same on every device
        initialise()
        module.to(device)
        return
    for weight in own:
        shuffle = torch.randperm(weight.numel()).to(device)
        weight.copy_(weight.flatten()[shuffle].view_as(weight))


def rank_correlation(left: Tensor, right: Tensor, compared: Tensor) -> Tensor:
    """Return Spearman's rho of each row over the places in `compared`, (B,) on the CPU.

    NaN where there are fewer than two places, or one side is constant.
    """
    from scipy.stats import ConstantInputWarning, spearmanr

    rows = zip(left.cpu().numpy(), right.cpu().numpy(), compared.cpu().numpy(), strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        found = [spearmanr(a[where], b[where]).statistic for a, b, where in rows]
    return torch.tensor(found, dtype=torch.float32)


def in_words(error: float) -> str:
    """Return an error of completeness for a sentence."""
    if error < 1e-4:
        return "less than 0.01 %"
    return f"{100 * error:.2g} %" if error < 0.1 else f"{100 * error:.0f} %"


def mean_over_draws(values: Tensor) -> tuple[float, tuple[float, float]]:
    """Return the mean of (R, B) and its 95 % interval over the R draws; NaN counts as 0.

    Student's t over the draws' means: all examples see the same drawn weights, so they are not
    independent of one another.
    """
    means = values.nan_to_num(0.0).mean(dim=1).double()  # (R,)
    interval = seed_interval(means.tolist())
    assert interval is not None  # of several draws
    return means.mean().item(), interval
