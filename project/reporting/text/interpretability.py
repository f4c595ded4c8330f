"""Interpretability of a language model: which tokens a prediction rests on, and how far back.

Shape letters: B windows, T tokens of a window.
"""

import torch

from project.reporting.faithfulness import MOST_ERROR, MOST_RHO, REDRAWS, in_words, layers_of
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
    digits,
    missing,
    not_run,
)
from project.reporting.subject import Subject
from project.reporting.text.explained import (
    CURVE,
    MAIN,
    METHODS,
    REDRAWN_WINDOWS,
    STEPS,
    Study,
    explained,
)
from project.reporting.text.pictures import Row, text_picture
from project.reporting.text.reach import Reach, attention_blocks, measured_reach, reach_blocks

NAME = "interpretability"
SHOWN = 2  # right predictions, and as many wrong ones
SHOWN_TOKENS = 48  # of each
TITLES = {
    MAIN: "integrated gradients",
    "gradient_times_input": "gradient x input",
    "occlusion": "occlusion",
    "unsigned": "integrated gradients, unsigned",
    "nearest": "nearest first",
    "random": "random order",
}
CONTROLS = {"nearest", "random"}
RULE = (
    "Rule of the mark. A method follows the model if its rank correlation with the attributions of "
    f"random weights lies within {MOST_RHO} of 0, and names what counts if the interval of its "
    "gain in deletion over a random order lies above 0. Holds: integrated gradients does both, is "
    "better in the same way than naming the nearest tokens first, and adds up to the "
    f"log-probability within {100 * MOST_ERROR:.0f} %. With care: at least one method does both. "
    "Fails: none does."
)


def section(subject: Subject) -> Section:
    assert subject.text is not None
    study = explained(subject, subject.text)
    if len(study.tokens) < 2:
        return not_run(NAME, "the text to measure on does not fill two windows")
    reach = measured_reach(subject, subject.text)
    mark, says = judged(study)
    return Section(NAME, mark, f"{says} {reach.in_words()}", blocks(study, reach))


def judged(study: Study) -> tuple[Mark, str]:
    """Return the mark and what integrated gradients is worth."""
    found, incomplete = study.found, study.incompleteness()
    good = [n for n in METHODS if n in found.rho and found.follows(n) and found.is_faster(n)]
    faults = []
    if not found.follows(MAIN):
        faults.append("they hardly change when the weights are made random")
    if not found.is_faster(MAIN):
        faults.append("the tokens that they name are not shown to matter more than any others")
    elif not found.is_faster(MAIN, "nearest"):
        faults.append("the tokens that they name are not shown to matter more than the nearest")
    if incomplete and incomplete[0] >= MOST_ERROR:
        faults.append(f"they miss the log-probability by {in_words(incomplete[0])}")
    if not faults:
        return "holds", (
            "Explanations by integrated gradients can be used: the tokens that they name matter "
            "more to a prediction than the nearest ones, and with random weights they change."
        )
    says = f"Explanations by integrated gradients say little of it: {' and '.join(faults)}."
    if not good:
        return "fails", says
    others = "" if MAIN in good else f" Better: {TITLES[good[0]]}."
    return "caution", says.replace("say little of it", "need care") + others


def blocks(study: Study, reach: Reach) -> list[Block]:
    number, length = study.tokens.shape
    num_layers = len(layers_of(study.text.network))
    how = (
        f"The most probable next token after {number} windows of {length} tokens of the "
        f"{study.text.measured_split} text, drawn at random and read from an empty state, is "
        "explained by signed attributions of its log-probability to the embeddings of the tokens "
        "before it. What a token is compared with is the average token of the text: a zero vector "
        "would mislead, since a network that normalises its embeddings hardly sees how long they "
        "are. Deletion makes tokens average, those that speak most for the prediction first; the "
        "randomisation test (Adebayo et al. 2018) draws the weights anew from the head down, by "
        f"torch's default initialisation, {REDRAWS} times, and compares the attributions of "
        f"{min(REDRAWN_WINDOWS, number)} windows. The unsigned ones are a warning: where they stay "
        "alike, their size shows how the architecture forgets, and not what was learnt."
    )
    return [
        Words(how),
        Words(RULE),
        table(study),
        examples(study),
        removal_picture(study),
        randomisation_picture("token_randomisation", study.found, TITLES, num_layers),
        *reach_blocks(reach),
        *attention_blocks(study.text, study.tokens, study.seed),
        Figures(measures(study), "Attributions"),
    ]


def table(study: Study) -> Table:
    rows, found = [], study.found
    for name, title in TITLES.items():
        readings = []
        if name in METHODS:
            readings += [
                ("better" if found.is_faster(name, control) else "not better") + f" than {control}"
                for control in ("random", "nearest")
            ]
        if name in found.rho:
            readings.append("follows the model" if found.follows(name) else "ignores the model")
        areas = digits(found.area(name)) if name in found.curves["deletion"] else ""
        rho = digits(found.last_rho(name)) if name in found.rho else ""
        rows.append([title, areas, rho, ", ".join(readings) or "a control"])
    head = ["method", "deletion (low is good)", "rho, random weights", "reading"]
    return Table(head, rows, "Methods side by side")


def measures(study: Study) -> list[Measure]:
    n, seed = len(study.tokens), study.seed
    title = f"{TITLES[MAIN]}: completeness error, of the difference"
    found = [missing("completeness", title, "the network says the same whatever it reads")]
    if incomplete := study.incompleteness():
        error, interval = incomplete
        how = f"ratio estimator; {STEPS} steps"
        found = [Measure("completeness", title, error, "%", n, interval, seed, how)]
    for name in METHODS:
        for control in ("random", "nearest"):
            value, interval = study.found.gain(name, control)
            said = f"{TITLES[name]}: deletion, gain over {TITLES[control]}"
            how, key = "normal, paired over windows", f"deletion_gain_{name}_over_{control}"
            found.append(Measure(key, said, value, "", n, interval, seed, how))
    return [*found, *study.found.rho_measures(TITLES, seed)]


def examples(study: Study) -> Picture:
    """Draw windows with right and with wrong predictions, with every method."""
    is_right = study.targets.cpu() == study.next_tokens
    chosen = [*is_right.nonzero()[:SHOWN, 0].tolist(), *(~is_right).nonzero()[:SHOWN, 0].tolist()]
    said_here = study.targets[chosen].cpu()[:, None]
    probability = study.text.logits(study.tokens[chosen])[:, -1].softmax(dim=1).gather(1, said_here)
    rows: list[Row] = []
    for row, share in zip(chosen, probability[:, 0].tolist(), strict=True):
        said, follows = study.text.pieces([int(study.targets[row]), int(study.next_tokens[row])])
        heading = f"predicts {said!r} ({100 * share:.0f} %); the text has {follows!r}"
        rows.append((heading, [], torch.zeros(0)))
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
    first = min(METHODS, key=study.found.area)
    panels = {"% of the tokens removed": study.found.curves["deletion"]}
    picture = curves_picture(panels, CURVE, TITLES, CONTROLS)
    return Picture("token_deletion", picture, caption, f"{TITLES[first]} falls earliest.")
