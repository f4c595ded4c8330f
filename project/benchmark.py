"""How fast is it, against the usual way: ratios within one run, on this machine."""

import sys

HELP = """\
usage: python -m project.benchmark [data] [trainer] [startup]

Compare, on this machine and in one run, without network or data files:
  data     images per CPU second, against torchvision's dataset in a DataLoader
  trainer  a training step of the MLP through Lightning, against a plain loop
  startup  from Enter to the first training step, against importing Lightning
With nothing given: all three. Figures are medians of interleaved rounds.

examples:
  python -m project.benchmark
  python -m project.benchmark trainer
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, or 2 when it was asked wrongly."""
    names = list(sys.argv[1:] if arguments is None else arguments)
    if names in (["--help"], ["-h"]):
        print(HELP, end="")
        return 0
    known = ("data", "trainer", "startup")
    if wrong := [name for name in names if name not in known]:
        print(f"error: no benchmark {wrong[0]!r}; choose of {', '.join(known)}", file=sys.stderr)
        return 2
    from project.benchmarks import speed  # imports torch: not needed for the help above

    for name in names or known:
        print(getattr(speed, name)(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
