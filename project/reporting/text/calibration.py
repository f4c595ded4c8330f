"""Can the probabilities of a language model's next token be taken at their word?

Shape letters: N tokens of a split, V vocabulary.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from project.reporting.bootstrap import DRAWS, bootstrap, interval_95
from project.reporting.calibration import Temperature, Verdicts, fit_temperature, verdicts
from project.reporting.confidence import confidence_section
from project.reporting.findings import Measure, Section
from project.reporting.subject import Subject
from project.reporting.text.opened import Text

MOST_LOGITS = 1 << 25  # that are kept to fit a temperature: 128 MB
FEW = 5  # likeliest tokens


def section(subject: Subject) -> Section:
    text = subject.text
    assert text is not None
    split = text.measured_split
    fitted = fitted_temperature(subject, text, split)
    temperature = None if isinstance(fitted, str) else fitted.value
    before, after, among_few = said_of(subject, text, split, temperature)
    windows, _ = text.windows_read(split)
    generator = subject.generator("calibration")
    return confidence_section(
        before,
        after,
        fitted,
        windows,
        ("tokens", "windows of text"),
        subject.seed,
        generator,
        accuracies(before, among_few, windows, subject.seed, generator),
    )


def fitted_temperature(subject: Subject, text: Text, split: str) -> Temperature | str:
    """Return the temperature of the validation text, or why there is none."""
    if split == "val" or "val" not in text.splits:
        return "it takes a validation split to fit one and a test split to judge it"
    generator = subject.generator("temperature")
    number = len(text.tokens("val")) - 1
    kept = torch.zeros(number, dtype=torch.bool)
    most = max(2, MOST_LOGITS // len(text.tokenizer.vocabulary))
    kept[torch.randperm(number, generator=generator)[:most]] = True
    windows, _ = text.windows_read("val")
    logits, labels, groups = [], [], []
    for found, targets, places in readings(subject, text, "val"):
        chosen = kept[places].to(found.device)
        logits.append(found[chosen].float().cpu())
        labels.append(targets[chosen].cpu())
        groups.append(windows[places[kept[places]]])
    fitted = fit_temperature(torch.cat(logits), torch.cat(labels), torch.cat(groups))
    return fitted or "every validation token is predicted right: no temperature is the best"


def readings(subject: Subject, text: Text, split: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield what `Text.readings` does, on a device that knows float64."""
    batches = len(text.data.evaluation_loader(split))
    for logits, targets, places in subject.track(
        text.readings(split), f"reading {split} text", batches
    ):
        is_mps = logits.device.type == "mps"
        yield (logits.cpu(), targets.cpu(), places) if is_mps else (logits, targets, places)


def said_of(
    subject: Subject, text: Text, split: str, temperature: float | None
) -> tuple[Verdicts, Verdicts | None, Tensor]:
    """Return what was said of each token after the first, as trained and with a temperature.

    And whether it was among the few likeliest, float64 (N - 1,).
    """
    number = len(text.tokens(split)) - 1
    tables = [torch.zeros(number, 4, dtype=torch.float64) for _ in range(1 + bool(temperature))]
    among_few = torch.zeros(number, dtype=torch.float64)
    for logits, targets, places in readings(subject, text, split):
        for table, t in zip(tables, (1.0, temperature or 1.0), strict=False):
            table[places] = torch.stack(verdicts(logits, targets, t), dim=1).cpu()
        few = logits.topk(min(FEW, logits.shape[1]), dim=1).indices
        among_few[places] = (few == targets[:, None]).any(dim=1).double().cpu()
    before, *after = (Verdicts(*table.unbind(dim=1)) for table in tables)
    return before, after[0] if after else None, among_few


def accuracies(
    of: Verdicts, among_few: Tensor, windows: Tensor, seed: int, generator: torch.Generator
) -> list[Measure]:
    """Return how often the next token is the likeliest, and among the few likeliest."""
    count = int(windows.max()) + 1
    columns = torch.stack([torch.ones_like(of.right), of.right, among_few], dim=1)
    table = torch.zeros(count, 3, dtype=torch.float64).index_add_(0, windows, columns)

    def shares(weights: Tensor) -> Tensor:
        sums = weights @ table
        return sums[:, 1:] / sums[:, :1]

    drawn = bootstrap(shares, count, generator)
    how = f"bootstrap over windows of text, {DRAWS:,} draws"
    return [
        Measure(key, title, values.mean().item(), "%", len(values), interval_95(draws), seed, how)
        for key, title, values, draws in (
            ("top_1", "The next token is the likeliest", of.right, drawn[:, 0]),
            (f"top_{FEW}", f"It is among the {FEW} likeliest", among_few, drawn[:, 1]),
        )
    ]
