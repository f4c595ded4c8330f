"""TensorBoard on all runs."""

import argparse
import sys
import time
import webbrowser
from pathlib import Path

from project.command_line import command_form, exit_code_of
from project.messages import RunError, UsageError

DESCRIPTION = """\
Open TensorBoard on a folder of runs: curves, learning rates, confusion
matrices, mistakes, written text, configurations, and hyper-parameters beside
what they led to. It shows runs that go on while they do. Ctrl-C ends it.

examples:
  python -m project.dashboard
  python -m project.dashboard runs/sweeps/mnist_cnn/trials --port 7007
  python -m project.dashboard --host 0.0.0.0 --no_browser
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0 after Ctrl-C, 2 when what was asked for is not possible."""
    form = command_form("dashboard", DESCRIPTION)
    form.add_argument("runs", type=Path, nargs="?", default=Path("runs"), help="runs by default")
    form.add_argument("--port", type=int, default=6006, help="6006 by default; 0 takes a free one")
    form.add_argument("--host", default="localhost", help="localhost by default")
    form.add_argument("--no_browser", action="store_true", help="print the address alone")
    options = form.parse_args(arguments)
    return exit_code_of(lambda: serve(options))


def serve(options: argparse.Namespace) -> None:
    """Serve until Ctrl-C.

    Raises:
        UsageError: If there is no such folder.
        RunError: If the port is taken.
    """
    if not options.runs.is_dir():
        raise UsageError(f"there is no folder {str(options.runs)!r}; project.train makes one")
    from tensorboard import program

    server = program.TensorBoard()
    place = ["--logdir", str(options.runs), "--host", options.host, "--port", str(options.port)]
    server.configure([None, *place, "--reload_interval", "5"])
    try:
        address = server.launch()
    except program.TensorBoardServerException as error:
        raise RunError(f"{error}; take another --port, or 0 for a free one") from error
    print(f"{address} shows {options.runs}; Ctrl-C ends it", flush=True)
    if not options.no_browser:
        webbrowser.open(address)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    sys.exit(main())
