"""Interpretability of a language model: which tokens a prediction rests on, and how far back.

Shape letters: B windows, T tokens of a window, V vocabulary, N heads, S steps of a curve, R draws
of the weights, L levels of layers.
"""

import math
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
    fact,
    missing,
)
from project.reporting.subject import Subject, Text
from project.reporting.text import attention
from project.reporting.text import attributions as attribution
from project.reporting.text.token_pictures import (
    Row,
    context_picture,
    distances_picture,
    heads_picture,
    text_picture,
)
from project.training.intervals import Z_95, mean_interval

NEAR = 0.05  # share of the loss: where more context brings less, it is as good as not seen

LENGTH = 64  # tokens of a window that is explained, or the context where it is shorter
SHARE_OF_N = 25  # one window in 25 of --n: each costs hundreds of passes
FURTHER = 2  # contexts that a network without an end to its context is read for
REDRAWN_WINDOWS = 12  # of the randomisation test
REDRAWS = 3
RANDOM_ORDERS = 3
STEPS = 64  # of integrated gradients; 16 in the randomisation test
CURVE = torch.linspace(0, 0.25, 17)  # shares of the tokens taken away; later ones hardly count
SHOWN = 2  # right predictions, and as many wrong ones
SHOWN_TOKENS = 48  # of each
SHOWN_HEADS = 4

MAIN = "integrated_gradients"
TITLES = {
    MAIN: "integrated gradients",
    "gradient_times_input": "gradient x input",
    "occlusion": "occlusion",
    "unsigned": "integrated gradients, unsigned",
    "nearest": "nearest first",
    "random": "random order",
}
METHODS = (MAIN, "gradient_times_input", "occlusion")
CONTROLS = {"nearest", "random"}


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
        curves: Deletion of each method and control, (B, S).
        levels, rho: Of `randomisation_test`.
        lengths, losses: Tokens of context, and the losses with them, nats (windows, lengths).
        distances: Tokens that each head looks back, (windows, layers, N); empty without attention.
    """

    text: Text
    tokens: Tensor
    targets: Tensor
    next_tokens: Tensor
    sample: Tensor
    seed: int
    values: dict[str, Tensor] = field(default_factory=dict)
    curves: dict[str, Tensor] = field(default_factory=dict)
    levels: list[int] = field(default_factory=list)
    rho: dict[str, Tensor] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))
    distances: Tensor = field(default_factory=lambda: torch.zeros(0))

    def gain(self, name: str, control: str) -> tuple[float, tuple[float, float] | None]:
        return gain(self.curves[name], self.curves[control], CURVE)

    def is_faster(self, name: str, control: str) -> bool:
        return is_above_0(self.gain(name, control))

    def area(self, name: str) -> float:
        return area(self.curves[name], CURVE).mean().item()

    def last_rho(self, name: str) -> float:
        """Return the rank correlation after all layers were drawn anew."""
        return mean_over_draws(self.rho[name][:, -1])[0]

    def follows(self, name: str) -> bool:
        return abs(self.last_rho(name)) < MOST_RHO

    def incompleteness(self) -> tuple[float, tuple[float, float] | None]:
        """Return the mean error of completeness over the mean difference, with its interval."""
        network = self.text.network
        baseline = attribution.average_token(network, self.sample)
        error, difference = attribution.completeness(
            network, self.tokens, self.targets, baseline, self.values[MAIN].to(self.tokens.device)
        )
        sums, counts = error.double().tolist(), difference.double().tolist()
        return sum(sums) / sum(counts), mean_interval(sums, counts)

    def above_the_longest(self) -> dict[int, tuple[float, tuple[float, float]]]:
        """Return by how much the loss with each context is above that with the longest, paired."""
        found = {}
        for length, losses in zip(self.lengths[:-1], self.losses.T, strict=False):
            above = (losses - self.losses[:, -1]).double()
            interval = mean_interval(above.tolist(), [1] * len(above))
            assert interval is not None
            found[length] = above.mean().item(), interval
        return found

    def reach(self) -> int:
        """Return the shortest context from which on more brings less than `NEAR` of the loss.

        Beyond chance: the 95 % interval of what it brings ends below.
        """
        most = NEAR * self.losses[:, -1].mean().item()
        short = [k for k, (_, interval) in self.above_the_longest().items() if interval[1] > most]
        return next(length for length in self.lengths if not short or length > short[-1])


def section(subject: Subject) -> Section:
    assert subject.text is not None
    study = begin(subject, subject.text)
    for name in subject.track(METHODS, "attributing"):
        study.values[name] = explained(study, study.text.network, name, len(study.tokens), STEPS)
    remove(subject, study)
    redraw(subject, study)
    look_back(subject, study)
    mark, verdict = judged(study)
    return Section("interpretability", "Interpretability", mark, verdict, blocks(subject, study))


def begin(subject: Subject, text: Text) -> Study:
    """Draw the windows, and what the average token is taken over."""
    split, length = text.measured_split, min(LENGTH, text.context_length)
    number = max(2, subject.n // SHARE_OF_N)
    batch = text.windows(split, number, subject.generator("explained windows"), length)
    sample = text.windows(split, 200, subject.generator("average token"), length).inputs
    targets = text.logits(batch.inputs)[:, -1].argmax(dim=1).to(text.device)
    tokens = batch.inputs.to(text.device)
    next_tokens, sample = batch.targets[:, -1], sample.to(text.device)
    return Study(text, tokens, targets, next_tokens, sample, subject.seed)


def explained(study: Study, network: nn.Module, name: str, number: int, steps: int) -> Tensor:
    """Return the attributions of the first windows by a method, (number, T) on the CPU."""
    tokens, targets = study.tokens[:number], study.targets[:number]
    baseline = attribution.average_token(network, study.sample)
    if name == MAIN:
        return attribution.integrated_gradients(network, tokens, targets, baseline, steps).cpu()
    if name == "occlusion":
        return attribution.occlusion(network, tokens, targets, baseline).cpu()
    return attribution.gradient_times_input(network, tokens, targets, baseline).cpu()


def remove(subject: Subject, study: Study) -> None:
    """Fill in the deletion curves; that of `random` is a mean over several orders."""
    network = study.text.network
    reader = attribution.Reader(network)
    embeddings = attribution.embedded(network, study.tokens)
    baseline = attribution.average_token(network, study.sample)

    def score(kept: Tensor) -> Tensor:
        is_kept = kept[:, :, None].to(embeddings.device)
        return reader(torch.where(is_kept, embeddings, baseline), study.targets).exp()

    generator = subject.generator("orders of removal")
    shape = study.tokens.shape
    orders = {name: [values] for name, values in study.values.items()} | {
        "nearest": [torch.arange(shape[1]).float().expand(shape)],
        "random": [torch.rand(shape, generator=generator) for _ in range(RANDOM_ORDERS)],
    }
    every = torch.ones(shape, dtype=torch.bool)
    for name, several in subject.track(orders.items(), "removing tokens"):
        runs = [removal_curve(score, order, every, CURVE, generator) for order in several]
        study.curves[name] = torch.stack(runs).mean(dim=0)


def redraw(subject: Subject, study: Study) -> None:
    """Fill in the randomisation test, on the first windows of the sample."""
    number = min(REDRAWN_WINDOWS, len(study.tokens))

    def attribute(network: nn.Module) -> dict[str, Tensor]:
        signed = explained(study, network, MAIN, number, steps=16)
        times = explained(study, network, "gradient_times_input", number, steps=16)
        return {MAIN: signed, "gradient_times_input": times, "unsigned": signed.abs()}

    study.levels, study.rho = randomisation_test(
        study.text.network,
        attribute,
        torch.ones(number, study.tokens.shape[1], dtype=torch.bool),
        range(subject.seed, subject.seed + REDRAWS),
        subject.track,
    )


def look_back(subject: Subject, study: Study) -> None:
    """Fill in the losses by context, and the distances of the heads."""
    text, split = study.text, study.text.measured_split
    most = text.context_length
    if not hasattr(text.network, "context_length"):  # it can read on without an end
        most = min(FURTHER * most, len(text.tokens(split)) - 1)
    batch = text.windows(split, subject.n, subject.generator("context"), most)
    study.lengths = [2**i for i in range(math.ceil(math.log2(most)))] + [most]
    study.losses = attribution.losses_by_context(
        text.network,
        batch.inputs.to(text.device),
        batch.targets[:, -1].to(text.device),
        study.lengths,
    )
    if attention.has_attention(text.network):
        maps = attention.attention_maps(text.network, study.tokens)
        study.distances = torch.stack([attention.attention_distances(m) for m in maps], 1).cpu()


RULE = (
    "Rule of the mark. A method follows the model if its rank correlation with the attributions of "
    f"random weights lies within {MOST_RHO} of 0, and names what counts if the interval of its "
    "gain in deletion over a random order lies above 0. Holds: integrated gradients does both, is "
    "better in the same way than naming the nearest tokens first, and adds up to the "
    f"log-probability within {100 * MOST_ERROR:.0f} %. With care: at least one method does both. "
    "Fails: none does."
)


def judged(study: Study) -> tuple[Mark, str]:
    """Return the mark, how far the model looks back, and what integrated gradients is worth."""
    error = study.incompleteness()[0]
    changes, faster = study.follows(MAIN), study.is_faster(MAIN, "random")
    beyond = study.is_faster(MAIN, "nearest")
    methods = [name for name in METHODS if name in study.rho]
    good = [n for n in methods if study.follows(n) and study.is_faster(n, "random")]
    mark: Mark = "caution" if good else "fails"
    is_sound = changes and faster and error < MOST_ERROR
    if is_sound and beyond:
        mark = "holds"
    areas = {name: digits(study.area(name)) for name in study.curves}
    reach, longest = study.reach(), study.lengths[-1]
    return mark, (
        f"What lies more than {reach:,} token{'s' if reach > 1 else ''} back lowers the loss of "
        f"the next token by less than {100 * NEAR:.0f} % (measured up to {longest:,}). "
        f"Integrated gradients {'says something' if is_sound else 'says little'} about "
        f"this model: it {'changes' if changes else 'hardly changes'} when the weights are drawn "
        f"anew (rank correlation {digits(study.last_rho(MAIN))}), misses the log-probability by "
        f"{in_words(error)}, and without the tokens that it names the probability falls "
        f"{'faster' if faster else 'no faster'} than in a random order (area {areas[MAIN]} "
        f"against {areas['random']}), "
        + ("and" if beyond else "but not")
        + f" faster than without the nearest ones ({areas['nearest']})."
    )


def blocks(subject: Subject, study: Study) -> list[Block]:
    number, length = study.tokens.shape
    how = (
        f"The most probable next token after {number} windows of {length} tokens of the "
        f"{study.text.measured_split} text, drawn at random and read from an empty state, is "
        "explained by signed attributions of its log-probability to the embeddings of the tokens "
        "before it. What a token is compared with is the average token of the text: a zero vector "
        "would mislead, since a network that normalises its embeddings hardly sees how long they "
        "are. Deletion makes tokens average, those that speak most for the prediction first; the "
        "randomisation test (Adebayo et al. 2018) draws the weights anew from the head down, by "
        f"torch's default initialisation, {REDRAWS} times, and compares the attributions of "
        f"{study.rho[MAIN].shape[2]} windows. The unsigned ones are a warning: where they stay "
        "alike, their size shows how the architecture forgets, and not what was learnt."
    )
    return [
        Words(how),
        Words(RULE),
        table(study),
        examples(study),
        removal_picture(study),
        randomisation_picture(study),
        *context_blocks(study),
        *attention_blocks(study),
        Figures(measures(study), "Attributions"),
    ]


def table(study: Study) -> Table:
    rows = []
    for name, title in TITLES.items():
        readings = []
        if name in METHODS:
            readings += [
                ("better" if study.is_faster(name, control) else "not better") + f" than {control}"
                for control in ("random", "nearest")
            ]
        if name in study.rho:
            readings.append("follows the model" if study.follows(name) else "ignores the model")
        areas = digits(study.area(name)) if name in study.curves else ""
        rho = digits(study.last_rho(name)) if name in study.rho else ""
        rows.append([title, areas, rho, ", ".join(readings) or "a control"])
    head = ["method", "deletion (low is good)", "rho, random weights", "reading"]
    return Table(head, rows, "Methods side by side")


def measures(study: Study) -> list[Measure]:
    n, seed = len(study.tokens), study.seed
    error, interval = study.incompleteness()
    title, how = "completeness error, of the difference", f"ratio estimator; {STEPS} steps"
    found = [
        Measure("completeness", f"{TITLES[MAIN]}: {title}", error, "%", n, interval, seed, how)
    ]
    for name in METHODS:
        for control in ("random", "nearest"):
            value, interval = study.gain(name, control)
            said = f"{TITLES[name]}: deletion, gain over {TITLES[control]}"
            how, key = "normal, paired over windows", f"deletion_gain_{name}_over_{control}"
            found.append(Measure(key, said, value, "", n, interval, seed, how))
    for name, rho in study.rho.items():
        value, interval = mean_over_draws(rho[:, -1])
        constant = int(rho.isnan().sum())
        how = f"Student's t over {REDRAWS} draws of the weights; {constant} constant, taken as 0"
        said = f"{TITLES[name]}: rank correlation after all layers"
        found.append(Measure(f"rho_{name}", said, value, "", rho.shape[2], interval, seed, how))
    return found


def examples(study: Study) -> Picture:
    """Draw windows with right and with wrong predictions, with every method."""
    is_right = study.targets.cpu() == study.next_tokens
    chosen = [*is_right.nonzero()[:SHOWN, 0].tolist(), *(~is_right).nonzero()[:SHOWN, 0].tolist()]
    probability = study.text.logits(study.tokens[chosen])[:, -1].softmax(dim=1).max(dim=1).values
    rows: list[Row] = []
    for row, share in zip(chosen, probability.tolist(), strict=True):
        said, follows = study.text.pieces([int(study.targets[row]), int(study.next_tokens[row])])
        rows.append(
            (
                f"predicts {said!r} ({100 * share:.0f} %); the text has {follows!r}",
                [],
                torch.zeros(0),
            )
        )
        pieces = study.text.pieces(study.tokens[row, -SHOWN_TOKENS:].tolist())
        for name in METHODS:
            rows.append((f"   {TITLES[name]}", pieces, study.values[name][row, -SHOWN_TOKENS:]))
    caption = (
        f"Tokens that speak for the predicted next token (red) and against it (blue); a dot is a "
        f"space. The first {SHOWN} windows of the sample (seed {study.seed}) whose prediction is "
        f"right, then the first {SHOWN} whose prediction is wrong. Each line has its own scale, "
        "symmetrical about 0 (white)."
    )
    alt = f"{len(chosen)} passages, each coloured by {len(METHODS)} methods."
    return Picture("token_attributions", text_picture(rows), caption, alt)


def removal_picture(study: Study) -> Picture:
    caption = (
        f"Probability of the predicted token, mean over {len(study.tokens)} windows, while tokens "
        "are made average, the most important first: a method that names what counts falls early, "
        "below the dashed controls, which go in a random order or from the nearest token back."
    )
    first = min(METHODS, key=study.area)
    panels = {"% of the tokens removed": study.curves}
    picture = curves_picture(panels, CURVE, TITLES, CONTROLS)
    return Picture("token_deletion", picture, caption, f"{TITLES[first]} falls earliest.")


def randomisation_picture(study: Study) -> Picture:
    caption = (
        "Rank correlation over the tokens of a window with the attributions of the same network "
        f"after its last layers were drawn anew, of {len(layers_of(study.text.network))} with "
        f"weights; bars reach over the {REDRAWS} draws. At 1 nothing has changed; at 0 nothing is "
        f"left. The grey band is {MOST_RHO} about 0."
    )
    ends = ", ".join(f"{TITLES[name]} {digits(study.last_rho(name))}" for name in study.rho)
    picture = rho_picture(study.levels, study.rho, TITLES)
    return Picture("token_randomisation", picture, caption, f"After all layers: {ends}.")


def context_blocks(study: Study) -> list[Block]:
    """Return how the loss falls with the context."""
    n, reach = len(study.losses), study.reach()
    half = Z_95 * study.losses.std(dim=0) / n**0.5
    title = f"shortest context beyond which less than {100 * NEAR:.0f} % of the loss is gained"
    found = [fact("reach", title, reach, "tokens", "from the intervals below")]
    for length, (mean, interval) in study.above_the_longest().items():
        title = f"loss with {length:,} tokens, above that with {study.lengths[-1]:,}"
        key, how = f"context_{length}", "normal, paired over windows"
        found.append(Measure(key, title, mean, "nats", n, interval, study.seed, how))
    caption = (
        f"Loss of the token after {n:,} windows when only their last tokens are read, from an "
        "empty state; bars are 95 % intervals of each mean, wider than those of the differences, "
        "which are paired. Dashed: the shortest context beyond which more brings less than "
        f"{100 * NEAR:.0f} % of the loss."
    )
    alt = f"The loss hardly falls any more beyond a context of {reach}."
    picture = context_picture(study.lengths, study.losses.mean(dim=0), half, reach)
    words = (
        "The distance that a model uses, not the one that it can. A recurrent network that was "
        "trained on streams seldom began from an empty state, so its loss after few tokens also "
        "shows that."
    )
    blocks: list[Block] = [Words(words), Picture("effective_context", picture, caption, alt)]
    return [*blocks, Figures(found, "Effective context")]


def attention_blocks(study: Study) -> list[Block]:
    """Return where the heads look; for a network without any, that it has none."""
    if study.distances.numel() == 0:
        why = f"{type(study.text.network).__name__} has no attention"
        return [Figures([missing("attention_distance", "attention", why)], "Attention")]
    n, layers, heads = study.distances.shape
    means, half = study.distances.mean(dim=0), Z_95 * study.distances.std(dim=0) / n**0.5
    names = {(i, j): f"layer {i + 1}, head {j + 1}" for i in range(layers) for j in range(heads)}
    order = sorted(names, key=lambda head: means[head].item())
    found = []
    for key, head in (("nearest", order[0]), ("farthest", order[-1])):
        interval = ((means[head] - half[head]).item(), (means[head] + half[head]).item())
        title, how = f"head that looks {key} back: {names[head]}", "normal, over windows"
        found.append(
            Measure(
                f"attention_{key}",
                title,
                means[head].item(),
                "tokens",
                n,
                interval,
                study.seed,
                how,
            )
        )
    rows = [
        [str(i + 1), *(f"{means[i, j]:.1f} ± {half[i, j]:.1f}" for j in range(heads))]
        for i in range(layers)
    ]
    head_names = ["layer", *(f"head {j + 1}" for j in range(heads))]
    picked = torch.linspace(0, len(order) - 1, min(SHOWN_HEADS, len(order))).round().int().tolist()
    return [
        Figures(found, "Attention"),
        Table(head_names, rows, f"Tokens back, mean over {n} windows, with 95 % intervals"),
        distances_block(study, means, half),
        *head_blocks(study, {names[order[i]]: order[i] for i in picked}, means),
    ]


NOT_ATTRIBUTION = (
    "Attention is not attribution: quite different weights can give the same prediction (Jain & "
    "Wallace 2019, arXiv:1902.10186). They show where a head reads, not what decides."
)


def distances_block(study: Study, means: Tensor, half: Tensor) -> Picture:
    length = study.tokens.shape[1]
    caption = (
        "How many tokens back each head looks, weighted by its attention, over the later half of "
        f"windows of {length} tokens, with 95 % intervals over {len(study.distances)} windows. A "
        f"head that looks at all tokens alike would stand at {3 * length / 8:.0f}."
    )
    low, high = digits(means.min().item()), digits(means.max().item())
    alt = f"Heads look back between {low} and {high} tokens on average."
    return Picture("attention_distance", distances_picture(means, half), caption, alt)


def head_blocks(study: Study, heads: dict[str, tuple[int, int]], means: Tensor) -> list[Picture]:
    """Return the weights of a few heads on the first window, whole and of its last token."""
    window = study.tokens[:1]
    maps = [weights[0].cpu() for weights in attention.attention_maps(study.text.network, window)]
    whole = {name: maps[layer][head] for name, (layer, head) in heads.items()}
    pieces = study.text.pieces(window[0, -SHOWN_TOKENS:].tolist())
    rows: list[Row] = [
        (f"{name}: {means[heads[name]]:.1f} tokens back", pieces, weights[-1, -SHOWN_TOKENS:])
        for name, weights in whole.items()
    ]
    chosen = "heads from the nearest to the farthest looking, on the first window of the sample"
    return [
        Picture(
            "attention_last_token",
            text_picture(rows),
            f"What the last token looks at (red), by {chosen}. {NOT_ATTRIBUTION}",
            "One passage, coloured by the attention of several heads.",
        ),
        Picture(
            "attention_heads",
            heads_picture(whole),
            f"Attention of every position, by {chosen}: each row adds up to 1, and colours are "
            f"square roots, so that small weights are seen. {NOT_ATTRIBUTION}",
            "Lower triangles: no head looks ahead.",
        ),
    ]
