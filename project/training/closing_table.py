"""The table that a run, or an evaluation, ends in."""

from pathlib import Path
from typing import Any

UNITS = {"loss": "nats", "loss_random_windows": "nats", "bits_per_byte": "bits"}
NAMES = {  # in the table
    "loss_random_windows": "loss (nanoGPT)",
    "bits_per_byte": "bits/byte",
    "robust_accuracy": "attacked",
}


def closing_table(record: dict[str, Any], run_directory: Path, measure_test: bool = True) -> str:
    """Return what a run came to, in lines of at most 80 columns unless a path is longer."""
    rows = []
    for split, measured in record["metrics"].items():
        rows += metric_rows(split, measured)
    if not measure_test:
        rows.append(("test", "left alone: this run is one to choose among"))
    elif "test" not in record["metrics"]:
        rows.append(("test", "none: the data have no test split"))
    training = record.get("training_seconds", 0)
    speeds = [key for key in record if key.endswith("_per_second")]
    speed = record.get("speed", {})
    rows += [
        ("parameters", parameters_of(record)),
        ("time", f"{record['wall_seconds']:9.1f} s, of which training {training:.1f} s"),
        *(
            ("throughput", f"{record[key]:>9,.0f} {key.removesuffix('_per_second')}/s in training")
            for key in speeds
        ),
        *([("a batch", batch_time(speed))] if "step_ms" in speed else []),
        *([("energy", energy_used(record["energy"]))] if "energy" in record else []),
        ("best checkpoint", str(run_directory / record["best_checkpoint"])),
        ("run directory", str(run_directory)),
    ]
    length = f"{record['epochs']} epochs ({record['steps']:,} steps)"
    title = f"{record['experiment']}: best of {length} by {record['chosen_by']}"
    return table_of(title, rows)


def batch_time(speed: dict[str, float]) -> str:
    """Return where the time of a training batch went, and what share of its peak a device gave."""
    parts = ("data", "step", "rest")
    shares = ", ".join(f"{part} {speed[f'{part}_ms'] / speed['batch_ms']:.0%}" for part in parts)
    mfu = f", MFU {speed['mfu']:.1%}" if "mfu" in speed else ""
    return f"{speed['batch_ms']:9.1f} ms: {shares}{mfu}".replace("%", " %")


def energy_used(energy: dict[str, Any]) -> str:
    """Return what training took, what share of that counters have measured, and its CO2e."""
    parts = [energy[part] for part in ("cpu", "gpu", "ram") if part in energy]
    kwh = sum(part["kwh"] for part in parts)
    measured = sum(part["kwh"] for part in parts if part["basis"] == "measured")
    share = f"{100 * measured / kwh:.0f} % measured" if measured else "modelled"
    return f"{1000 * kwh:9.3g} Wh, {share}; {energy['gco2e']:.3g} g CO2e"


def metric_rows(split: str, measured: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (name, figure) of what was measured on a split."""
    title = "validation" if split == "val" else split
    # Of another task the loss may be anything.
    units = UNITS if measured.keys() & {"accuracy", "perplexity"} else {}
    return [
        (f"{title} {NAMES.get(name, name)}", figure(name, value, units.get(name, "")))
        for name, value in measured.items()
        if isinstance(value, dict | float)
    ]


def table_of(title: str, rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    return "\n".join([title, "-" * len(title), *lines])


def parameters_of(record: dict[str, Any]) -> str:
    trained = record.get("trainable_parameters", record["parameters"])
    frozen = f" of which {trained:,} were trained" if trained < record["parameters"] else ""
    return f"{record['parameters']:>9,}{frozen}"


def figure(name: str, value: dict[str, Any] | float, unit: str) -> str:
    """Return a number with its unit and, where there is one, its interval."""
    number = value["value"] if isinstance(value, dict) else value
    is_share = name.endswith("accuracy")
    text = f"{100 * number:7.2f} %" if is_share else f"{number:9.4f} {unit}".rstrip()
    if isinstance(value, dict) and value.get("interval_95"):
        scale, digits, percent = (100, 2, " %") if is_share else (1, 4, "")
        low, high = (f"{scale * end:.{digits}f}" for end in value["interval_95"])
        text += f"   95 % interval {low} to {high}{percent}"
        if is_share and "count" in value:  # of losses, n is in `run.json`
            text += f"   n = {value['count']:,}"
    return text
