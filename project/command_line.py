"""What commands share: the form that they are typed in, and how they end."""

import argparse
import io
import sys
import traceback
from collections.abc import Callable

from project.messages import RunError, UsageError

RUN_HELP = "a run directory (its best checkpoint), a .ckpt, or its address"
ALLOW_HELP = "build classes of this package too, if the checkpoint names them"


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
    form.add_argument("run", metavar="RUN", help=RUN_HELP)
    form.add_argument("--allow", metavar="PACKAGE", action="append", default=[], help=ALLOW_HELP)


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


def print_every_character() -> None:
    """Let `print` write what the terminal or pipe has no character for as `\\xb1`, and go on.

    A pipe of Windows knows 256 characters, unless the variable PYTHONUTF8 is 1.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
