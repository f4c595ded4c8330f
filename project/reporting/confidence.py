"""What a report says of confidences, of images and of the tokens of a text alike."""

import torch
from torch import Tensor

from project.intervals import wilson_interval
from project.reporting.bootstrap import DRAWS, interval_95
from project.reporting.calibration import (
    BINS,
    Temperature,
    Verdicts,
    calibration_error,
    equal_mass,
    equal_width,
    error_interval,
    errors_by_chance,
    reliability_picture,
    scores_resampled,
)
from project.reporting.findings import (
    Figures,
    Mark,
    Measure,
    Picture,
    Section,
    Words,
    missing,
    share,
)

SMALL, LARGE = 0.01, 0.05  # ECE that is small whatever its cause, and that is too large
EXPLAINED = 0.95  # quantile of what chance shows, up to which it explains an ECE
VERY_SURE = 0.99
SCORES = (  # columns of `scores_resampled` that a temperature changes
    (2, "ece", "Calibration error (ECE)", "%"),
    (4, "nll", "Loss (negative log-likelihood)", "nats"),
    (5, "brier", "Brier score, 0 to 2", ""),
)
WHAT = f"""\
The confidence of a prediction is the probability that the model gives it. Of predictions made at \
90 %, 90 % should be right. The expected calibration error (ECE, {BINS} bins) is the mean distance \
between the two (Guo et al. 2017). It is never 0 on a finite number of examples, so it is shown \
beside the one that a perfectly calibrated model would show by chance. Dividing the logits by one \
temperature, fitted on the validation split, is the usual cure; it changes no prediction."""
RULE = f"""\
The mark: "holds" where the ECE is at most {SMALL:.0%}, or below the {EXPLAINED:.0%} quantile of \
what a perfectly calibrated model of the same confidences shows by chance; "fails" where it is \
above {LARGE:.0%} and chance does not explain it; else "with care", as also where the examples are \
so few that chance alone may show more than {LARGE:.0%}, or that the accuracy is not known within \
{LARGE:.0%}.""".replace("%", " %")


def confidence_section(
    before: Verdicts,
    after: Verdicts | None,
    fitted: Temperature | str,
    groups: Tensor,
    units: tuple[str, str],
    seed: int,
    generator: torch.Generator,
    extra: list[Measure],
) -> Section:
    """Return the section from what a model said of each example.

    Args:
        after: The same, with the logits divided by the temperature that was fitted.
        fitted: That temperature, or why there is none.
        groups: Number of the group of each example, int64 (N,): the bootstrap draws groups.
        units: What an example is, and a group, in the plural.
        extra: More figures of the model as trained.
    """
    how = f"bootstrap over {units[1]}, {DRAWS:,} draws"
    drawn = scores_resampled([v for v in (before, after) if v], groups, generator)
    chance = errors_by_chance(before.confidence, equal_width(before.confidence), generator)
    trained = as_trained(before, drawn[:, 0], chance, seed, how, generator)
    scaled = [of_temperature(fitted)]
    if after is not None:
        scaled += by_scaling(before, after, drawn, seed, how, generator)
    name = "reliability"
    caption = (
        f"Above: of the predictions of each confidence, how many were right, with 95 % intervals "
        f"(Wilson). On the dashed line a confidence is what it says; below it the model is too "
        f"sure, above it not sure enough. Below: how many {units[0]} had that confidence "
        "(logarithmic)."
    )
    plot = reliability_picture(before, after, units[0])
    return Section(
        "calibration",
        mark_of(before, chance),
        verdict_of(before, chance, {m.key: m for m in trained + scaled}, units[0]),
        [
            Words(WHAT),
            Figures([*trained, *very_sure(before, units), *extra], "As trained"),
            Picture(name, plot, caption, f"Reliability diagram: {trained[0].shown()}"),
            Figures(scaled, "With a temperature"),
            Words(RULE),
        ],
    )


def as_trained(
    of: Verdicts, drawn: Tensor, chance: Tensor, seed: int, how: str, generator: torch.Generator
) -> list[Measure]:
    """Return the scores of a model; `drawn` (D, 6) are those of resamples."""
    n, sure = len(of.right), of.confidence.mean().item()
    error = calibration_error(of.confidence, of.right)
    groups = equal_mass(of.confidence)
    of_mass = calibration_error(of.confidence, of.right, groups)
    mass_chance = errors_by_chance(of.confidence, groups, generator)
    basic = f"basic {how}; from 0 where chance explains it"
    by_chance = f"middle 95 % of {len(chance):,} draws of which are right"

    def figure(key: str, title: str, value: float, column: int | Tensor, unit: str) -> Measure:
        draws = drawn[:, column] if isinstance(column, int) else column
        return Measure(key, title, value, unit, n, interval_95(draws), seed, how)

    return [
        Measure(
            "ece", "Calibration error (ECE)", error, "%", n,
            error_interval(error, drawn[:, 2], chance), seed, basic,
        ),
        Measure(
            "ece_by_chance", "ECE of a calibrated model by chance", chance.mean().item(), "%", n,
            interval_95(chance), seed, by_chance,
        ),
        Measure(
            "ece_equal_mass", "ECE, bins of equal mass", of_mass, "%", n,
            error_interval(of_mass, drawn[:, 3], mass_chance), seed, basic,
        ),
        figure("confidence", "Mean confidence", sure, 1, "%"),
        figure(
            "overconfidence", "Confidence minus accuracy", sure - of.right.mean().item(),
            drawn[:, 1] - drawn[:, 0], "%",
        ),
        figure("nll", "Loss (negative log-likelihood)", of.losses.mean().item(), 4, "nats"),
        figure("brier", "Brier score, 0 to 2", of.brier.mean().item(), 5, ""),
    ]  # fmt: skip


def very_sure(of: Verdicts, units: tuple[str, str]) -> list[Measure]:
    """Return how many of the surest predictions are wrong, and how many should be."""
    chosen = of.confidence > VERY_SURE
    n, title = int(chosen.sum()), f"Wrong, of those above {100 * VERY_SURE:.0f} %"
    if n == 0:
        return [missing("wrong_very_sure", title, "no prediction is that sure")]
    wrong = n - int(of.right[chosen].sum())
    measured = share("wrong_very_sure", f"{title}: {wrong:,} of {n:,}", wrong, n)
    if units[0] != units[1]:
        how = f"Wilson, as if {units[0]} were independent"
        measured = Measure(**{**vars(measured), "how": how})
    said = (1 - of.confidence[chosen]).mean().item()
    return [
        measured,
        Measure(
            "said_very_sure", "The same, by their own word", said, "%", n, how="what was stated"
        ),
    ]


def of_temperature(fitted: Temperature | str) -> Measure:
    title = "Temperature"
    if isinstance(fitted, str):
        return missing("temperature", title, fitted)
    how = "fitted on the validation split; that of an M-estimator"
    return Measure("temperature", title, fitted.value, "", fitted.n, fitted.interval_95, None, how)


def by_scaling(
    before: Verdicts,
    after: Verdicts,
    drawn: Tensor,
    seed: int,
    how: str,
    generator: torch.Generator,
) -> list[Measure]:
    """Return the scores after scaling, and the change; `drawn` (D, 2, 6) are of resamples."""
    n, found = len(before.right), []
    chance = errors_by_chance(after.confidence, equal_width(after.confidence), generator)
    for column, key, title, unit in SCORES:
        first, second = (score(of, key) for of in (before, after))
        draws, changes = drawn[:, 1, column], drawn[:, 1, column] - drawn[:, 0, column]
        change, how_here = second - first, how
        interval, of_change = interval_95(draws), interval_95(changes)
        if key == "ece":  # biased, and so turned round the estimate
            how_here, interval = f"basic {how}", error_interval(second, draws, chance)
            of_change = (2 * change - of_change[1], 2 * change - of_change[0])
        found += [
            Measure(f"{key}_scaled", f"{title}, scaled", second, unit, n, interval, seed, how_here),
            Measure(
                f"{key}_change", f"{title}, scaled less as trained", change, unit, n, of_change,
                seed, f"paired {how_here}",
            ),
        ]  # fmt: skip
    return found


def score(of: Verdicts, key: str) -> float:
    if key == "ece":
        return calibration_error(of.confidence, of.right)
    return (of.losses if key == "nll" else of.brier).mean().item()


def mark_of(of: Verdicts, chance: Tensor) -> Mark:
    """Return the mark by `RULE`."""
    error, limit = calibration_error(of.confidence, of.right), chance.quantile(EXPLAINED).item()
    if error > max(limit, LARGE):
        return "fails"
    return "holds" if error <= max(limit, SMALL) and not are_few(of, chance) else "caution"


def are_few(of: Verdicts, chance: Tensor) -> bool:
    """Return whether the examples leave more than `LARGE` open.

    Chance alone does not tell it: a model that says 99.9 % of five images, and is right, was lucky.
    """
    right, n = int(of.right.sum()), len(of.right)
    low, high = wilson_interval(right, n)
    open_share = max(right / n - low, high - right / n)
    return max(open_share, chance.quantile(EXPLAINED).item()) > LARGE


def verdict_of(of: Verdicts, chance: Tensor, figures: dict[str, Measure], unit: str) -> str:
    """Return the answer in one or two sentences."""
    error = figures["ece"]
    low, high = figures["overconfidence"].interval_95 or (0.0, 0.0)
    mark = mark_of(of, chance)
    if mark == "caution" and are_few(of, chance):
        answer = f"{len(of.right):,} {unit} are too few to tell whether confidences can be trusted"
    elif mark == "holds":
        within = error.number() if (error.value or 0.0) > SMALL else f"{100 * SMALL:.0f} %"
        answer = f"Confidences can be taken at their word within {within}"
    else:
        where = "on the whole too high" if low > 0 else "on the whole too low"
        in_places = "too high in places and too low in others"
        answer = f"Confidences are {where if low > 0 or high < 0 else in_places}"
    told = (
        f"{answer}: on average they are {error.shown()} from how often they are right, where a "
        f"perfectly calibrated model is {figures['ece_by_chance'].number()} by chance."
    )
    return f"{told} {of_scaling(figures)}".rstrip()


def of_scaling(figures: dict[str, Measure]) -> str:
    """Return whether a temperature is worth it."""
    change = figures.get("nll_change")
    if change is None or change.value is None or change.interval_95 is None:
        return ""
    if change.interval_95[1] < 0:
        return f"With a temperature, the usual cure, it is {figures['ece_scaled'].number()}."
    return "The usual cure, a temperature, does not help."
