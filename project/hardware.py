"""The machine: what it is, what it is fast at, and what a step on it need not pay for."""

import ctypes
import os
import platform
from contextlib import suppress
from typing import Any

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt


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


def cpu_name() -> str:
    return str(cpu_capabilities().get("cpu_name") or platform.processor() or platform.machine())


def usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Let this process keep up to 1 GB of freed memory instead of giving it back at once.

    By default glibc gives large blocks back when they are freed, and each page of the next tensor
    costs a fault: a GPT of 0.8 M parameters spent a fifth of its time on 3,000 faults a step.
    Changes no number. Does nothing on systems without glibc.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(MMAP_THRESHOLD, 1 << 25)  # the most that it takes
        mallopt(TRIM_THRESHOLD, 1 << 30)


def look_for_no_gpu() -> None:
    """Where there is no GPU, let torch not search the disk for a driver in every optimizer step.

    It does (2.15, with CUDA), to see whether the step is being captured: 0.1 ms each time.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
