"""The report as a model card of Hugging Face: README.md beside the weights, made offline.

What only a person can say is a TODO that shows.
"""

from typing import TYPE_CHECKING, Any

from project.reporting.dataset_card import TASKS
from project.reporting.findings import Measure, Section
from project.reporting.identity import data_rows
from project.reporting.identity import verdict as model_in_words
from project.reporting.markdown import first_screen, table
from project.reporting.recorded import config_of, data_name, is_best, is_own_data
from project.reporting.subject import Subject
from project.training.closing_table import UNITS, figure, metric_rows

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

USES = {"images": "naming the class of an image", "text": "continuing a text"}
MAIN = ("accuracy", "bits_per_byte")  # of what a run measures, for the Hub
TEMPLATE = """\
---
{{ card_data }}
---

# {{ title }}

{{ summary }}

**TODO**: the license, who made it and how to reach them. Nothing is licensed before that is said.

## How to use it

```
{{ usage }}
```

RUN is the run directory, or the checkpoint. The weights alone, as safetensors or ONNX: \
`python -m project.export RUN`.

What it was made and measured for: {{ use }} on data like its test data.

**TODO**: what it is meant for, by whom, and what it must not be used for.

## What was found

{{ verdicts }}

All figures, with pictures: report.md beside this card.

## Evaluation

{{ metrics }}

## Limits, bias and risks

What fails, asks for care, was not run or not looked at stands above.

**TODO**: who could be harmed by a wrong answer, and what is done about it.

## Training data

{{ data }}

More of them: DATASET_CARD.md and croissant.json.

## Training

```
{{ command }}
```

Commit {{ commit }}; the configuration, versions and hardware are in report.md, under Identity. \
This card: `python -m project.report RUN`.

## Citation

**TODO**: how to cite it.
"""


def model_card(subject: Subject, sections: list[Section]) -> str:
    """Return the card: metadata for the Hub, then Markdown.

    Args:
        sections: All of the report.
    """
    from huggingface_hub import ModelCard, ModelCardData  # 0.5 s: not needed to train

    record, network, name = subject.record, type(subject.network).__name__, data_name(subject)
    results = [*run_results(subject), *robust_results(subject, sections)]
    metadata = ModelCardData(
        library_name="pytorch",
        pipeline_tag=TASKS.get(subject.kind),
        tags=["pytorch", "lightning", network.lower()],
        datasets=[name.lower()],
        metrics=sorted({r.metric_type for r in results if r.metric_type in MAIN}) or None,
        model_name=f"{network}-{name}",
        eval_results=results or None,
        co2_eq_emissions=emissions(subject),
    )
    card = ModelCard.from_template(
        metadata,
        template_str=TEMPLATE,
        title=f"{network} on {name}",
        summary=model_in_words(subject),
        usage=usage(subject),
        use=USES.get(subject.kind, "what its data are for"),
        verdicts=first_screen(sections),
        metrics=metrics_table(subject),
        data=table(["What", "Value"], data_rows(subject)),
        command=record.get("command")
        or "not known: the checkpoint lies outside of a run directory",
        commit=(record.get("git") or {}).get("commit") or "not known",
    )
    return str(card)


def usage(subject: Subject) -> str:
    if subject.kind == "images":
        return "python -m project.predict RUN image.png"
    if subject.kind == "text":
        return (
            'python -m project.generate RUN --prompt "The "\npython -m project.predict RUN text.txt'
        )
    return "python -m project.evaluate RUN"


def metrics_of(subject: Subject) -> dict[str, dict[str, Any]]:
    """Return what the run measured of each split, if it was with this checkpoint."""
    return subject.record.get("metrics", {}) if is_best(subject) else {}


def metrics_table(subject: Subject) -> str:
    rows = [
        [name, " ".join(told.split())]
        for split, measured in metrics_of(subject).items()
        for name, told in metric_rows(split, measured)
    ]
    if not rows:
        return "Not known: run.json tells nothing of this checkpoint."
    return "By the run itself:\n\n" + table(["Figure", "Value"], rows)


def run_results(subject: Subject) -> list["EvalResult"]:
    """Return the accuracy or the bits per byte of each split, as the run measured them."""
    return [
        result(subject, split, name, figure_of(name, value), value["value"], "clean")
        for split, measured in metrics_of(subject).items()
        for name, value in measured.items()
        if name in MAIN and subject.kind in TASKS
    ]


def figure_of(name: str, value: dict[str, Any]) -> str:
    return f"{name}: {' '.join(figure(name, value, UNITS.get(name, '')).split())}"


def robust_results(subject: Subject, sections: list[Section]) -> list["EvalResult"]:
    """Return the shares that the verdict on robustness names, each as a data set of its own.

    The Hub merges results whose data set, configuration and split are the same: an accuracy under
    attack would then be shown as the clean one. Of other data than those of the training, none.
    """
    opened = subject.images or subject.text
    if opened is None or not is_own_data(subject):
        return []
    split = opened.measured_split
    return [
        result(subject, split, m.key, f"{m.title}: {m.shown()}", m.value, f"robustness {m.key}")
        for s in sections
        if s.name == "robustness"
        for m in s.measures()
        if is_named(m, s.verdict)
    ]


def is_named(measure: Measure, verdict: str) -> bool:
    is_share = measure.unit == "%" and measure.interval_95 is not None
    return is_share and measure.shown() in verdict


def result(
    subject: Subject, split: str, key: str, title: str, value: Any, configuration: str
) -> "EvalResult":
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type=TASKS[subject.kind],
        dataset_type=data_name(subject).lower(),
        dataset_name=data_name(subject),
        dataset_config=configuration,
        dataset_split=split,
        metric_type=key,
        metric_name=title,
        metric_value=value,
    )


def emissions(subject: Subject) -> dict[str, Any] | None:
    """Return what the Hub takes of the training's energy: grams of CO2e, not kilograms."""
    energy = subject.record.get("energy") or {}
    grams = energy.get("gco2e")
    if not isinstance(grams, int | float):
        return None
    hardware = subject.record.get("hardware", {})
    grid = energy.get("grid") or {}
    is_new = config_of(subject).get("init_from") is None
    found = {
        "emissions": float(grams),
        "source": "codecarbon, offline",
        "training_type": "pre-training" if is_new else "fine-tuning",
        "geographical_location": grid.get("country"),
        "hardware_used": hardware.get("gpu") or hardware.get("cpu"),
    }
    return {key: value for key, value in found.items() if value is not None}
