"""From a checkpoint to the files of its report."""

import argparse
import importlib
import time
import traceback
from datetime import datetime
from pathlib import Path
from typing import Any

from project.messages import UsageError, warn
from project.provenance import provenance, typed_command
from project.reporting import results
from project.reporting.findings import MARKS, SECTIONS, Section, by_mark, not_run, what_it_is
from project.reporting.markdown import markdown_of
from project.reporting.page import page_of
from project.reporting.recorded import opened_name
from project.reporting.subject import Subject, open_subject
from project.whole_files import replace_text

COMMON = ("identity", "energy")  # sections that are the same for every kind of data


def make_report(options: argparse.Namespace, changes: list[str], typed: list[str]) -> int:
    """Measure the chosen sections, write every file, print the first screen.

    Sections that were not chosen are taken from the report that is there, if it is of the same
    checkpoint and data; the limits, which tell what was run, are always told anew. What was
    measured is kept after each section.

    Returns:
        1 if a section failed or the data could not be opened, else 0.

    Raises:
        UsageError: If there is no such checkpoint, or the folder holds files that are no report.
    """
    subject = open_subject(
        options.run, changes, options.device, options.allow, n=options.n, seed=options.seed
    )
    folder = options.output or (subject.run or subject.checkpoint.parent) / "report"
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "results.json").is_file():
        raise UsageError(f"{folder} is not empty and holds no report; give --output a new folder")
    about = about_report(subject, changes, typed)
    found = results.kept(folder, about)
    named = options.sections or SECTIONS
    chosen = [name for name in SECTIONS if name in named or (name == "limits" and name in found)]
    num_failed = 0
    if subject.closed and subject.kind != "other":
        num_failed = 1
        warn(f"{subject.closed}: most sections cannot be run; what was measured is kept")
    for name in chosen:
        section, failed = measured(subject, name, [*found.values()], "--debug" in typed)
        num_failed += failed
        if section.mark != "not run" or name not in found:  # else what was measured is kept
            found[name] = section
        print(f"{section.title:<20} {section.seconds:6.1f} s  {MARKS[section.mark].lower()}")
        results.keep(folder, about, in_order(found))
    sections = in_order(found)
    write_files(folder, subject, about, sections)
    print(first_screen(title_of(subject), sections))
    print(f"report in {folder}: open {folder / 'index.html'}")
    return int(num_failed > 0)


def measured(
    subject: Subject, name: str, before: list[Section], shows_traceback: bool
) -> tuple[Section, bool]:
    """Return a section, which says why if it could not be measured, and whether it failed."""
    started = time.perf_counter()
    try:
        if name == "limits":
            module = importlib.import_module("project.reporting.limits")
            section: Section = module.section(subject, before)
        elif name in COMMON:
            section = importlib.import_module(f"project.reporting.{name}").section(subject)
        elif subject.closed:
            section = not_run(name, subject.closed)
        else:
            place = f"project.reporting.{subject.kind}.{name}"
            section = importlib.import_module(place).section(subject)
    except Exception as error:  # the other sections are worth having without this one
        if shows_traceback:
            traceback.print_exc()
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        warn(f"the section {name!r} failed: {reason}; see it with --sections {name} --debug")
        return not_run(name, f"Failed with {reason}"), True
    section.seconds = round(time.perf_counter() - started, 2)
    return section, False


def in_order(found: dict[str, Section]) -> list[Section]:
    """Return all sections of a report; those that there are not say so."""
    return [
        found.get(name)
        or not_run(name, f"Not chosen: python -m project.report RUN --sections {name}")
        for name in SECTIONS
    ]


def about_report(subject: Subject, changes: list[str], typed: list[str]) -> dict[str, Any]:
    """Return what `results.json` says of the report itself and of what it is about."""
    return {
        "report": {
            "command": typed_command("report", typed),
            **provenance(),
            "device": str(subject.device),
            "n": subject.n,
            "seed": subject.seed,
        },
        "subject": {
            "run": subject.run.name if subject.run else None,
            "checkpoint": subject.checkpoint.name,
            "checkpoint_sha256": subject.checkpoint_sha256,
            "changes": changes,
            "data": data_of(subject),
            "notes": subject.notes,
        },
    }


def data_of(subject: Subject) -> dict[str, Any] | None:
    """Return what tells data apart; None where they are not open."""
    if subject.closed:
        return None
    described = subject.data.describe()
    return {key: described[key] for key in ("sha256", "tokens") if key in described}


def write_files(
    folder: Path, subject: Subject, about: dict[str, Any], sections: list[Section]
) -> None:
    """Write the pages, the cards and what else is made of the sections."""
    from project.reporting.croissant import croissant
    from project.reporting.dataset_card import dataset_card
    from project.reporting.energy import energy_record
    from project.reporting.limits import evidence
    from project.reporting.model_card import model_card

    title, lines = title_of(subject), about_in_words(subject, about)
    energy = next(section for section in sections if section.name == "energy")
    for name, text in {
        "index.html": page_of(title, lines, sections),
        "report.md": markdown_of(title, lines, sections),
        "README.md": model_card(subject, sections),
        "DATASET_CARD.md": dataset_card(subject, sections),
        "croissant.json": results.json_text(croissant(subject, sections)),
        "energy.json": results.json_text(energy_record(subject, energy)),
        "evidence.md": evidence(subject, sections),
    }.items():
        replace_text(folder / name, text)


def title_of(subject: Subject) -> str:
    """Return what the report is about, such as `CNN on Digits`."""
    return f"{type(subject.network).__name__} on {opened_name(subject)}"


def about_in_words(subject: Subject, about: dict[str, Any]) -> list[str]:
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    run = f"run {subject.run.name}, " if subject.run else ""
    lines = [
        f"Report on the checkpoint {subject.checkpoint.name} "
        f"(SHA-256 {about['subject']['checkpoint_sha256'][:12]}…) of {run}made {made}. "
        "In the tables below each estimate stands with its n, its seed if it has one, and a 95 % "
        "interval. One run: how much another seed would differ is not in here."
    ]
    return lines + [f"Note: {note}." for note in subject.notes]


def first_screen(title: str, sections: list[Section]) -> str:
    """Return the verdicts for a terminal, in lines of at most 80 columns."""
    import textwrap

    def wrapped(text: str, indent: str) -> list[str]:
        return textwrap.wrap(text, 80, initial_indent=indent, subsequent_indent=2 * indent)

    lines = ["", title, "-" * len(title), *wrapped(" ".join(what_it_is(sections)), "")]
    for mark, group in by_mark(sections):
        lines.append(MARKS[mark])
        for section in group:
            lines += wrapped(f"{section.title}: {section.verdict}", "  ")
    return "\n".join(lines) + "\n"
