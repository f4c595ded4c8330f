"""From sections to the files of a report."""

import argparse
import importlib
import time

from project.reporting.findings import Section, not_run
from project.reporting.subject import Subject, open_subject

COMMON = ("identity", "energy")  # the same for every kind of data


def make_report(options: argparse.Namespace, changes: list[str], typed: list[str]) -> int:
    subject = open_subject(
        options.run, changes, options.device, options.allow, n=options.n, seed=options.seed
    )
    from project.report import SECTIONS

    for name, title in SECTIONS.items():
        if options.sections and name not in options.sections:
            continue
        section = measured(subject, name, title)
        print(f"{section.title} [{section.mark}, {section.seconds:.1f} s]: {section.verdict}")
        for block in section.blocks:
            print("  ", block)
    return 0


def measured(subject: Subject, name: str, title: str) -> Section:
    """Return a section; one that fails or cannot be measured says why."""
    started = time.perf_counter()
    if name in COMMON:
        module = f"project.reporting.{name}"
    elif subject.closed:
        return not_run(name, title, subject.closed)
    else:
        module = f"project.reporting.{subject.kind}.{name}"
    section: Section = importlib.import_module(module).section(subject)
    section.seconds = time.perf_counter() - started
    return section
