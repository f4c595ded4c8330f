"""Attributions of the tokens of a sample of windows, and what two tests say of them.

Shape letters: B windows, T tokens of a window.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from project.intervals import mean_interval
from project.reporting.faithfulness import (
    REDRAWS,
    Faithfulness,
    randomisation_test,
    removal_curves,
)
from project.reporting.subject import Subject
from project.reporting.text import attributions as attribution
from project.reporting.text.opened import Text

LENGTH = 64  # tokens of a window that is explained, or the context where it is shorter
EXAMPLES_A_WINDOW = 25  # each costs hundreds of passes: a 25th of the report's n
REDRAWN_WINDOWS = 12  # of the randomisation test
STEPS = 64  # of integrated gradients; 16 in the randomisation test
CURVE = torch.linspace(0, 0.25, 17)  # shares of the tokens taken away; later ones hardly count

MAIN = "integrated_gradients"
METHODS = (MAIN, "gradient_times_input", "occlusion")


@dataclass
class Study:
    """What was measured on one sample of windows.

    Attributes:
        tokens: (B, T), on the device.
        targets: The predicted tokens, which are what is explained, int64 (B,), on the device.
        next_tokens: What the text has there, int64 (B,), on the CPU.
        sample: Tokens whose mean embedding is the average token, on the device.
        seed: Of all that is drawn.
        values: Of each method, (B, T) on the CPU.
        found: By the two tests.
    """

    text: Text
    tokens: Tensor
    targets: Tensor
    next_tokens: Tensor
    sample: Tensor
    seed: int
    values: dict[str, Tensor] = field(default_factory=dict)
    found: Faithfulness = field(default_factory=lambda: Faithfulness(CURVE))

    def incompleteness(self) -> tuple[float, tuple[float, float] | None] | None:
        """Return the mean error of completeness over the mean difference, with its interval.

        None where there is no difference: the network says the same whatever it reads.
        """
        network = self.text.network
        baseline = attribution.average_token(network, self.sample)
        error, difference = attribution.completeness(
            network, self.tokens, self.targets, baseline, self.values[MAIN].to(self.tokens.device)
        )
        sums, counts = error.tolist(), difference.tolist()
        return (sum(sums) / sum(counts), mean_interval(sums, counts)) if sum(counts) else None


def explained(subject: Subject, text: Text) -> Study:
    """Draw windows, attribute their predictions by every method, and test the attributions."""
    study = begin(subject, text)
    if len(study.tokens) > 1:
        for name in subject.track(METHODS, "attributing"):
            study.values[name] = attributed(study, text.network, name, len(study.tokens), STEPS)
        remove(subject, study)
        redraw(subject, study)
    return study


def begin(subject: Subject, text: Text) -> Study:
    """Draw the windows, and what the average token is taken over."""
    split, length = text.measured_split, min(LENGTH, text.context_length)
    number = max(2, subject.n // EXAMPLES_A_WINDOW)
    batch = text.windows(split, number, subject.generator("explained windows"), length)
    sample = text.windows(split, 200, subject.generator("average token"), length).inputs
    logits = text.logits(batch.inputs)[:, -1, : len(text.tokenizer.vocabulary)]
    targets = logits.argmax(dim=1).to(text.device)
    tokens = batch.inputs.to(text.device)
    next_tokens, sample = batch.targets[:, -1], sample.to(text.device)
    return Study(text, tokens, targets, next_tokens, sample, subject.seed)


def attributed(study: Study, network: nn.Module, name: str, number: int, steps: int) -> Tensor:
    """Return the attributions of the first windows by a method, (number, T) on the CPU."""
    tokens, targets = study.tokens[:number], study.targets[:number]
    baseline = attribution.average_token(network, study.sample)
    if name == MAIN:
        return attribution.integrated_gradients(network, tokens, targets, baseline, steps).cpu()
    if name == "occlusion":
        return attribution.occlusion(network, tokens, targets, baseline).cpu()
    return attribution.gradient_times_input(network, tokens, targets, baseline).cpu()


def remove(subject: Subject, study: Study) -> None:
    """Fill in the curves of deletion."""
    network = study.text.network
    reader = attribution.Reader(network)
    embeddings = attribution.embedded(network, study.tokens)
    baseline = attribution.average_token(network, study.sample)

    def score(kept: Tensor) -> Tensor:
        is_kept = kept[:, :, None].to(embeddings.device)
        return reader(torch.where(is_kept, embeddings, baseline), study.targets).exp()

    nearest = torch.arange(study.tokens.shape[1]).float().expand(study.tokens.shape)
    study.found.curves = removal_curves(
        score,
        {**study.values, "nearest": nearest},
        torch.ones(study.tokens.shape, dtype=torch.bool),
        CURVE,
        subject.generator("orders of removal"),
        ["deletion"],
        subject.track,
    )


def redraw(subject: Subject, study: Study) -> None:
    """Fill in the randomisation test, on the first windows of the sample."""
    number = min(REDRAWN_WINDOWS, len(study.tokens))

    def attribute(network: nn.Module) -> dict[str, Tensor]:
        signed = attributed(study, network, MAIN, number, steps=16)
        times = attributed(study, network, "gradient_times_input", number, steps=16)
        return {MAIN: signed, "gradient_times_input": times, "unsigned": signed.abs()}

    study.found.levels, study.found.rho = randomisation_test(
        study.text.network,
        attribute,
        torch.ones(number, study.tokens.shape[1], dtype=torch.bool),
        range(subject.seed, subject.seed + REDRAWS),
        subject.track,
    )
