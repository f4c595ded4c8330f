"""What a trained run says of files: classes of images, losses of texts."""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from project.command_line import add_run, command_form, exit_code_of
from project.messages import UsageError

DESCRIPTION = """\
Classify images, or measure texts, with the model of a run, from its checkpoint
alone, in full precision. Images of any size and mode are turned upright,
resized, cut to the central square and made grey or coloured as in training.
Texts are cleaned and cut into windows as in the test, or read as a single
stream. A file that cannot be read is named and left out; the exit code is then
1.

examples:
  python -m project.predict runs/<run> digit.png photos/
  python -m project.predict runs/<run> photo.jpg --invert --top 3
  python -m project.predict runs/<run> chapter.txt --tokens
  python -m project.predict runs/<run> texts/ --json > losses.jsonl
"""
MOST_COLUMNS = 28  # of the name of an image, which is cut in front
MOST_COLUMNS_TEXT = 18


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, 1 if a file was left out, 2 for what is not possible."""
    options = parser().parse_args(arguments)
    return exit_code_of(lambda: predict(options))


def parser() -> argparse.ArgumentParser:
    form = command_form("predict", DESCRIPTION)
    add_run(form)
    form.add_argument("files", metavar="FILE", nargs="+", help="an image, a text, or a folder")
    form.add_argument("--json", action="store_true", help="a line of JSON for each file")
    form.add_argument("--top", type=int, default=2, help="classes to show; 2 by default")
    form.add_argument("--invert", action="store_true", help="turn light and dark around")
    form.add_argument("--tokens", action="store_true", help="of a text, the loss of each token")
    form.add_argument("--encoding", default="utf-8", help="of texts; utf-8 by default")
    form.add_argument("--device", default="cpu", help="cpu (default), cuda, mps")
    return form


def predict(options: argparse.Namespace) -> int:
    """Print what the model says of each file; return 1 if one was left out."""
    from project.command_line import quieten_lightning
    from project.inference.prediction import ImageModel, model_of

    quieten_lightning()
    model = model_of(
        options.run,
        options.device,
        options.allow,
        invert=options.invert,
        encoding=options.encoding,
    )
    is_image = isinstance(model, ImageModel)
    if (options.tokens and is_image) or (options.invert and not is_image):
        raise UsageError("--tokens is for language models, --invert for images")
    paths = files_below(options.files, is_image)
    show: Any = (ImageTable if is_image else TextTable)(model, paths, options)
    num_broken = 0
    for verdict in shown_progress(model(paths), len(paths)):
        if isinstance(verdict, tuple):
            num_broken += 1
            print(f"error: {' '.join(verdict[1].split())}", file=sys.stderr, flush=True)
        else:
            show(verdict)
    if isinstance(show, ImageTable):
        show.note_inverted()
    if num_broken:
        print(f"{num_broken} of {len(paths)} files were left out", file=sys.stderr)
    return 1 if num_broken else 0


def files_below(names: list[str], is_image: bool) -> list[str]:
    """Return the files, with those of a folder, at any depth, in its place.

    Raises:
        UsageError: If a folder has none of the right kind.
    """
    from project.data.image_sets import ImageFolder

    suffixes = ImageFolder.suffixes if is_image else (".txt",)
    paths = []
    for name in names:
        if not Path(name).is_dir():
            paths.append(name)
            continue
        found = sorted(p for p in Path(name).rglob("*") if p.suffix.lower() in suffixes)
        if not found:
            raise UsageError(f"the folder {name!r} has no {', '.join(suffixes)} file in it")
        paths += map(str, found)
    return paths


def shown_progress(verdicts: Iterable[Any], total: int) -> Iterator[Any]:
    """Yield the verdicts; with a bar where they are not seen themselves, as they come."""
    from rich.console import Console
    from rich.progress import track

    hidden = sys.stdout.isatty() or not sys.stderr.isatty()
    yield from track(verdicts, "predict", total, console=Console(stderr=True), disable=hidden)


class ImageTable:
    """Prints a line an image."""

    def __init__(self, model: Any, paths: list[str], options: argparse.Namespace) -> None:
        self.names, self.read_as = model.class_names, model.read_as
        self.as_json, self.top = options.json, max(1, min(options.top, len(self.names)))
        self.inverted: list[str] = []
        self.file_width = min(MOST_COLUMNS, max(map(len, paths)))
        self.class_width = max(5, *map(len, self.names))
        if not self.as_json:
            head = f"{'file':<{self.file_width}}  {'class':<{self.class_width}}       %"
            print(f"{head}  next best      read as {self.read_as} from")

    def __call__(self, verdict: Any) -> None:
        ranked = sorted(zip(verdict.probabilities, self.names, strict=True), reverse=True)
        (probability, name), *others = ranked[: self.top]
        if verdict.looks_inverted:
            self.inverted.append(verdict.path)
        if self.as_json:
            found = {
                "file": verdict.path,
                "class": name,
                "probability": probability,
                "probabilities": dict(zip(self.names, verdict.probabilities, strict=True)),
                "was": verdict.was,
                "read_as": self.read_as,
                "looks_inverted": verdict.looks_inverted,
            }
            print(json.dumps(found), flush=True)
            return
        rest = ", ".join(f"{other} {100 * share:.2f}" for share, other in others)
        print(
            f"{shortened(verdict.path, self.file_width):<{self.file_width}}  "
            f"{name:<{self.class_width}}  {100 * probability:6.2f}  {rest:<13}  {verdict.was}",
            flush=True,
        )

    def note_inverted(self) -> None:
        if self.inverted:
            print(
                f"note: light and dark seem the other way round than in training in "
                f"{len(self.inverted)} images, such as {self.inverted[0]}: try --invert",
                file=sys.stderr,
            )


class TextTable:
    """Prints a line a text, or a line a token."""

    def __init__(self, model: Any, paths: list[str], options: argparse.Namespace) -> None:
        self.as_json, self.with_tokens = options.json, options.tokens
        self.file_width = min(MOST_COLUMNS_TEXT, max(4, *map(len, paths)))
        if not self.as_json and not self.with_tokens:
            print(
                f"{'file':<{self.file_width}}  {'tokens':>9}  nats/token  95 % interval  "
                "perplexity  bits/byte"
            )

    def __call__(self, verdict: Any) -> None:
        perplexity = math.exp(min(verdict.loss, 700.0))
        bits = verdict.bits_per_byte
        if self.as_json:
            found = {
                "file": verdict.path,
                "num_tokens": len(verdict.losses),
                "loss": verdict.loss,
                "interval_95": verdict.interval,
                "perplexity": perplexity,
                "bits_per_byte": bits,
                "unknown_characters": verdict.num_unknown,
            }
            if self.with_tokens:
                losses = [None, *verdict.losses]  # nothing predicts the first
                found["tokens"] = [list(pair) for pair in zip(verdict.pieces, losses, strict=True)]
            print(json.dumps(found), flush=True)
            return
        if self.with_tokens:
            print(f"{verdict.path}\n{'place':>9}  {'nats':>8}  {'%':>6}  token")
            print(f"{0:>9,}  {'':>8}  {'':>6}  {verdict.pieces[0]!r}")
            for place, loss in enumerate(verdict.losses, start=1):
                share = 100 * math.exp(-loss)
                print(f"{place:>9,}  {loss:8.4f}  {share:6.2f}  {verdict.pieces[place]!r}")
        interval = "" if verdict.interval is None else "{:.3f}-{:.3f}".format(*verdict.interval)
        note = f"  {verdict.num_unknown} unknown characters" if verdict.num_unknown else ""
        print(
            f"{shortened(verdict.path, self.file_width):<{self.file_width}}  "
            f"{len(verdict.losses):>9,}  {verdict.loss:10.4f}  {interval:<13}  "
            f"{perplexity:10.4f}  {'' if bits is None else f'{bits:9.4f}'}{note}",
            flush=True,
        )


def shortened(path: str, width: int) -> str:
    return path if len(path) <= width else "..." + path[3 - width :]


if __name__ == "__main__":
    sys.exit(main())
