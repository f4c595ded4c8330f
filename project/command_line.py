"""What commands share: the form that they are typed in, and how they end."""

import argparse
import io
import logging
import sys
import traceback
import warnings
from collections.abc import Callable

from project.messages import RunError, UsageError


def command_form(name: str, description: str) -> argparse.ArgumentParser:
    """Return the form of `python -m project.<name>`, which takes no abbreviations."""
    form = argparse.ArgumentParser(
        prog=f"python -m project.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    form.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return form


def add_run(form: argparse.ArgumentParser) -> None:
    """Add what every command takes that begins with a trained run."""
    form.add_argument(
        "run", metavar="RUN", help="a run directory (its best checkpoint), a .ckpt, or its address"
    )
    form.add_argument(
        "--allow",
        metavar="PACKAGE",
        action="append",
        default=[],
        help="build classes of this package too, if the checkpoint names them",
    )


def check_changes(changes: list[str]) -> None:
    """Refuse an option of a command that takes `--data.KEY VALUE` and nothing else unknown.

    Raises:
        UsageError: With the option.
    """
    for change in changes:
        if change.startswith("-") and not change.startswith("--data."):
            raise UsageError(
                f"unknown option {change}; of a trained model only --data.* may change"
            )


def exit_code_of(action: Callable[[], int | None]) -> int:
    """Do what a command does, and return its exit code.

    What `action` returns, or 0; 2 for what is not possible, 1 for what failed on the way, 130 after
    Ctrl-C, 141 when the reader, such as `head`, has had enough. Errors are one line.
    """
    print_every_character()
    try:
        return action() or 0
    except (UsageError, RunError, ValueError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, RunError) else 2
    except KeyboardInterrupt:
        print()
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror or error}", file=sys.stderr)
        return 1


def quieten_lightning() -> None:
    """Drop what Lightning says on every run and what this project does on purpose."""
    import lightning.pytorch  # noqa: F401 - it sets its own level

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in (
        ".*exists and is not empty.*",  # the directory of a run that is resumed
        "Be aware that when using `ckpt_path`, callbacks.*",  # see `measure_best`
        ".*isinstance.treespec, LeafSpec.*",  # Lightning 2.6 on torch 2.15
        ".*is smaller than the logging interval.*",  # epochs are logged all the same
        r"Found \d+ module.s. in eval mode at the start.*",  # frozen parts
        ".*all_gather.*deprecated.*",  # Lightning 2.6 on torch 2.15
    ):
        warnings.filterwarnings("ignore", message=message)


def print_every_character() -> None:
    """Let `print` write what the terminal or pipe has no character for as `\\xb1`, and go on.

    A pipe of Windows knows 256 characters, unless the variable PYTHONUTF8 is 1.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
