"""Write text with a trained language model."""

import argparse
import sys
from typing import Any

from project.command_line import add_run, command_form, exit_code_of
from project.messages import UsageError

DESCRIPTION = """\
Continue a prompt with the language model of a run, from its checkpoint alone.
The first sample appears as it is written; further ones follow it.

examples:
  python -m project.generate runs/<run> --prompt "The "
  python -m project.generate runs/<run> --num_samples 3 --top_p 0.9
  python -m project.generate runs/<run>/checkpoints/last.ckpt --temperature 0
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, or 2 when what was asked for is not possible."""
    options = parser().parse_args(arguments)
    return exit_code_of(lambda: write(options))


def parser() -> argparse.ArgumentParser:
    form = command_form("generate", DESCRIPTION)
    add_run(form)
    form.add_argument("--prompt", default="\n", help="what to continue; a newline by default")
    form.add_argument("--max_tokens", type=int, default=200, help="to write; 200 by default")
    form.add_argument(
        "--temperature", type=float, default=0.8, help="0 takes the likeliest token; 0.8 by default"
    )
    form.add_argument("--top_k", type=int, help="draw from this many of the likeliest tokens")
    form.add_argument("--top_p", type=float, help="draw from the likeliest with this probability")
    form.add_argument("--num_samples", type=int, default=1, help="1 by default")
    form.add_argument("--seed", type=int, default=0, help="0 by default: the same text every time")
    form.add_argument("--device", default="cpu", help="cpu (default), cuda, mps")
    return form


def write(options: argparse.Namespace) -> None:
    """Load, generate and print; sample i does not depend on how many are asked for."""
    import torch

    from project.checkpoints.loading import on_device
    from project.data.tokenization import stream_text
    from project.tasks.sampling import generate

    if options.num_samples < 1 or options.max_tokens < 1:
        raise UsageError("--num_samples and --max_tokens must be at least 1")
    task, data = language_model(options.run, options.allow)
    tokenizer = data.tokenizer
    tokens = data.prompt_tokens(options.prompt)
    prompt = tokenizer.decode(tokens)  # as it was cleaned
    steps = generate(
        on_device(task.network, options.device),
        torch.tensor([tokens] * options.num_samples, device=options.device),
        options.max_tokens,
        options.temperature,
        options.top_k,
        options.top_p,
        options.seed,
        len(tokenizer.vocabulary),
    )
    written: list[torch.Tensor] = []  # each (num_samples,)

    def first_sample() -> Any:
        for step in steps:
            written.append(step)
            yield int(step[0])

    print(prompt, end="", flush=True)
    for piece in stream_text(tokenizer, first_sample()):
        print(piece, end="", flush=True)
    print()
    for sample in torch.stack(written, dim=1)[1:].tolist():  # (num_samples, max_tokens)
        print("-" * 20)
        print(prompt + "".join(stream_text(tokenizer, sample)), flush=True)


def language_model(run: str, allowed: list[str]) -> tuple[Any, Any]:
    """Return the task and the data, with the fitted tokenizer, in the checkpoint of a run.

    Raises:
        UsageError: If there is no checkpoint, or it is not one of a language model.
    """
    from project.checkpoints.checkpoint_file import read
    from project.checkpoints.loading import checkpoint_of, rebuild
    from project.command_line import quieten_lightning

    path = checkpoint_of(run)
    content = read(path)
    parts = (part for part in content.values() if isinstance(part, dict))
    if not any("tokenizer_state" in part for part in parts):
        name = content.get("hyper_parameters", {}).get("_class_path", "another task")
        raise UsageError(f"{str(path)!r} is of {name} and not of a language model: it has no text")
    quieten_lightning()
    return rebuild(content, allowed)


if __name__ == "__main__":
    sys.exit(main())
