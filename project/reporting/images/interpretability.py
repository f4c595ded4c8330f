"""Interpretability of a classifier: which pixels speak for a class, and can that be believed?

Shape letters: B images, C channels, H height, W width, K classes, P pixels of an image, S steps of
a curve, R draws of the weights, L levels of layers.
"""

import math

import torch
from torch import Tensor

from project.reporting.faithfulness import (
    MOST_ERROR,
    MOST_RHO,
    REDRAWS,
    in_words,
    layers_of,
)
from project.reporting.faithfulness_pictures import curves_picture, randomisation_picture
from project.reporting.findings import (
    Block,
    Figures,
    Mark,
    Measure,
    Picture,
    Section,
    Table,
    Words,
    missing,
)
from project.reporting.images.attributions import last_convolution
from project.reporting.images.explained import (
    CONTROL,
    CURVE,
    MAIN,
    REDRAWN_IMAGES,
    STEPS,
    Study,
    attributed,
    explained,
)
from project.reporting.images.grids import LONGEST, maps_picture
from project.reporting.images.opened import Images
from project.reporting.subject import Subject

LEAST_RHO_OF_CONTROL = 0.3  # of guided backpropagation, above which the test is seen to work

SHOWN = 3  # right images, and as many wrong ones
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
RULE = (
    "Rule of the mark. A method follows the model if its rank correlation with the maps of "
    f"random weights lies within {MOST_RHO} of 0, and names what counts if the interval of its "
    "gain in deletion over a random order lies above 0. Holds: integrated gradients does both and "
    f"adds up to the logit within {100 * MOST_ERROR:.0f} %, and the control, guided "
    f"backpropagation, where the network has ReLUs, stays above {LEAST_RHO_OF_CONTROL}, which "
    "shows that the test can tell. With care: at least one method does both. Fails: none does."
)


def section(subject: Subject) -> Section:
    assert subject.images is not None
    study = explained(subject, subject.images)
    mark, verdict = judged(study)
    return Section("interpretability", mark, verdict, blocks(subject, study))


def judged(study: Study) -> tuple[Mark, str]:
    """Return the mark by `RULE`, and which methods can be believed."""
    found = study.found
    tested = [name for name in found.rho if name != CONTROL]
    good = [name for name in tested if study.is_sound(name)]
    bad = [name for name in tested if name not in good]
    is_sharp = CONTROL not in found.rho or found.last_rho(CONTROL) > LEAST_RHO_OF_CONTROL
    adds_up = study.incompleteness(MAIN)[0] < MOST_ERROR
    if not good:
        return "fails", (
            f"Which pixels a class rests on cannot be shown: maps by {listed(bad)} are not seen to "
            "depend on the weights, or name pixels that count no more than others."
        )
    best = MAIN if MAIN in good else min(good, key=study.without_a_quarter)
    shares = [f"{100 * study.without_a_quarter(name):.0f} %" for name in (best, "random")]
    said = (
        f"Which pixels a class rests on is shown by {listed(good)}: without the quarter of them "
        f"that {listed([best])} names first the class has a probability of {shares[0]}, without a "
        f"random quarter {shares[1]}."
    )
    said += f" Not to be trusted: {listed(bad)}." if bad else ""
    if MAIN in good and not adds_up:
        error = in_words(study.incompleteness(MAIN)[0])
        said += f" Integrated gradients misses {error} of the score that it should add up to."
    if not is_sharp:
        said += " A method known to ignore the weights passed too: the test may not tell here."
    return "holds" if MAIN in good and adds_up and is_sharp else "caution", said


def listed(names: list[str]) -> str:
    titles = [TITLES[name].removesuffix(" (black)") for name in names]
    return " and ".join([", ".join(titles[:-1]), titles[-1]] if titles[1:] else titles)


def blocks(subject: Subject, study: Study) -> list[Block]:
    redrawn = min(REDRAWN_IMAGES, len(study.pixels))
    last = last_convolution(study.images.classifier.network)
    num_layers = len(layers_of(study.images.classifier))
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
        randomisation_picture("randomisation", study.found, TITLES, num_layers),
        Figures(measures(study)),
    ]


def table(study: Study) -> Table:
    rows, found = [], study.found
    for name, title in TITLES.items():
        if name in study.absent:
            rows.append([title, "not run", "", "", "", study.absent[name]])
            continue
        quarter = f"{100 * study.without_a_quarter(name):.0f} %"
        areas = [f"{found.area(name, kind):.2f}" for kind in found.curves]
        rho, reading = "", "the control of deletion and insertion"
        if name != "random":
            reading = "faster than random" if found.is_faster(name) else "not better than random"
        if name in found.rho:
            rho = f"{found.last_rho(name):.2f}"
            reading += f", {study.likeness(name)} maps of random weights"
        rows.append([title, quarter, *areas, rho, reading])
    head = [
        "method",
        "probability without its first quarter",
        "deletion (low is good)",
        "insertion (high is good)",
        "rho, random weights",
    ]
    return Table([*head, "reading"], rows, "Methods side by side")


def measures(study: Study) -> list[Measure]:
    n, seed = len(study.pixels), study.seed
    found = []
    for name in (MAIN, "integrated_gradients_grey"):
        error, interval = study.incompleteness(name)
        key, title = f"completeness_{name}", f"{TITLES[name]}: completeness error"
        how = f"of the difference of logits; ratio estimator over images; {STEPS} steps"
        if math.isinf(error):
            found.append(missing(key, title, "the network says the same of all images and of none"))
            continue
        found.append(Measure(key, title, error, "%", n, interval, seed, how))
    for name in study.absent:
        found.append(missing(f"rho_{name}", TITLES[name], study.absent[name]))
    for name in study.maps:
        for kind in study.found.curves:
            value, interval = study.found.gain(name, kind=kind)
            said, how = f"{TITLES[name]}: {kind}, gain over random", "normal, paired over images"
            found.append(Measure(f"{kind}_gain_{name}", said, value, "", n, interval, seed, how))
    return [*found, *study.found.rho_measures(TITLES, seed)]


def examples(subject: Subject, study: Study) -> Picture:
    """Draw right and wrong images, chosen by a rule, with the maps of every method."""
    images, split = study.images, study.images.measured_split
    indices = shown_images(subject, images)
    pixels, labels = images.pixels(split, indices), images.labels(split, indices)
    confidence, predicted = images.logits(split)[indices].softmax(dim=1).max(dim=1)
    maps = attributed(subject, study, pixels, predicted.to(images.device))
    names = images.class_names
    said = [
        f"says {names[p][:LONGEST]}\nis {names[k][:LONGEST]}\n{100 * share:.0f} %"
        for p, k, share in zip(
            predicted.tolist(), labels.tolist(), confidence.tolist(), strict=True
        )
    ]
    wrong = int((predicted != labels).sum())
    caption = (
        "Which pixels speak for the predicted class (red) and against it (blue). Images of the "
        f"{split} split: {len(said) - wrong} that are classified right, drawn at random, then the "
        f"most confident errors ({wrong}). Left, what the model says, what the label is, and the "
        "probability of the former. Each map has its own scale, symmetrical about 0 (white)."
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
        "% of the pixels removed": study.found.curves["deletion"],
        "% of the pixels put back": study.found.curves["insertion"],
    }
    caption = (
        f"Probability of the predicted class, mean over {len(study.pixels):,} images. Left, pixels "
        "are removed, the most important first: a method that names what counts falls early, below "
        "the dashed random order. Right, they are put back on black: it rises early, above it."
    )
    first = min(study.maps, key=lambda name: study.found.area(name))
    alt = f"Deletion and insertion curves; {TITLES[first]} falls earliest."
    picture = curves_picture(panels, CURVE, TITLES, {"random"})
    return Picture("deletion_insertion", picture, caption, alt)
