"""What the model costs: the energy of its training, as recorded, and of predictions, measured here.

Nothing is to be passed: the section's mark is `told`, or `not run` where neither is known.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from project.costs.energy import PARTS, Meter, gpus_of, kwh_of
from project.costs.flops import prediction_flops
from project.costs.grid import grid_of
from project.intervals import seed_interval
from project.reporting.findings import (
    Block,
    Figures,
    Mark,
    Measure,
    Section,
    Table,
    Words,
    digits,
    fact,
    missing,
)
from project.reporting.images.opened import BATCH
from project.reporting.recorded import config_of
from project.reporting.subject import Subject

REPETITIONS = 5
SECONDS = 1.5  # of a repetition
WINDOWS = 32  # of text that are read at once
JOULES_PER_KWH = 3.6e6
NAMES = {"cpu": "processors", "gpu": "GPUs", "ram": "memory"}
NOT_RECORDED = (
    "run.json has no energy: the run is of an older version, was trained with --energy.measure "
    "false, or codecarbon failed; train it again, or resume and lengthen it"
)
SCOPE = (
    "Counted are all processors and the memory of the machine, with whatever else ran on it, and "
    "the GPUs that were used; not screens, disks, network or cooling (PUE 1). 'Measured' is a "
    "counter of the hardware; 'modelled' is an estimate that may be wrong by a factor of two and "
    "more, which --energy.cpu_watts and --energy.ram_watts can replace. Nothing here is passed or "
    "failed: the mark is 'to know', or 'not run' where neither is known."
)


def section(subject: Subject) -> Section:
    """Return what training took and what 1,000 predictions take."""
    trained = subject.record.get("energy")
    unit = "tokens" if subject.kind == "text" else "images"
    settings = settings_of(subject)
    grid = trained["grid"] if trained else grid_of(settings["country"], settings["grams_per_kwh"])
    repeated, problem = predictions(subject, settings)
    measured = of_predictions(repeated, problem, unit, grid)
    verdict = [told_of_training(trained) if trained else "The energy of training is not recorded."]
    joules, why = measured[0].value, measured[0].how
    if joules is None:
        verdict.append(f"That of predictions was not measured: {why}.")
    else:
        known = known_by(repeated[-1])
        verdict.append(f"1,000 {unit} take {digits(joules)} J on this machine ({known}).")
    blocks: list[Block] = [
        Figures([*of_training(subject, trained), *measured, *operations(subject, unit)]),
        Table(
            ["part", "training", f"1,000 {unit}", "known"],
            rows(trained, repeated),
            "Where it goes",
        ),
        Words(told_of_grid(grid)),
        Words(SCOPE),
    ]
    mark: Mark = "told" if trained or repeated else "not run"
    return Section("energy", mark, " ".join(verdict), blocks)


def energy_record(subject: Subject, section: Section) -> dict[str, Any]:
    """Return the content of `energy.json`; units are in the names, null is what was not run."""
    trained = subject.record.get("energy", {})
    found: dict[str, Any] = {
        "training_kwh": subject.record.get("energy_kwh"),
        "training_gco2e": trained.get("gco2e"),
        "training_measured_seconds": trained.get("seconds"),
    }
    for part in PARTS:
        known = trained.get(part, {})
        found[f"training_{part}_kwh"] = known.get("kwh")
        found[f"training_{part}_basis"] = known.get("basis")  # measured or modelled
        found[f"training_{part}_by"] = known.get("by")
    if not trained:
        found["training_not_run"] = NOT_RECORDED
    found |= {name: trained.get(name) for name in ("grid", "pue", "hardware", "codecarbon")}
    for key in ("joules_per_1000", "gco2e_per_1000", "flops_per_prediction", "flops_total"):
        measure = section.measure(key)
        found[key] = None if measure is None else measure.value
        if measure is not None and measure.interval_95:
            found[f"{key}_interval_95"], found[f"{key}_n"] = measure.interval_95, measure.n
    return found


def settings_of(subject: Subject) -> dict[str, Any]:
    """Return what the run was told of its machine, of `Energy`; null for all of an older run."""
    names = ("country", "grams_per_kwh", "cpu_watts", "ram_watts")
    return dict.fromkeys(names) | (config_of(subject).get("energy") or {})


def told_of_training(trained: dict[str, Any]) -> str:
    return (
        f"Training took {digits(1000 * kwh_of(trained))} Wh ({known_by(trained)}), which is "
        f"{digits(trained['gco2e'])} g CO2e {supply(trained['grid'])}."
    )


def known_by(used: dict[str, Any]) -> str:
    """Return what share of an energy a counter of the hardware has measured."""
    measured = sum(used[p]["kwh"] for p in PARTS if used.get(p, {}).get("basis") == "measured")
    if not measured:
        return "all modelled, not measured"
    return f"{100 * measured / kwh_of(used):.0f} % measured by counters, the rest modelled"


def supply(grid: dict[str, Any]) -> str:
    place = f"in {grid['country']}" if grid["country"] else "at the world's average"
    return f"{place} of {digits(float(grid['grams_per_kwh']))} g a kWh"


def told_of_grid(grid: dict[str, Any]) -> str:
    year = f", of {grid['year']}" if grid["year"] else ""
    remedy = "" if grid["country"] else " --energy.country FRA takes that of a country."
    return f"CO2e {supply(grid)}{year} ({grid['source']}).{remedy}"


def of_training(subject: Subject, trained: dict[str, Any] | None) -> list[Measure]:
    if trained is None:
        return [missing("training_wh", "Energy of training", NOT_RECORDED)]
    kwh = kwh_of(trained)
    counted = "added up from the parts below"
    return [
        fact("training_wh", "Energy of training", 1000 * kwh, "Wh", counted),
        fact("training_gco2e", "CO2e of training", trained["gco2e"], "g", "energy times factor"),
        fact("training_seconds", "Time that was measured", trained["seconds"], "s"),
        fact("training_watts", "Mean power", JOULES_PER_KWH * kwh / trained["seconds"], "W"),
        fact("grid", "CO2e of a kWh", trained["grid"]["grams_per_kwh"], "g"),
    ]


def of_predictions(
    repeated: list[dict[str, Any]], problem: str, unit: str, grid: dict[str, Any]
) -> list[Measure]:
    title = f"Energy of 1,000 {unit}"
    if problem:
        return [missing("joules_per_1000", title, problem)]
    joules = [JOULES_PER_KWH * kwh_of(used) * 1000 / used["count"] for used in repeated]
    value, ends = statistics.fmean(joules), seed_interval(joules)
    assert ends is not None  # of several repetitions
    grams = grid["grams_per_kwh"] / JOULES_PER_KWH
    counted = sum(used["count"] for used in repeated)
    rate = counted / sum(used["seconds"] for used in repeated)
    how = f"t over {len(repeated)} repetitions of {SECONDS} s"
    return [
        Measure("joules_per_1000", title, value, "J", counted, ends, how=how),
        Measure("gco2e_per_1000", f"CO2e of 1,000 {unit}", grams * value, "g", counted,
                (grams * ends[0], grams * ends[1]), how=how),
        fact(f"{unit}_per_second", "Speed of it", rate, f"{unit}/s"),
    ]  # fmt: skip


def operations(subject: Subject, unit: str) -> list[Measure]:
    """Return the operations of a prediction, of a training pass, and of all steps of the run."""
    singular = unit.removesuffix("s")
    once, all_steps = f"Operations of a prediction, for each {singular}", "Operations of training"
    how = "counted by torch: matrix products, convolutions, attention; two a multiply-add"
    if subject.closed:
        return [missing("flops_per_prediction", once, subject.closed)]
    inputs = inputs_of(subject)
    flops = prediction_flops(subject.network, inputs)
    if flops is None:
        return [missing("flops_per_prediction", once, "the network needs its numbers to run")]
    per_unit = flops // (inputs.shape[1] if unit == "tokens" else 1)
    found = [fact("flops_per_prediction", once, per_unit, "FLOP", how)]
    if (trained := subject.record.get(f"flops_per_{singular}")) is not None:
        title = f"Operations to train on each {singular}, once"
        found.append(fact("flops_per_training", title, trained, "FLOP", how))
    total, why = training_flops(subject, trained)
    if total is None:
        return [*found, missing("flops_total", all_steps, why)]
    after = "of all steps, those after the chosen checkpoint included"
    return [*found, fact("flops_total", all_steps, total, "FLOP", after)]


def training_flops(subject: Subject, flops_per_unit: int | None) -> tuple[float | None, str]:
    """Return the operations of all steps of the run, or why they are not known."""
    record, config = subject.record, config_of(subject)
    data = (config.get("data") or {}).get("init_args") or {}
    if not flops_per_unit or "steps" not in record or "batch_size" not in data:
        return None, "the run did not record its steps and their operations"
    if getattr(subject.task, "attack", None) is not None:
        return None, "the steps of the attack that it was trained with are not counted"
    rows = data["batch_size"] * record.get("hardware", {}).get("processes", 1)
    rows *= (config.get("trainer") or {}).get("accumulate_grad_batches") or 1
    return float(record["steps"] * rows * data.get("context_length", 1) * flops_per_unit), ""


def rows(trained: dict[str, Any] | None, repeated: list[dict[str, Any]]) -> list[list[str]]:
    """Return energy by part, Wh of training and J of 1,000 predictions, and how they are known."""
    found = []
    latest = repeated[-1] if repeated else {}
    for part in (p for p in PARTS if p in (trained or {}) or p in latest):
        of_training = trained[part] if trained and part in trained else None
        cells = ["not run" if of_training is None else f"{digits(1000 * of_training['kwh'])} Wh"]
        if part in latest:
            each = [JOULES_PER_KWH * u[part]["kwh"] * 1000 / u["count"] for u in repeated]
            cells.append(f"{digits(statistics.fmean(each))} J")
        else:
            cells.append("not run")
        known = of_training or latest[part]
        found.append([NAMES[part], *cells, f"{known['basis']}: {known['by']}"])
    return found


def predictions(subject: Subject, settings: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Return what repetitions of predictions used, each with its `count`, or why none was run."""
    if subject.closed:
        return [], subject.closed
    gpus = gpus_of(subject.device, [subject.device.index or 0])
    meter = Meter(gpus, settings["cpu_watts"], settings["ram_watts"])
    inputs = inputs_of(subject).to(subject.device)

    @torch.no_grad()
    def predict() -> int:
        subject.network(inputs).sum().item()  # waits for a GPU
        return inputs.numel() if subject.kind == "text" else len(inputs)

    predict()  # kernels are chosen in the first
    found = list(
        subject.track(
            repetitions(predict, meter, REPETITIONS, SECONDS), "measuring energy", total=REPETITIONS
        )
    )
    problem = meter.stop()
    return ([], problem) if problem else (found, "")


def repetitions(
    work: Callable[[], int], meter: Meter, number: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """Yield what each of some repetitions of `work` used, with the `count` that it returned.

    Args:
        work: Returns how many examples it has done.
        meter: Not started yet; is left running, so that `stop` says what went wrong.
    """
    meter.start(wait=True)
    for _ in range(number):
        before, count, until = meter.read(), 0, time.perf_counter() + seconds
        while time.perf_counter() < until:
            count += work()
        after = meter.read()
        if meter.problem:
            return
        parts = {
            p: after[p] | {"kwh": after[p]["kwh"] - before[p]["kwh"]} for p in PARTS if p in after
        }
        yield parts | {"seconds": after["seconds"] - before["seconds"], "count": count}


def inputs_of(subject: Subject) -> torch.Tensor:
    """Return what the network reads: images normalised (B, C, H, W), or tokens int64 (B, T)."""
    if subject.images is not None:
        images, split = subject.images, subject.images.measured_split
        first = torch.arange(min(BATCH, images.count(split)))
        return (images.pixels(split, first) - images.classifier.mean) / images.classifier.std
    assert subject.text is not None
    text = subject.text
    return text.windows(text.measured_split, WINDOWS, subject.generator("energy")).inputs
