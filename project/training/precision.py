"""What the processor can do, and which hardware is fast in bfloat16."""

from typing import Any

import torch


def fast_precision(accelerator: str) -> str:
    """Return `bf16-mixed` where the hardware is fast at it, else `32-true`.

    Fast are CUDA devices of compute capability 8.0 and above, and CPUs with AVX512-BF16 or AMX
    (without them bf16 convolutions took 14 times as long as float32).
    """
    is_fast = False
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        is_fast = torch.cuda.get_device_capability() >= (8, 0)
    elif accelerator == "cpu" or (accelerator == "auto" and not torch.backends.mps.is_available()):
        is_fast = cpu_is_fast_in_bf16()
    return "bf16-mixed" if is_fast else "32-true"


def cpu_is_fast_in_bf16() -> bool:
    """Return whether the processor multiplies bfloat16; False on a torch too old to tell."""
    able_to = cpu_capabilities()
    return bool(able_to.get("avx512_bf16") or able_to.get("amx_bf16"))


def cpu_capabilities() -> dict[str, Any]:
    """Return what torch knows of the processor; nothing on a torch too old to tell."""
    return getattr(torch.cpu, "get_capabilities", dict)()
