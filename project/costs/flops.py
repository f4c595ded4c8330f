"""Floating-point operations of a training step, and how many an accelerator could do."""

import copy
import re

import torch
from torch import Tensor, nn

# Dense bfloat16 peaks (no sparsity) in FLOP/s, from the vendors' data sheets; the first name that
# is a word of the device's decides. Lightning 2.6.6 has none for H200, and sparse ones for others.
PEAKS = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "H200 NVL": 836e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165.2e12,
    "RTX A6000": 154.8e12,
}


def peak_flops(device_name: str) -> float | None:
    """Return the dense bfloat16 peak of a device by torch's name of it, FLOP/s, None if unknown."""
    for name, peak in PEAKS.items():
        if re.search(rf"\b{name}\b", device_name):
            return peak
    return None


def training_flops(network: nn.Module, inputs: Tensor) -> int | None:
    """Return the operations of a forward and a backward pass, per row of a batch.

    Counted by torch on a copy without numbers (the meta device): matrix products, convolutions and
    attention; two for each multiply-add, attention as if it were not causal. The gradients of
    frozen parameters are left out.

    Args:
        network: Maps `inputs` to a tensor; is not changed.
        inputs: A batch, of which two rows are used.

    Returns:
        None for a network that cannot run without its numbers.
    """
    from torch.utils.flop_counter import FlopCounterMode  # 0.1 s of a start

    try:
        with FlopCounterMode(display=False) as counter:
            without_numbers(network)(inputs[:2].to("meta")).float().sum().backward()
    except Exception:  # whatever a network of one's own does with numbers that are not there
        return None
    return counter.get_total_flops() // len(inputs[:2])


def prediction_flops(network: nn.Module, inputs: Tensor) -> int | None:
    """Return the operations of a forward pass in evaluation mode, per row; see `training_flops`."""
    from torch.utils.flop_counter import FlopCounterMode

    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            without_numbers(network).eval()(inputs[:2].to("meta"))
    except Exception:
        return None
    return counter.get_total_flops() // len(inputs[:2])


def without_numbers(network: nn.Module) -> nn.Module:
    """Return a copy on the meta device, in training mode: shapes alone, and no memory."""
    shapes: dict[int, Tensor] = {id(b): b.to("meta") for b in network.buffers()}
    for p in network.parameters():
        shapes[id(p)] = nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad)
    return copy.deepcopy(network, shapes).train()
