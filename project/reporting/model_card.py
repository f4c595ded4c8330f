"""The report as a model card of Hugging Face: README.md beside the weights, made offline.

What only a person can say is a TODO that shows.
"""

from typing import TYPE_CHECKING, Any

from project.reporting.findings import MARKS, Measure, Section, digits
from project.reporting.identity import config_of, data_name, data_rows, in_words
from project.reporting.identity import verdict as identity_in_words
from project.reporting.limits import NEVER_ASKED, NEVER_ASKED_OF, table_of
from project.reporting.subject import Subject

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TASKS = {"images": "image-classification", "text": "text-generation"}  # as the Hub names them
UNITS = {"accuracy": "share", "loss": "nats", "perplexity": "", "bits_per_byte": "bits/byte"}
MOST_MEASURES = 12  # of a section that are listed; all are in results.json
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

## Uses

What it was made and measured for: {{ use }} on data like its test data.

**TODO**: what it is meant for, by whom, and what it must not be used for.

## What was found

{{ verdicts }}

## Evaluation

Of the run's own evaluation, on its {{ splits }} data, with 95 % intervals:

{{ metrics }}

{{ measures }}

## Limits, bias and risks

{{ limits }}

**TODO**: who could be harmed by a wrong answer, and what is done about it.

## Training data

{{ data }}

## Training

{{ training }}

## Energy

{{ energy }}

## Citation

**TODO**: how to cite it.
"""


def model_card(subject: Subject, sections: list[Section]) -> str:
    """Return the card: metadata for the Hub, then Markdown.

    Args:
        sections: All of the report.
    """
    from huggingface_hub import ModelCard, ModelCardData  # 0.5 s: not needed to train

    task = TASKS.get(subject.kind)
    name = f"{type(subject.network).__name__}-{data_name(subject)}"
    results = [*run_results(subject), *section_results(subject, sections)] if task else []
    metadata = ModelCardData(
        library_name="pytorch",
        pipeline_tag=task,
        tags=["pytorch", "lightning", type(subject.network).__name__.lower()],
        datasets=[data_name(subject).lower()],
        metrics=sorted({r.metric_type for r in results if r.metric_type in UNITS}) or None,
        model_name=name,
        eval_results=results or None,
        co2_eq_emissions=emissions(subject),
    )
    card = ModelCard.from_template(
        metadata,
        template_str=TEMPLATE,
        title=f"{type(subject.network).__name__} on {data_name(subject)}",
        summary=identity_in_words(subject),
        usage=usage(subject),
        use={"images": "naming the class of an image", "text": "continuing a text"}.get(
            subject.kind, "what its data are for"
        ),
        verdicts=table_of(
            ["Section", "", "Found"], [[s.title, MARKS[s.mark], s.verdict] for s in sections]
        ),
        splits=" and ".join(in_words(split) for split in subject.record.get("metrics", {}))
        or "own",
        metrics=metrics_table(subject),
        measures="\n\n".join(measures_of(s) for s in sections if s.measures()),
        limits=limits(subject, sections),
        data=table_of(["What", "Value"], data_rows(subject)),
        training=training(subject),
        energy=energy_in_words(subject),
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


def run_metrics(subject: Subject) -> list[tuple[str, str, dict[str, Any]]]:
    """Return (split, name, figure) of what the run measured and has a value."""
    return [
        (split, name, figure)
        for split, measured in subject.record.get("metrics", {}).items()
        for name, figure in measured.items()
        if name in UNITS and isinstance(figure, dict) and figure.get("value") is not None
    ]


def run_results(subject: Subject) -> list["EvalResult"]:
    """Return the accuracy or the bits per byte of each split, as the run measured them."""
    return [
        result(subject, split, name, in_words(name), figure["value"], clean(figure), "clean")
        for split, name, figure in run_metrics(subject)
        if name in ("accuracy", "bits_per_byte")
    ]


def clean(figure: dict[str, Any]) -> str:
    """Return the interval of a figure of `run.json` in words."""
    interval = figure.get("interval_95")
    told = f"95 % interval {interval[0]:.4g} to {interval[1]:.4g}" if interval else "no interval"
    return told + (f", n = {figure['count']:,}" if "count" in figure else "")


def section_results(subject: Subject, sections: list[Section]) -> list["EvalResult"]:
    """Return the estimates of robustness that are shares, each as a data set of its own.

    The Hub merges results whose data set, configuration and split are the same: an accuracy under
    attack would then be shown as the clean one.
    """
    return [
        result(subject, "test", m.key, m.title, m.value, interval_of(m), f"{s.name} {m.key}")
        for s in sections
        if s.name == "robustness"
        for m in s.measures()
        if m.value is not None and m.n and m.unit == "%"
    ]


def interval_of(measure: Measure) -> str:
    if measure.interval_95 is None:
        return f"no interval, n = {measure.n:,}"
    low, high = measure.interval_95
    return f"95 % interval {low:.4g} to {high:.4g}, n = {measure.n:,}"


def result(
    subject: Subject,
    split: str,
    key: str,
    title: str,
    value: float | int | None,
    interval: str,
    configuration: str,
) -> "EvalResult":
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type=TASKS[subject.kind],
        dataset_type=data_name(subject).lower(),
        dataset_name=data_name(subject),
        dataset_config=configuration,
        dataset_split=split,
        metric_type=key,
        metric_name=f"{title} ({interval})",
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


def energy_in_words(subject: Subject) -> str:
    kwh, found = subject.record.get("energy_kwh"), emissions(subject)
    if kwh is None:
        return "The run did not record the energy of its training."
    told = f"Training took {digits(float(kwh))} kWh"
    if found is None:
        return f"{told}."
    parts = {
        part: used.get("basis")
        for part, used in subject.record["energy"].items()
        if isinstance(used, dict) and used.get("basis")
    }
    how = f" ({', '.join(f'{part} {basis}' for part, basis in parts.items())})" if parts else ""
    return f"{told}{how}, which made {digits(found['emissions'])} g of CO2e. See energy.json."


def metrics_table(subject: Subject) -> str:
    rows = [
        [in_words(f"{split}/{name}"), f"{figure['value']:.4f} {UNITS[name]}".strip(), clean(figure)]
        for split, name, figure in run_metrics(subject)
    ]
    if not rows:
        return "Not known: the checkpoint lies outside of a run, or the run measured nothing."
    return table_of(["Figure", "Value", "Interval"], rows)


def measures_of(section: Section) -> str:
    """Return the first figures of a section; what was not run is among them with its reason."""
    shown = section.measures()[:MOST_MEASURES]
    rows = []
    for m in shown:
        how = "" if m.interval_95 else m.how
        rows.append([m.title, m.number(), m.interval(), f"{m.n:,}" if m.n else "", how])
    table = table_of(["Figure", "Value", "95 % interval", "n", "How"], rows)
    more = len(section.measures()) - len(shown)
    rest = f"\n\n{more} more figures of this section are in results.json." if more else ""
    return f"### {section.title}\n\n{table}{rest}"


def limits(subject: Subject, sections: list[Section]) -> str:
    weak = [s for s in sections if s.mark in ("fails", "caution", "not run")]
    lines = [f"- {s.title}, {MARKS[s.mark].lower()}: {s.verdict}" for s in weak]
    for what, why in (*NEVER_ASKED, *NEVER_ASKED_OF.get(subject.kind, ())):
        lines.append(f"- {what}, not looked at: {why}")
    return "\n".join(lines)


def training(subject: Subject) -> str:
    """Return the command, and where the configuration is."""
    record = subject.record
    command = record.get("command") or "not known: the checkpoint lies outside of a run directory"
    commit = (record.get("git") or {}).get("commit") or "not known"
    return (
        f"```\n{command}\n```\n\nCommit {commit}; the configuration, versions and hardware are in "
        "report.md, under Identity. This card: `python -m project.report RUN`."
    )
