"""What grows with the data and with the context, and what should not.

Shape letters: B batch, T context length.
"""

import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from project.benchmarks.hand_written import plain_step
from project.benchmarks.measuring import Figures, device, interleaved, ratios, seconds_each
from project.benchmarks.synthetic import random_images, random_tokens, text_of
from project.costs.flops import training_flops
from project.data.loader import SeededLoader
from project.models.transformer import GPT

IMAGES = (10**3, 10**4, 10**5, 10**6)
TOKENS = (10**5, 10**6, 10**7, 10**8)
CONTEXTS = (64, 128, 256, 512, 1024)
BATCH_TOKENS = 2048  # B x T, the same for every T


def growth(
    rounds: int = 3,
    images: tuple[int, ...] = IMAGES,
    tokens: tuple[int, ...] = TOKENS,
    contexts: tuple[int, ...] = CONTEXTS,
) -> list[Figures]:
    """Compare seconds per batch by the size of the data, and time and memory by the context."""
    return [
        image_growth(rounds, images),
        token_growth(rounds, tokens),
        *context_growth(rounds, contexts),
    ]


def image_growth(rounds: int, sizes: tuple[int, ...]) -> Figures:
    loaders = {
        f"{size:,} images": random_images(size, size=8, batch_size=128).train_dataloader()
        for size in sizes
    }
    return flat("data: a batch of 128 images of 8 x 8", rounds, loaders)


def token_growth(rounds: int, sizes: tuple[int, ...]) -> Figures:
    # Windows deletes no file that is mapped into memory.
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        loaders = {
            f"{size:,} tokens": text_of(
                random_tokens(Path(folder, str(size)), size), context_length=256, batch_size=64
            ).train_dataloader()
            for size in sizes
        }
        return flat("data: a batch of 64 x 256 tokens, mapped from the disk", rounds, loaders)


def flat(what: str, rounds: int, loaders: dict[str, SeededLoader[Any]]) -> Figures:
    """Measure loaders whose batches should all take as long, up to caches of the processor."""
    samples = interleaved(rounds, {name: partial(batch_time, x) for name, x in loaders.items()})
    first, *_, last = samples
    pairs = {"largest / smallest (expected: 1, and caches)": (last, first)}
    return Figures(what, "microseconds", samples, ratios(samples, pairs))


def batch_time(loader: SeededLoader[Any]) -> float:
    """Return microseconds per batch of whole epochs, with the order of each."""
    batches = 0
    started = time.perf_counter()
    while (spent := time.perf_counter() - started) < 0.1:
        batches += sum(1 for _ in loader)
    return 1e6 * spent / batches


def context_growth(rounds: int, contexts: tuple[int, ...]) -> list[Figures]:
    """Measure a training step of a small GPT on as many tokens, in longer and longer windows."""
    measures, kept, operations = {}, {}, {}
    for length in contexts:
        network = GPT(256, length, width=64, depth=2, num_heads=2).to(device())
        step = plain_step(network, torch.optim.AdamW(network.parameters()))
        tokens = torch.randint(0, 256, (max(1, BATCH_TOKENS // length), length), device=device())
        name = f"context {length}"
        measures[name] = partial(token_time, step, tokens)
        kept[name] = [bytes_kept(network, tokens) / tokens.numel()]
        operations[name] = (training_flops(network, tokens) or 0) / length
    samples = interleaved(rounds, measures)
    first, *_, last = samples
    quotients = ratios(samples, {f"{last} / {first}": (last, first)})
    quotients["expected of the operations (linear and quadratic)"] = [
        operations[last] / operations[first]
    ]
    growth_of_memory = ratios(kept, {f"{last} / {first} (expected: 1)": (last, first)})
    what = f"a training step of GPT (width 64, depth 2, {BATCH_TOKENS:,} tokens)"
    return [
        Figures(what, "microseconds per token", samples, quotients),
        Figures(f"{what}, kept for the backward pass", "bytes per token", kept, growth_of_memory),
    ]


def token_time(step: Any, tokens: Tensor) -> float:
    return 1e6 * seconds_each(lambda: step(tokens, tokens), 3, 1) / tokens.numel()


def bytes_kept(network: GPT, tokens: Tensor) -> int:
    """Return the bytes that autograd keeps of a forward pass, but the parameters."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network(tokens)
    del logits
    return sum(sizes.values())
