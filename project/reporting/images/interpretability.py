"""Interpretability of a classifier: which pixels speak for a class, and can that be believed?

Shape letters: B images, C channels, H height, W width, K classes, P pixels of an image, S steps of
a curve, R draws of the weights, L levels of layers.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from project.reporting.faithfulness import (
    MOST_ERROR,
    MOST_RHO,
    area,
    gain,
    in_words,
    is_above_0,
    layers_of,
    mean_over_draws,
    randomisation_test,
    removal_curve,
)
from project.reporting.faithfulness_pictures import curves_picture, rho_picture
from project.reporting.findings import (
    Block,
    Figures,
    Mark,
    Measure,
    Picture,
    Section,
    Table,
    Words,
    digits,
    missing,
)
from project.reporting.images import attributions as attribution
from project.reporting.images.attribution_pictures import maps_picture
from project.reporting.subject import Images, Subject
from project.training.intervals import mean_interval

LEAST_RHO_OF_CONTROL = 0.3  # of guided backpropagation, above which the test is seen to work

SHARE_OF_N = 10  # one image in ten of --n: each costs hundreds of passes
REDRAWN_IMAGES = 32  # of the randomisation test
REDRAWS = 3
RANDOM_ORDERS = 3
STEPS = 64  # of integrated gradients; 16 in the randomisation test
CURVE = torch.linspace(0, 1, 17)  # shares of the pixels that are taken away
SHOWN = 3  # right images, and as many wrong ones

MAIN, CONTROL = "integrated_gradients", "guided_backpropagation"
TITLES = {
    MAIN: "integrated gradients (black)",
    "saliency": "saliency",
    "grad_cam": "Grad-CAM",
    "occlusion": "occlusion",
    CONTROL: "guided backpropagation",
    "integrated_gradients_grey": "integrated gradients (grey)",
    "random": "random order",
}
SHORT_TITLES = {
    MAIN: "integr.\n(black)",
    "integrated_gradients_grey": "integr.\n(grey)",
    CONTROL: "guided\nbackpr.",
}
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
        curves: `deletion` and `insertion` of each method and of `random`, (B, S).
        levels, rho: Of `randomisation_test`.
    """

    images: Images
    pixels: Tensor
    targets: Tensor
    removable: Tensor
    seed: int
    absent: dict[str, str] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)
    curves: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    levels: list[int] = field(default_factory=list)
    rho: dict[str, Tensor] = field(default_factory=dict)

    def baseline(self, name: str) -> Tensor:
        """Return what a method takes for no evidence, (1, C, 1, 1): black, or the mean pixel."""
        mean = self.images.classifier.mean[None]
        return mean if name.endswith("_grey") else torch.zeros_like(mean)

    def gain(self, kind: str, name: str) -> tuple[float, tuple[float, float] | None]:
        """Return by how much a method's area is better than that of random orders."""
        curves = self.curves[kind]
        return gain(curves[name], curves["random"], CURVE, insert=kind == "insertion")

    def is_faster(self, name: str) -> bool:
        return is_above_0(self.gain("deletion", name))

    def area(self, kind: str, name: str) -> float:
        return area(self.curves[kind][name], CURVE).mean().item()

    def last_rho(self, name: str) -> float:
        """Return the rank correlation after all layers were drawn anew."""
        return mean_over_draws(self.rho[name][:, -1])[0]

    def follows(self, name: str) -> bool:
        return abs(self.last_rho(name)) < MOST_RHO

    def incompleteness(self, name: str) -> tuple[float, tuple[float, float] | None]:
        """Return the mean error of completeness over the mean difference, with its interval."""
        network, maps = self.images.classifier, self.maps[name].to(self.pixels.device)
        error, difference = attribution.completeness(
            network, self.pixels, self.targets, self.baseline(name), maps
        )
        sums, counts = error.double().tolist(), difference.double().tolist()
        return sum(sums) / sum(counts), mean_interval(sums, counts)


def section(subject: Subject) -> Section:
    assert subject.images is not None
    study = begin(subject, subject.images)
    for name, method in subject.track(methods(study, STEPS).items(), "attributing"):
        study.maps[name] = method(study.images.classifier, study.pixels, study.targets).cpu()
    remove(subject, study)
    redraw(subject, study)
    mark, verdict = judged(study)
    return Section("interpretability", "Interpretability", mark, verdict, blocks(subject, study))


def begin(subject: Subject, images: Images) -> Study:
    """Draw the images, and find out what cannot be run on this network."""
    split, network = images.measured_split, images.classifier
    number = max(2, subject.n // SHARE_OF_N)
    indices = images.sample(split, number, subject.generator("attributions"))
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
    """Fill in the curves; those of `random` are means over several orders."""
    black, targets = study.baseline("black"), study.targets.cpu()[:, None]

    def score(kept: Tensor) -> Tensor:
        is_kept = kept.view(-1, 1, *study.pixels.shape[2:]).to(study.pixels.device)
        logits = study.images.classify(torch.where(is_kept, study.pixels, black))
        return logits.softmax(dim=1).gather(1, targets)[:, 0]

    generator = subject.generator("orders of removal")
    random = [torch.rand(study.removable.shape, generator=generator) for _ in range(RANDOM_ORDERS)]
    orders = {name: [maps.flatten(1)] for name, maps in study.maps.items()} | {"random": random}
    study.curves = {"deletion": {}, "insertion": {}}
    for name, several in subject.track(orders.items(), "removing pixels"):
        for kind, curves in study.curves.items():
            runs = [
                removal_curve(
                    score, order, study.removable, CURVE, generator, insert=kind == "insertion"
                )
                for order in several
            ]
            curves[name] = torch.stack(runs).mean(dim=0)


def redraw(subject: Subject, study: Study) -> None:
    """Fill in the randomisation test, on the first images of the sample."""
    pixels, targets = study.pixels[:REDRAWN_IMAGES], study.targets[:REDRAWN_IMAGES]
    chosen = {name: m for name, m in methods(study, steps=16).items() if name in REDRAWN}

    def attribute(network: nn.Module) -> dict[str, Tensor]:
        return {name: m(network, pixels, targets).flatten(1) for name, m in chosen.items()}

    study.levels, study.rho = randomisation_test(
        study.images.classifier,
        attribute,
        study.removable[:REDRAWN_IMAGES],
        range(subject.seed, subject.seed + REDRAWS),
        subject.track,
    )


RULE = (
    "Rule of the mark. A method follows the model if its rank correlation with the maps of "
    f"random weights lies within {MOST_RHO} of 0, and names what counts if the interval of its "
    "gain in deletion over a random order lies above 0. Holds: integrated gradients does both and "
    f"adds up to the logit within {100 * MOST_ERROR:.0f} %, and the control, guided "
    f"backpropagation, where the network has ReLUs, stays above {LEAST_RHO_OF_CONTROL}, which "
    "shows that the test can tell. With care: at least one method does both. Fails: none does."
)


def judged(study: Study) -> tuple[Mark, str]:
    """Return the mark, and what integrated gradients is worth on this model."""
    error = study.incompleteness(MAIN)[0]
    changes, faster = study.follows(MAIN), study.is_faster(MAIN)
    good = [n for n in study.rho if n != CONTROL and study.follows(n) and study.is_faster(n)]
    is_sharp = CONTROL not in study.rho or study.last_rho(CONTROL) > LEAST_RHO_OF_CONTROL
    mark: Mark = "caution" if good else "fails"
    is_sound = changes and faster and error < MOST_ERROR
    if is_sound and is_sharp:
        mark = "holds"
    areas = [digits(study.area("deletion", name)) for name in (MAIN, "random")]
    said = (
        f"Integrated gradients {'says something' if is_sound else 'says little'} about "
        f"this model: its maps {'change' if changes else 'hardly change'} when the weights are "
        f"drawn anew (rank correlation {digits(study.last_rho(MAIN))}), they miss the logit by "
        f"{in_words(error)}, and without the pixels that they name the probability falls "
        f"{'faster' if faster else 'no faster'} than in a random order (area {areas[0]} against "
        f"{areas[1]})."
    )
    useless = [
        f"{TITLES[n]}, no better than a random order"
        for n in study.maps
        if n != MAIN and not study.is_faster(n)
    ]
    useless += [
        f"{TITLES[n]}, much the same for random weights (rank correlation "
        f"{digits(study.last_rho(n))})"
        for n in study.rho
        if n != MAIN and not study.follows(n)
    ]
    return mark, said + (f" Not to be used: {'; '.join(useless)}." if useless else "")


def blocks(subject: Subject, study: Study) -> list[Block]:
    redrawn = min(REDRAWN_IMAGES, len(study.pixels))
    last = attribution.last_convolution(study.images.classifier.network)
    how = (
        f"The predicted class of {len(study.pixels):,} {study.images.measured_split} images, drawn "
        "at random, is explained by signed maps of its logit"
        + (f"; Grad-CAM is of the layer {last[0]}. " if last else ". ")
        + "Deletion and insertion (Petsiuk et al. 2018) take the pixels that are not black away, "
        "or put them back on black, the most important first, ties at random; the score is the "
        "probability of the predicted class. What is black already cannot be removed, so nothing "
        "is said about the absence of a stroke. The randomisation test (Adebayo et al. 2018) draws "
        "the weights anew from the head down, by torch's default initialisation, with batch norms "
        f"back at mean 0 and variance 1, {REDRAWS} times, and compares the signed maps of "
        f"{redrawn} images over pixels that are not black. To be faster than random is not enough: "
        "a method that draws the edges of any stroke is that too, whatever the weights."
    )
    return [
        Words(how),
        Words(RULE),
        table(study),
        examples(subject, study),
        removal_picture(study),
        randomisation_picture(study),
        Figures(measures(study)),
    ]


def table(study: Study) -> Table:
    rows = []
    for name, title in TITLES.items():
        if name in study.absent:
            rows.append([title, "not run", "", "", study.absent[name]])
            continue
        areas = [digits(study.area(kind, name)) for kind in study.curves]
        rho, reading = "", "the control of deletion and insertion"
        if name != "random":
            reading = "faster than random" if study.is_faster(name) else "not better than random"
        if name in study.rho:
            rho = digits(study.last_rho(name))
            reading += ", follows the model" if study.follows(name) else ", ignores the model"
        rows.append([title, *areas, rho, reading])
    head = ["method", "deletion (low is good)", "insertion (high is good)", "rho, random weights"]
    return Table([*head, "reading"], rows, "Methods side by side")


def measures(study: Study) -> list[Measure]:
    n, seed = len(study.pixels), study.seed
    found = []
    for name in (MAIN, "integrated_gradients_grey"):
        error, interval = study.incompleteness(name)
        title = f"{TITLES[name]}: completeness error, of the difference"
        how = f"ratio estimator over images; {STEPS} steps"
        found.append(Measure(f"completeness_{name}", title, error, "%", n, interval, seed, how))
    for name in study.absent:
        found.append(missing(f"rho_{name}", TITLES[name], study.absent[name]))
    for name in study.maps:
        for kind in study.curves:
            value, interval = study.gain(kind, name)
            said, how = f"{TITLES[name]}: {kind}, gain over random", "normal, paired over images"
            found.append(Measure(f"{kind}_gain_{name}", said, value, "", n, interval, seed, how))
    for name, rho in study.rho.items():
        value, interval = mean_over_draws(rho[:, -1])
        constant = int(rho.isnan().sum())
        how = (
            f"Student's t over {REDRAWS} draws of the weights; {constant} constant maps, taken as 0"
        )
        said = f"{TITLES[name]}: rank correlation after all layers"
        found.append(Measure(f"rho_{name}", said, value, "", rho.shape[2], interval, seed, how))
    return found


def examples(subject: Subject, study: Study) -> Picture:
    """Draw right and wrong images, chosen by a rule, with the maps of every method."""
    images, split = study.images, study.images.measured_split
    indices = shown_images(subject, images)
    pixels, labels = images.pixels(split, indices), images.labels(split, indices)
    confidence, predicted = images.logits(split)[indices].softmax(dim=1).max(dim=1)
    targets = predicted.to(images.device)
    maps = {
        name: method(images.classifier, pixels, targets).cpu()
        for name, method in methods(study, STEPS).items()
    }
    names = images.class_names
    said = [
        f"says {names[p]}\nis {names[k]}\n{100 * share:.0f} %"
        for p, k, share in zip(
            predicted.tolist(), labels.tolist(), confidence.tolist(), strict=True
        )
    ]
    wrong = int((predicted != labels).sum())
    caption = (
        f"Which pixels speak for the predicted class (red) and against it (blue): "
        f"{len(said) - wrong} images of the {split} split that are classified right, drawn at "
        f"random (seed {study.seed}), then {wrong} that are not, the most confident ones. Left, "
        "what the model says, what the label is, and the probability of the former. Each map has "
        "its own scale, symmetrical about 0 (white)."
    )
    alt = f"Grid of {len(said)} images with signed attribution maps of {len(maps)} methods."
    png = maps_picture(pixels.cpu(), said, maps, TITLES | SHORT_TITLES)
    return Picture("attributions", png, caption, alt)


def shown_images(subject: Subject, images: Images) -> Tensor:
    """Return `SHOWN` right images drawn at random, then the most confident wrong ones."""
    split = images.measured_split
    confidence, predicted = images.logits(split).softmax(dim=1).max(dim=1)
    is_wrong = predicted != images.labels(split)
    right, wrong = (~is_wrong).nonzero().flatten(), is_wrong.nonzero().flatten()
    order = torch.randperm(len(right), generator=subject.generator("right images"))
    most_confident = confidence[wrong].argsort(descending=True)
    return torch.cat([right[order[:SHOWN]], wrong[most_confident[:SHOWN]]])


def removal_picture(study: Study) -> Picture:
    panels = {
        "% of the pixels removed": study.curves["deletion"],
        "% of the pixels put back": study.curves["insertion"],
    }
    caption = (
        f"Probability of the predicted class, mean over {len(study.pixels):,} images. Left, pixels "
        "are removed, the most important first: a method that names what counts falls early, below "
        "the dashed random order. Right, they are put back on black: it rises early, above it."
    )
    first = min(study.maps, key=lambda name: study.area("deletion", name))
    alt = f"Deletion and insertion curves; {TITLES[first]} falls earliest."
    picture = curves_picture(panels, CURVE, TITLES, {"random"})
    return Picture("deletion_insertion", picture, caption, alt)


def randomisation_picture(study: Study) -> Picture:
    caption = (
        "Rank correlation of each map with that of the same network after its last layers were "
        f"drawn anew, of {len(layers_of(study.images.classifier))} with weights; bars reach over "
        f"the {REDRAWS} draws. At 1 nothing has changed: the method did not look at those weights. "
        f"At 0 nothing is left. The grey band is {MOST_RHO} about 0."
    )
    ends = ", ".join(f"{TITLES[name]} {digits(study.last_rho(name))}" for name in study.rho)
    picture = rho_picture(study.levels, study.rho, TITLES)
    return Picture("randomisation", picture, caption, f"After all layers: {ends}.")
