"""Write the trained network of a run in forms that others load without this project."""

import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from project.command_line import add_run, command_form, exit_code_of
from project.messages import RunError, UsageError
from project.whole_files import put_in_place, replace_text

DESCRIPTION = """\
Write what the best checkpoint of a run computes, each form read back and
compared:

  weights.safetensors  the weights alone: cannot hold code
  network.pt2          weights and computation (torch.export), for torch alone
  network.json         class, arguments, and what its inputs and outputs mean

A checkpoint that is a folder, of a run that was sharded over processes, is read
as any other; --consolidate writes it as one file, and nothing else.

examples:
  python -m project.export runs/<run>
  python -m project.export runs/<run>/checkpoints/last.ckpt --output exported
  python -m project.export runs/<run> --consolidate
"""
LARGEST_DIFFERENCE = 1e-5  # of logits, between the network and its exported computation


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, 1 if a form differs, 2 when what was asked for is not possible."""
    form = command_form("export", DESCRIPTION)
    add_run(form)
    form.add_argument("--output", type=Path, help="folder; `export` in the run by default")
    form.add_argument("--consolidate", action="store_true", help="write best.ckpt as one file")
    options = form.parse_args(arguments)

    def write() -> None:
        if options.consolidate:
            print(consolidate(options.run, options.output))
            return
        for line in export(options.run, options.output, options.allow):
            print(line, flush=True)

    return exit_code_of(write)


def consolidate(run: str, output: Path | None) -> str:
    """Write a checkpoint, which may be a folder, as one file; return a line on it.

    Raises:
        UsageError: If there is no checkpoint.
    """
    from project.checkpoints.checkpoint_file import read, write
    from project.checkpoints.loading import checkpoint_of

    source = checkpoint_of(run)
    made = folder_for(run, output) / Path(source).name
    write(read(source), made)
    return size_and_note(made, f"one file of {source}")


def folder_for(run: str, output: Path | None) -> Path:
    """Return where to write.

    Raises:
        UsageError: If that is not said of a checkpoint.
    """
    from project.checkpoints.checkpoint_file import is_folder

    if output is None and (not Path(run).is_dir() or is_folder(run)):
        raise UsageError(f"{run} is no run directory, so say where to: --output DIR")
    return output or Path(run) / "export"


def export(run: str, output: Path | None, allowed: list[str]) -> Iterator[str]:
    """Write the three files, and yield a line on each.

    Raises:
        UsageError: If there is no checkpoint, or no telling what its network reads.
        RunError: If a form does not compute what the network does; it is not kept.
    """
    from project.checkpoints.checkpoint_file import read
    from project.checkpoints.loading import checkpoint_of, rebuild
    from project.command_line import quieten_lightning

    quieten_lightning()
    source = checkpoint_of(run)
    output = folder_for(run, output)
    content = read(source)
    task, data = rebuild(content, allowed)
    if not hasattr(task, "network"):
        raise UsageError(f"{type(task).__name__} has no attribute `network` to export")
    network = task.network.eval()
    example = example_input(network, data)
    description = describe(content, network, data)
    output.mkdir(parents=True, exist_ok=True)

    again, _ = rebuild(content, allowed)
    for weight in again.network.parameters():
        weight.data.zero_()
    write_weights(network, output / "weights.safetensors", description, again.network)
    yield size_and_note(output / "weights.safetensors", "equal to the checkpoint's, bit by bit")
    replace_text(output / "network.json", json.dumps(description, indent=2) + "\n")
    yield size_and_note(output / "network.json", description["network"]["class_path"])
    difference, shape = write_computation(network, example, output / "network.pt2")
    yield size_and_note(
        output / "network.pt2", f"input {shape}; largest difference of a logit {difference:.1g}"
    )


def size_and_note(path: Path, text: str) -> str:
    return f"{path}  {path.stat().st_size / 1e6:.2f} MB  {text}"


def example_input(network: Any, data: Any) -> Any:
    """Return a batch of two inputs of the shape that the network was built for.

    Raises:
        UsageError: If it does not say its sizes.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    if hasattr(network, "image_size"):
        size = (2, network.in_channels, network.image_size, network.image_size)
        return torch.randn(size, generator=generator)
    if hasattr(network, "vocab_size"):
        length = int(getattr(network, "context_length", getattr(data, "context_length", 64)))
        return torch.randint(network.vocab_size, (2, length), generator=generator)
    raise UsageError(
        f"{type(network).__name__} has neither image_size and in_channels nor vocab_size, so its "
        "input is not known; keep those arguments as attributes"
    )


def describe(content: dict[str, Any], network: Any, data: Any) -> dict[str, Any]:
    """Return what a stranger needs to use the weights, as JSON."""
    arguments = content["hyper_parameters"]
    name = type(data).__qualname__
    return {
        "task": arguments["_class_path"],
        "network": arguments["network"],
        "parameters": sum(p.numel() for p in network.parameters()),
        "steps": content["global_step"],
        "data": json.loads(json.dumps(content.get(name), default=str)),
        "tokenizer": content.get("datamodule_hyper_parameters", {}).get("tokenizer"),
    }


def write_weights(network: Any, path: Path, description: dict[str, Any], other: Any) -> None:
    """Write the weights as safetensors, and read them back into another network to compare.

    Raises:
        RunError: If a weight is not the same.
    """
    import torch
    from safetensors.torch import load_model, save_model

    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch, path.name)
        save_model(network, str(made), {"description": json.dumps(description)})
        load_model(other, str(made))
        for name, weight in network.state_dict().items():
            if not torch.equal(weight, other.state_dict()[name]):
                raise RunError(f"{name} is not the same in {path.name}, which is not kept")
        put_in_place(made, path)


def write_computation(network: Any, example: Any, path: Path) -> tuple[float, str]:
    """Export the network with torch.export, and compare it on inputs of other sizes.

    Any number of inputs, and any number of tokens where the network can be exported so.

    Returns:
        The largest difference of a logit, and the shape of the input.

    Raises:
        RunError: If it cannot be exported, or computes something else.
    """
    import torch

    is_text = not example.is_floating_point()
    reason = ""
    for any_length in (True, False) if is_text else (False,):
        dynamic = {0: torch.export.Dim.AUTO}
        other = torch.cat([example, example[:1]])  # (3, ...)
        if any_length:
            dynamic[1] = torch.export.Dim.AUTO
            other = other[:, : max(1, other.shape[1] // 2)]
        try:
            with warnings.catch_warnings(), tempfile.TemporaryDirectory(dir=path.parent) as scratch:
                warnings.simplefilter("ignore")  # of torch's own, on what it does
                program = torch.export.export(network, (example,), dynamic_shapes=[dynamic])
                made = Path(scratch, path.name)
                torch.export.save(program, made)
                loaded = torch.export.load(made).module()
                with torch.no_grad():
                    differences = [
                        (loaded(batch) - network(batch)).abs().max().item()
                        for batch in (example, other)
                    ]
                if max(differences) > LARGEST_DIFFERENCE:
                    raise RunError(
                        f"{path.name} differs from the network by {max(differences):.1g}, more "
                        f"than {LARGEST_DIFFERENCE:g}, and is not kept"
                    )
                put_in_place(made, path)
            sizes = ["any", *("any" if any_length else str(n) for n in example.shape[1:])]
            return max(differences), f"({', '.join(sizes)})"
        except (RuntimeError, AssertionError, ValueError) as error:  # a size that is fixed
            reason = str(error).strip().splitlines()[0]
    raise RunError(f"{type(network).__name__} cannot be exported by torch.export: {reason}")


if __name__ == "__main__":
    sys.exit(main())
