"""Can the confidences of a classifier be taken at their word?"""

import torch

from project.reporting.calibration import Temperature, fit_temperature, verdicts
from project.reporting.confidence import confidence_section
from project.reporting.findings import Section
from project.reporting.images.opened import Images
from project.reporting.subject import Subject


def section(subject: Subject) -> Section:
    images = subject.images
    assert images is not None
    split = images.measured_split
    logits, labels = images.logits(split), images.labels(split)
    fitted = fitted_temperature(images, split)
    return confidence_section(
        verdicts(logits, labels),
        None if isinstance(fitted, str) else verdicts(logits, labels, fitted.value),
        fitted,
        torch.arange(len(labels)),
        ("images", "images"),
        subject.seed,
        subject.generator("calibration"),
        [],
    )


def fitted_temperature(images: Images, split: str) -> Temperature | str:
    """Return the temperature of the validation split, or why there is none."""
    if split == "val":
        return "there is no test split to judge a temperature on that is fitted on validation"
    labels = images.labels("val")
    return fit_temperature(images.logits("val"), labels) or (
        f"all {len(labels):,} validation images are predicted right, so the likelihood of a "
        "temperature rises for ever towards 0"
    )
