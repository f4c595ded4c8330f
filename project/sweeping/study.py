"""The study of a sweep on disk: what it holds, how a trial begins in it, and how it ends.

One process writes it, the supervisor, which holds the sweep's lock.
"""

import math
import re
import shlex
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna import Study
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from project.checkpoints.resume import HARMLESS
from project.comparison.configurations import flat, without
from project.comparison.runs import REPEATED
from project.configuration import ProjectCLI, complete_config
from project.messages import UsageError
from project.sweeping.space import Sweep, file_parser
from project.whole_files import replace_text

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)  # what counts; a failed trial is replaced


def open_study(sweep: Sweep, base: ProjectCLI, folder: Path) -> Study:
    """Return the study of a sweep, with the trials that it has.

    Raises:
        UsageError: If the folder holds another sweep, or the storage cannot be opened.
    """
    asked = yaml.safe_load(file_parser().dump(sweep.asked)) | {
        "storage": without_password(sweep.asked.storage),
        "typed": sweep.typed,
        "configuration": yaml.safe_load(complete_config(base)),  # of every trial
    }
    record = folder / "sweep.yaml"
    if record.is_file():
        refuse_another(yaml.safe_load(record.read_text(encoding="utf-8")), asked, folder)
    replace_text(record, yaml.safe_dump(asked, sort_keys=False))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    best = base.config.best
    try:
        return optuna.create_study(
            storage=storage_of(sweep, folder),
            study_name=sweep.name,
            direction="maximize" if best.mode == "max" else "minimize",
            pruner=sweep.pruner(),
            load_if_exists=True,
        )
    except Exception as error:  # a database that is not there, by an error of its driver
        storage = without_password(sweep.asked.storage)
        raise UsageError(f"storage {storage!r}: {str(error).splitlines()[0]}") from error


def without_password(storage: str) -> str:
    return re.sub(r"(://[^/@:]*):[^@]*@", r"\1:***@", storage)


def refuse_another(before: Any, now: dict[str, Any], folder: Path) -> None:
    """Refuse to go on where the trials to come could not be compared with those that have ended.

    Raises:
        UsageError: With the first key that differs.
    """
    free = REPEATED | HARMLESS | {"trials", "typed", "fixed"}  # the last two: in `configuration`
    free -= {"seed_everything", "fold"}
    had, has = (flat(without(tree, free)) for tree in (before, now))
    for key in sorted(had.keys() | has.keys()):
        if had.get(key) != has.get(key):
            raise UsageError(
                f"{folder} holds a sweep with {key.removeprefix('configuration.')} "
                f"{had.get(key)}, and now it is {has.get(key)}: their trials could not be "
                "compared; give the sweep file another name, or another --runs_dir"
            )


def storage_of(sweep: Sweep, folder: Path) -> BaseStorage | str:
    if sweep.asked.storage == "sqlite":
        return f"sqlite:///{folder / 'study.db'}"
    if sweep.asked.storage != "journal":
        return sweep.asked.storage
    path = folder / "study.journal"
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)  # of a sweep that was killed
    if path.is_file():  # a power cut may have left half a line, after which nothing can be read
        written = path.read_bytes()
        path.open("r+b").truncate(written.rfind(b"\n") + 1)
    lock = JournalFileOpenLock(str(path))  # Optuna's default is a link: on Windows few may make one
    return JournalStorage(JournalFileBackend(str(path), lock))


def begin_trial(study: Study, sweep: Sweep) -> Trial:
    """Draw the values of the next trial and write it down, whole or not at all.

    The values are a function of the seed, the trial's number and the trials before. They are drawn
    in a copy of the study: Optuna's `ask` writes them one by one, and after a kill between two of
    them would draw others.
    """
    trials = study.get_trials()
    blank = create_trial(state=TrialState.RUNNING)
    study.pruner.prune(study, blank)  # Hyperband reads the trials there are, and has its brackets
    copy = optuna.create_study(
        study_name=study.study_name,
        direction=study.direction,
        sampler=sweep.sampler(len(trials)),
        pruner=study.pruner,
    )
    copy.add_trials(trials)
    values = copy.ask(sweep.space).params
    study.add_trial(
        create_trial(state=TrialState.RUNNING, params=values, distributions=sweep.space)
    )
    return going_on(study)[-1]


def going_on(study: Study) -> list[Trial]:
    """Return the trials that have begun and not ended; none of them is written by another."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [Trial(study, trial._trial_id) for trial in running]


def validated(trial: Trial, validations: int, value: float) -> bool:
    """Note what a validation measured; return whether the trial is to be pruned.

    A trial that goes on after a kill may measure again what is noted already: the same.
    """
    if validations not in frozen(trial).intermediate_values:
        trial.report(value, validations)
    return trial.should_prune()


def frozen(trial: Trial) -> FrozenTrial:
    return trial.study.get_trials(deepcopy=False)[trial.number]


def end_trial(trial: Trial, state: TrialState, reason: str = "") -> FrozenTrial:
    """End a trial; the value of a complete one is the best that a validation of it measured."""
    study = trial.study
    measured = frozen(trial).intermediate_values.values()
    finite = [value for value in measured if math.isfinite(value)]
    if state != TrialState.FAIL and not finite:
        state, reason = TrialState.FAIL, "no validation measured a finite number"
    if state == TrialState.FAIL:
        trial.set_user_attr("error", reason)
    value = the_better(study)(finite) if state == TrialState.COMPLETE else None
    return study.tell(trial.number, value, state)


def best_of(study: Study) -> FrozenTrial | None:
    """Return the best of the complete trials, the first of equals; None where there is none."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return the_better(study)(complete, key=lambda trial: trial.value, default=None)


def the_better(study: Study) -> Any:
    """Return `max` or `min`."""
    return max if study.direction == StudyDirection.MAXIMIZE else min


def write_best(study: Study, sweep: Sweep, base: ProjectCLI, folder: Path) -> None:
    """Write `best.yaml`: the experiment in full, with the best values that there are so far."""
    best = best_of(study)
    assert best is not None
    arguments = [*sweep.full_arguments(best.params), "--runs_dir", str(folder.parent.parent)]
    typed = shlex.join(["--config", str(sweep.file), *sweep.typed])
    header = [
        f"Trial {best.number} of a sweep, {base.config.best.monitor} {best.value:.6g}. Here is the",
        "experiment without the `fixed` keys of the sweep, with the values of the trial and with",
        "what was typed.",
        f"  python -m project.sweep {typed}",
        f"  python -m project.train --config {folder / 'best.yaml'}",
    ]
    comment = "".join(f"# {line}\n" for line in header)
    replace_text(folder / "best.yaml", comment + complete_config(base.parsed(arguments)))
