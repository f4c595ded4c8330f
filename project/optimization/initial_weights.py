"""The weights that a new run begins with: those of another one, as far as they fit.

Only tensors are read. No class that a checkpoint names is built, so nothing has to be trusted.
"""

import re
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from project.checkpoints.checkpoint_file import read, sha256_of
from project.checkpoints.loading import checkpoint_of
from project.configuration import ProjectCLI
from project.distributed.processes import process_rank
from project.messages import UsageError, nearest, warn
from project.optimization.freezing import freeze, trainable_parameters
from project.provenance import without_home

TORCHVISION = "torchvision:"  # begins the name of published weights
MOST_NAMES = 4  # shown of a list


@dataclass(frozen=True)
class Weights:
    """Tensors of a network, by name, and where they are from.

    Attributes:
        file: A path or an address.
        sha256: Of that file.
        meaning: What the tokens or classes were that the network was trained with.
    """

    tensors: dict[str, Tensor]
    file: str
    sha256: str
    meaning: dict[str, Any] = field(default_factory=dict)


def prepare_network(cli: ProjectCLI, is_restored: bool) -> dict[str, Any]:
    """Freeze and load what the configuration says; return what a run's record holds of it.

    Args:
        is_restored: Whether the weights will come from a checkpoint of the run itself.

    Raises:
        UsageError: If that is not possible.
    """
    network = getattr(cli.model, "network", cli.model)
    patterns = cli.config.freeze or []
    freeze(network, patterns)
    record = {}
    if cli.config.init_from is not None and not is_restored:
        record["init_from"] = load_initial_weights(cli.config.init_from, network, cli.datamodule)
    if patterns and process_rank() == 0:
        parameters = sum(p.numel() for p in network.parameters())
        trained = f"{trainable_parameters(network):,} of {parameters:,} parameters"
        print(f"to be trained: {trained} (frozen: {', '.join(patterns)})", flush=True)
    return record


def load_initial_weights(source: str, network: nn.Module, data: Any) -> dict[str, Any]:
    """Load what fits by name and shape, say what did and what not, and return the record of it.

    Args:
        source: A run, a checkpoint, an address of one, or `torchvision:<network>`.
        data: Which the network is to be trained on, opened on the first process.

    Raises:
        UsageError: If there are no such weights, or no matrix of them fits.
    """
    weights = weights_of(source)
    mine, theirs = network.state_dict(), weights.tensors
    loaded = [name for name in mine if name in theirs and mine[name].shape == theirs[name].shape]
    # The bias of a head fits wherever the number of classes does, and says nothing.
    if not any(mine[name].ndim >= 2 for name in loaded):
        raise UsageError(
            f"no weight matrix of {weights.file} fits one of {type(network).__name__} by name and "
            f"shape: there is {shortened(list(theirs))}; here is {shortened(list(mine))}"
        )
    network.load_state_dict({name: theirs[name] for name in loaded}, strict=False)
    sizes = {name: p.numel() for name, p in network.named_parameters()}
    record = {
        "source": source,
        "file": without_home(weights.file),
        "sha256": weights.sha256,
        "tensors": [len(loaded), len(mine)],
        "parameters": [sum(sizes.get(name, 0) for name in loaded), sum(sizes.values())],
        "other_shape": [name for name in mine if name in theirs and name not in loaded],
        "new": [name for name in mine if name not in theirs],
        "not_used": [name for name in theirs if name not in mine],
    }
    if process_rank() == 0:
        print(summary(record, weights, mine), flush=True)
        for text in doubts(weights, loaded, network, data):
            warn(text)
    return record


def weights_of(source: str) -> Weights:
    """Read the weights of a network.

    Raises:
        UsageError: If there are none, or they are damaged.
    """
    if source.startswith(TORCHVISION):
        return torchvision_weights(source.removeprefix(TORCHVISION))
    file = checkpoint_of(source)
    content = read(file)
    everything = {n: t for n, t in content["state_dict"].items() if isinstance(t, Tensor)}
    prefix = "network."  # a task may hold other tensors too, such as those of a metric
    of_network = {n.removeprefix(prefix): t for n, t in everything.items() if n.startswith(prefix)}
    meaning: dict[str, Any] = {}
    for state in content.values():  # one of them is that of the data
        if isinstance(state, dict):
            meaning |= {key: state[key] for key in ("tokenizer_state", "classes") if key in state}
    return Weights(of_network or everything, str(file), sha256_of(file), meaning)


def torchvision_weights(name: str) -> Weights:
    """Return the newest weights of a network that torchvision publishes, as `backbone.*`.

    Downloads them at first use into the cache of torch.hub.

    Raises:
        UsageError: If there are none, they cannot be fetched, or are not what was published.
    """
    from torchvision import models

    if name not in (names := models.list_models(module=models)):
        raise UsageError(f"torchvision has no network {name!r}{nearest(name, names)}")
    url = models.get_model_weights(name).DEFAULT.url
    file = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), progress=sys.stderr.isatty())
        except OSError as error:
            raise UsageError(
                f"the weights of {name} could not be fetched ({error}); put {url} at {str(file)!r}"
            ) from error
    sha256, published = sha256_of(file), re.search(r"-([0-9a-f]{8,})\.pth$", file.name)
    if published and not sha256.startswith(published[1]):
        raise UsageError(
            f"{str(file)!r} is damaged: its SHA-256 begins with {sha256[:8]} and not with "
            f"{published[1]}; delete it to fetch it again"
        )
    tensors = torch.load(file, map_location="cpu", weights_only=True)
    # DenseNet's are older than its code: denselayer1.norm.1 is denselayer1.norm1 there.
    renamed = {re.sub(r"(denselayer\d+\.\w+)\.(\d\.)", r"\1\2", n): t for n, t in tensors.items()}
    return Weights({f"backbone.{n}": t for n, t in renamed.items()}, str(file), sha256)


def summary(record: dict[str, Any], weights: Weights, mine: dict[str, Tensor]) -> str:
    """Return what was loaded and what was not, in lines of 80 columns where names allow."""

    def shape(tensor: Tensor) -> str:
        return f"({', '.join(map(str, tensor.shape))})"

    (loaded, tensors), (loaded_parameters, parameters) = record["tensors"], record["parameters"]
    lines = [
        f"initial weights of {weights.file}:",
        f"  {loaded} of {tensors} tensors ({loaded_parameters:,} of {parameters:,} parameters)",
    ]
    differing = [
        f"{name} {shape(mine[name])}, there {shape(weights.tensors[name])}"
        for name in record["other_shape"]
    ]
    new = [f"{name} {shape(mine[name])}" for name in record["new"]]
    for title, items, separator in (
        ("other shape: ", differing, "; "),
        ("new here: ", new, ", "),
        ("not used: ", record["not_used"], ", "),
    ):
        if items:
            lines += textwrap.wrap(
                title + shortened(items, separator),
                width=80,
                initial_indent="  ",
                subsequent_indent="    ",
                break_long_words=False,
                break_on_hyphens=False,
            )
    return "\n".join(lines)


def shortened(items: list[str], separator: str = ", ") -> str:
    """Join a list, with a count in the place of all but its first items."""
    more = len(items) - MOST_NAMES
    return separator.join([*items[:MOST_NAMES], *([f"and {more} more"] if more > 0 else [])])


def doubts(weights: Weights, loaded: list[str], network: nn.Module, data: Any) -> list[str]:
    """Return what was probably not meant about weights that fit."""
    texts = []
    frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
    if untrained := [name for name in frozen if name not in loaded]:
        texts.append(f"{shortened(untrained)} will stay at random values: frozen, but not loaded")
    before, tokenizer = weights.meaning, getattr(data, "tokenizer", None)
    if tokenizer and before.get("tokenizer_state", state := tokenizer.state_dict()) != state:
        texts.append(
            "the weights were trained with another tokenizer or vocabulary: what they know of a "
            "token is of another one here"
        )
    classes = list(getattr(data, "class_names", []))
    has_head = any(name.startswith("head.") for name in loaded)
    if has_head and before.get("classes", classes) != classes:
        texts.append("the loaded head was trained for other classes than there are here")
    return texts
