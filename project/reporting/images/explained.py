"""Attributions of a sample of images, and what two tests say of them.

Shape letters: B images, C channels, H height, W width, P pixels of an image, S steps of a curve,
R draws of the weights, L levels of layers.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from project.intervals import mean_interval
from project.reporting.faithfulness import (
    MOST_RHO,
    REDRAWS,
    Faithfulness,
    mean_over_draws,
    randomisation_test,
    removal_curves,
)
from project.reporting.images import attributions as attribution
from project.reporting.images.opened import Images
from project.reporting.subject import Subject

SHARE_OF_N = 10  # one image in ten of --n: each costs hundreds of passes
REDRAWN_IMAGES = 32  # of the randomisation test
STEPS = 64  # of integrated gradients; 16 in the randomisation test
CURVE = torch.linspace(0, 1, 17)  # shares of the pixels that are taken away
QUARTER = 4  # place of 25 % in it

MAIN, CONTROL = "integrated_gradients", "guided_backpropagation"
REDRAWN = (MAIN, "saliency", "grad_cam", CONTROL)


@dataclass
class Study:
    """What was measured on one sample of images.

    Attributes:
        pixels: (B, C, H, W), on the device.
        targets: The predicted classes, which are what is explained, int64 (B,), on the device.
        removable: Pixels that are not black, bool (B, P), on the CPU.
        seed: Of all that is drawn.
        absent: Why a method was not run.
        maps: Of each method, (B, H, W) on the CPU.
        found: By the two tests.
    """

    images: Images
    pixels: Tensor
    targets: Tensor
    removable: Tensor
    seed: int
    absent: dict[str, str] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)
    found: Faithfulness = field(default_factory=lambda: Faithfulness(CURVE))

    def baseline(self, name: str) -> Tensor:
        """Return what a method takes for no evidence, (1, C, 1, 1): black, or the mean pixel."""
        mean = self.images.classifier.mean[None]
        return mean if name.endswith("_grey") else torch.zeros_like(mean)

    def incompleteness(self, name: str) -> tuple[float, tuple[float, float] | None]:
        """Return the mean error of completeness over the mean difference, with its interval."""
        network, maps = self.images.classifier, self.maps[name].to(self.pixels.device)
        error, difference = attribution.completeness(
            network, self.pixels, self.targets, self.baseline(name), maps
        )
        sums, counts = error.double().tolist(), difference.double().tolist()
        if sum(counts) == 0:  # the network says the same of everything: nothing to add up to
            return math.inf, None
        return sum(sums) / sum(counts), mean_interval(sums, counts)

    def likeness(self, name: str) -> str:
        """Return what the maps of random weights are to those of the network."""
        low = mean_over_draws(self.found.rho[name][:, -1])[1][0]
        return "other" if self.found.follows(name) else "similar" if low > MOST_RHO else "unclear"

    def is_sound(self, name: str) -> bool:
        """Return whether a method follows the model and names what counts."""
        return self.found.follows(name) and self.found.is_faster(name)

    def without_a_quarter(self, name: str) -> float:
        """Return the mean probability without the quarter of the pixels that is named first."""
        return self.found.curves["deletion"][name][:, QUARTER].mean().item()


def explained(subject: Subject, images: Images) -> Study:
    """Draw images, attribute them by every method, and test the maps."""
    study = begin(subject, images)
    study.maps = attributed(subject, study, study.pixels, study.targets)
    remove(subject, study)
    redraw(subject, study)
    return study


def begin(subject: Subject, images: Images) -> Study:
    """Draw the images, and find out what cannot be run on this network."""
    split, network = images.measured_split, images.classifier
    number = max(2, subject.n // SHARE_OF_N)
    draws = subject.generator("attributions")
    indices = images.sample(split, number, draws)
    # In a random order: the first of them are taken for the randomisation test.
    indices = indices[torch.randperm(len(indices), generator=draws)]
    pixels = images.pixels(split, indices)
    targets = images.logits(split)[indices].argmax(dim=1).to(images.device)
    removable = (pixels != 0).any(dim=1).flatten(1).cpu()
    study = Study(images, pixels, targets, removable, subject.seed)
    kind = type(network.network).__name__
    if attribution.last_convolution(network) is None:
        study.absent["grad_cam"] = f"{kind} has no convolution"
    with torch.no_grad(), attribution.Guided() as guided:
        network(pixels[:1])
    if guided.replaced == 0:
        study.absent[CONTROL] = f"{kind} has no ReLU"
    return study


def attributed(
    subject: Subject, study: Study, pixels: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """Return the maps of each method, (B, H, W) on the CPU."""
    every = subject.track(methods(study, STEPS).items(), "attributing")
    return {name: method(study.images.classifier, pixels, targets).cpu() for name, method in every}


def methods(study: Study, steps: int) -> dict[str, attribution.Method]:
    """Return what can be run on this network, by name."""
    side = max(1, study.pixels.shape[-1] // 7)

    def along(baseline: Tensor) -> attribution.Method:
        return lambda network, pixels, targets: attribution.integrated_gradients(
            network, pixels, targets, baseline, steps
        )

    def occluded(network: nn.Module, pixels: Tensor, targets: Tensor) -> Tensor:
        black, stride = study.baseline("occlusion"), max(1, side // 2)
        return attribution.occlusion(network, pixels, targets, black, side, stride)

    every: dict[str, attribution.Method] = {
        MAIN: along(study.baseline(MAIN)),
        "saliency": attribution.saliency,
        "grad_cam": attribution.grad_cam,
        "occlusion": occluded,
        CONTROL: attribution.guided_backpropagation,
        "integrated_gradients_grey": along(study.baseline("integrated_gradients_grey")),
    }
    return {name: method for name, method in every.items() if name not in study.absent}


def remove(subject: Subject, study: Study) -> None:
    """Fill in the curves of deletion and insertion."""
    black, targets = study.baseline("black"), study.targets.cpu()[:, None]

    def score(kept: Tensor) -> Tensor:
        is_kept = kept.view(-1, 1, *study.pixels.shape[2:]).to(study.pixels.device)
        logits = study.images.classify(torch.where(is_kept, study.pixels, black))
        return logits.softmax(dim=1).gather(1, targets)[:, 0]

    study.found.curves = removal_curves(
        score,
        {name: maps.flatten(1) for name, maps in study.maps.items()},
        study.removable,
        CURVE,
        subject.generator("orders of removal"),
        ("deletion", "insertion"),
        subject.track,
    )


def redraw(subject: Subject, study: Study) -> None:
    """Fill in the randomisation test, on the first images of the sample."""
    pixels, targets = study.pixels[:REDRAWN_IMAGES], study.targets[:REDRAWN_IMAGES]
    chosen = {name: m for name, m in methods(study, steps=16).items() if name in REDRAWN}

    def attribute(network: nn.Module) -> dict[str, Tensor]:
        return {name: m(network, pixels, targets).flatten(1) for name, m in chosen.items()}

    study.found.levels, study.found.rho = randomisation_test(
        study.images.classifier,
        attribute,
        study.removable[:REDRAWN_IMAGES],
        range(subject.seed, subject.seed + REDRAWS),
        subject.track,
    )
