"""How fast is it, against the usual way, and what bounds it: ratios measured on this machine."""

import sys

HELP = """\
usage: python -m project.benchmark [SECTION]... [--json FILE]
       python -m project.benchmark bottleneck [arguments of project.train]

Compare, on this machine and in one run, without network or data files:
  data        images and tokens per CPU second, against torchvision, a
              DataLoader, and nanoGPT's get_batch
  trainer     a training step of a whole run, against a hand-written loop:
              MLP, CNN, LSTM, GPT
  switches    what compile, precision, layout, batch size, fused optimizer
              and threads are each worth
  processes   what 1, 2, 4 ... processes come to together: weak and strong
  growth      cost as the data and the context grow, against what to expect
  bottleneck  what bounds a run (data, overhead, compute, memory), and which
              switch to try; by default of configs/default.yaml. It knows
              ImageData and TextData, on one device
  startup     from Enter to the configuration and to the first step, against
              importing Lightning
With nothing given: all of them, in under five minutes on two cores. Figures
are medians of rounds in which all are measured in turn; ratios are of figures
of one round. With a GPU, all but data and startup measure it (not tried yet).

  --json FILE  write every figure of every round, too

examples:
  python -m project.benchmark
  python -m project.benchmark data trainer --json speed.json
  python -m project.benchmark bottleneck --config configs/mnist_cnn.yaml
"""
SECTIONS = {  # where each is
    "data": "data_path",
    "trainer": "training_step",
    "switches": "switches",
    "processes": "processes",
    "growth": "growth",
    "bottleneck": "bottleneck",
    "startup": "startup",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, 2 when it was asked wrongly, or 1 when a section failed."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if {"--help", "-h"} & {*arguments}:
        print(HELP, end="")
        return 0
    from project.command_line import exit_code_of

    return exit_code_of(lambda: measure(*understood(arguments)))


def understood(arguments: list[str]) -> tuple[list[str], str | None, list[str]]:
    """Return the sections, the file for JSON, and what is for `project.train`.

    Raises:
        UsageError: If there is no such section, or nothing takes the options.
    """
    from project.messages import UsageError, nearest

    arguments = [word for word in arguments if word != "--debug"]  # of `exit_code_of`
    json_file = None
    if "--json" in arguments:
        place = arguments.index("--json")
        if place + 1 == len(arguments):
            raise UsageError("--json needs a file to write, such as --json speed.json")
        json_file = arguments[place + 1]
        del arguments[place : place + 2]
    end = next((i for i, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    names, options = arguments[:end], arguments[end:]
    for name in names:
        if name not in SECTIONS:
            hint = nearest(name, SECTIONS) or f"; choose of {', '.join(SECTIONS)}"
            raise UsageError(f"no section {name!r}{hint}")
    if options and "bottleneck" not in names:
        raise UsageError(f"{options[0]} is for project.train: bottleneck takes its options alone")
    return names or list(SECTIONS), json_file, options


def measure(names: list[str], json_file: str | None, options: list[str]) -> None:
    """Measure the sections, print each at once, and write it as JSON.

    Raises:
        UsageError: If the file for JSON is something else.
    """
    import json
    from importlib import import_module
    from pathlib import Path

    from project.benchmarks.measuring import document, machine, table
    from project.hardware import keep_freed_memory, look_for_no_gpu
    from project.messages import UsageError
    from project.whole_files import replace_text

    path = None if json_file is None else Path(json_file)
    if path is not None and not path.is_file():
        if path.exists():
            raise UsageError(f"--json {path} is not a file")
        path.touch()  # refused before minutes of measuring and not after
        path.unlink()
    keep_freed_memory()  # as a run does: sections do not depend on which came before
    look_for_no_gpu()
    found = {}
    for name in names:
        section = getattr(import_module(f"project.benchmarks.{SECTIONS[name]}"), name)
        figures = section(options) if name == "bottleneck" else section()
        found[name] = [document(part) for part in figures]
        print(f"--- {name}")
        for part in figures:
            print(table(part), flush=True)
        if path is not None:
            text = json.dumps({"machine": machine(), "sections": found}, indent=2)
            replace_text(path, text + "\n")


if __name__ == "__main__":
    sys.exit(main())
