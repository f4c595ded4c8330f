"""What a model is: network, data, checkpoint, training, versions, and the whole configuration."""

import importlib.metadata
import platform
import re

from project.checkpoints.former_names import with_current_paths
from project.provenance import code_hash, home_folder
from project.reporting.findings import (
    Block,
    Figures,
    Measure,
    Passage,
    Section,
    Table,
    Words,
    fact,
    missing,
)
from project.reporting.recorded import (
    config_of,
    config_text,
    data_name,
    epochs_done,
    is_best,
    trained_on,
)
from project.reporting.subject import Subject

UNKNOWN = "not known: the checkpoint lies outside of a run directory"
ANY_HOME = re.compile(r"(?<![\w.-])/(?:home|Users)/[^/\s'\"]+")  # of whoever trained it elsewhere
RULE = "Nothing is judged here: what the model is, as the checkpoint and its run record it."


def section(subject: Subject) -> Section:
    return Section(
        "identity",
        "told",
        verdict(subject),
        [
            Words(RULE),
            *([Words(now)] if (now := changed_since(subject)) else []),
            Figures(figures(subject), "Size and time"),
            Table(["What", "Value"], model_rows(subject), "The model"),
            Table(["What", "Value"], data_rows(subject), "Its data"),
            Table(["What", "Value"], training_rows(subject), "Its training"),
            Table(["Package", "Trained with", "Reported with"], version_rows(subject), "Versions"),
            *configuration(subject),
        ],
    )


def verdict(subject: Subject) -> str:
    """Return what it is, in a sentence, with what is known of its training."""
    record = subject.record
    count = sum(p.numel() for p in subject.network.parameters())
    name = type(subject.network).__name__
    told = f"{name} of {count:,} parameters, trained on {data_name(subject)}{size_of_data(subject)}"
    if getattr(subject.task, "attack", None) is not None:
        told += ", on attacked images"
    if not record:
        return f"{told}; how it was trained is {UNKNOWN}."
    if "epochs" in record:
        epochs = f"{record['epochs']} epoch" + ("s" if record["epochs"] != 1 else "")
        told += f" for {epochs} in {record.get('wall_seconds', 0):,.0f} s"
    else:
        told += f", a run that is {record.get('status', 'of an unknown state')}"
    chosen = f"chosen by {in_words(record['chosen_by'])}" if is_best(subject) else "taken"
    return f"{told}, {chosen} after epoch {epochs_done(subject)}."


def in_words(metric: str) -> str:
    """Return `validation accuracy` for `val/accuracy`."""
    split, _, name = metric.partition("/")
    return f"{'validation' if split == 'val' else split} {name}".replace("_", " ").strip()


def size_of_data(subject: Subject) -> str:
    known = trained_on(subject)
    for unit in ("images", "tokens"):
        sizes = known.get(unit)
        if isinstance(sizes, dict) and "train" in sizes:
            return f" ({sizes['train']:,} {unit})"
    return ""


def figures(subject: Subject) -> list[Measure]:
    record = subject.record
    why = "the run did not record it" if record else UNKNOWN
    count = sum(p.numel() for p in subject.network.parameters())
    found = [fact("parameters", "Parameters", count)]
    for key, title, recorded, unit, how in (
        ("trained_parameters", "of which trained", "trainable_parameters", "", ""),
        ("wall_seconds", "Wall time of the run", "wall_seconds", "s", "measured once"),
        ("training_seconds", "of which training", "training_seconds", "s", "measured once"),
    ):
        is_known = record.get(recorded) is not None
        found.append(
            fact(key, title, record[recorded], unit, how) if is_known else missing(key, title, why)
        )
    return found


def model_rows(subject: Subject) -> list[list[str]]:
    arguments = subject.content.get("hyper_parameters", {})
    network = arguments.get("network", {})
    given = network.get("init_args", {}) if isinstance(network, dict) else {}
    size, step = subject.checkpoint.stat().st_size, subject.content.get("global_step", 0)
    return [
        ["Task", type(subject.task).__name__],
        ["Network", type(subject.network).__name__],
        ["Its arguments", ", ".join(f"{k} {v}" for k, v in given.items()) or "none are recorded"],
        ["Checkpoint", f"{subject.checkpoint.name}, {size:,} bytes"],
        ["Its SHA-256", subject.checkpoint_sha256],
        ["Written after", f"step {step:,}, epoch {epochs_done(subject)}"],
    ]


def data_rows(subject: Subject) -> list[list[str]]:
    known = trained_on(subject)
    rows = [["Data", data_name(subject)]]
    for key in ("images", "tokens", "bytes"):
        if isinstance(sizes := known.get(key), dict):
            rows.append([key.capitalize(), ", ".join(f"{n:,} {s}" for s, n in sizes.items())])
    if "classes" in known:
        rows.append(["Classes", ", ".join(known["classes"])])
    if "tokenizer" in known:
        rows.append(["Vocabulary", f"{known['tokenizer']}, {known.get('vocab_size', 0):,} tokens"])
    hashes = known.get("sha256", {})
    rows += [[f"SHA-256 of {name}", str(digest)] for name, digest in hashes.items()]
    if not hashes:
        rows.append(["SHA-256", "not recorded"])
    return rows + [["Note", note] for note in subject.notes]


def training_rows(subject: Subject) -> list[list[str]]:
    record = subject.record
    git, hardware = record.get("git") or {}, record.get("hardware") or {}
    commit = git.get("commit") or ("none: the code was in no repository" if record else None)
    if git.get("changed"):
        commit = f"{commit}, with changes (code.patch in the run)"
    rows = {
        "Command": record.get("command"),
        "Started": record.get("started"),
        "State": record.get("status"),
        "Seed": record.get("seed", config_of(subject).get("seed_everything")),
        "Git commit": commit,
        "SHA-256 of the code": record.get("code_sha256"),
        "Hardware": ", ".join(f"{key} {value}" for key, value in hardware.items()) or None,
        "Epochs": record.get("epochs"),
        "Steps": record.get("steps"),
    }
    return [
        [name, UNKNOWN if value is None else without_any_home(str(value))]
        for name, value in rows.items()
    ]


def version_rows(subject: Subject) -> list[list[str]]:
    then, now = subject.record.get("versions", {}), versions_now(subject)
    return [[name, then.get(name, "not known"), now[name]] for name in now]


def versions_now(subject: Subject) -> dict[str, str]:
    """Return the versions of python and of the packages that the run recorded, or of torch's."""
    names = subject.record.get("versions") or {"python": "", "torch": "", "lightning": ""}
    found = {}
    for name in names:
        try:
            found[name] = (
                platform.python_version() if name == "python" else importlib.metadata.version(name)
            )
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not there"
    return found


def changed_since(subject: Subject) -> str:
    """Return what is not as it was in training, in words; nothing where all is the same."""
    record, found = subject.record, []
    config = str(with_current_paths(config_of(subject)))
    if record.get("code_sha256") not in (None, code_hash(config)):
        found.append("the code behind the configuration is not that of the run")
    then, now = record.get("versions", {}), versions_now(subject)
    other = [f"{name} {now[name]}, not {then[name]}" for name in then if then[name] != now[name]]
    if other:
        found.append("this report was made with " + ", ".join(other))
    return f"Since the training: {'; '.join(found)}." if found else ""


def configuration(subject: Subject) -> list[Block]:
    text = config_text(subject)
    if not text:
        return [Words("The checkpoint holds no configuration.")]
    return [Passage(without_any_home(text), "config.yaml")]


def without_any_home(text: str) -> str:
    """Return a text with $HOME for home folders, which name their owners, whosever they are."""
    return ANY_HOME.sub("$HOME", re.sub(home_folder(), "$HOME", text))
