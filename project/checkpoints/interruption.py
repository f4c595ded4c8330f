"""What stops a run before its end: signals from outside, and a loss that is not finite."""

import atexit
import math
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from project.distributed.processes import largest_of_all
from project.distributed.sharding import whole
from project.messages import RunError

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
if hasattr(signal, "SIGUSR1"):  # what SLURM is told to send before the time limit
    EXIT_CODES[signal.SIGUSR1] = 143


class StopRequest:
    """Remembers that a signal asked the run to stop; the run stops where it can be continued.

    The handler sets a flag and nothing else: whatever it did more would happen between any two
    instructions of a training step, and on one process alone. (Lightning's own handlers, 2.6.6,
    wait for the other processes there, which hangs, or save half a step.)

    Attributes:
        signum: Of the signal, 0 before there is one; of several the largest, whichever came first:
            on Linux, where SLURM is, SIGTERM before SIGUSR1 before Ctrl-C.
    """

    def __init__(self) -> None:
        self.signum = 0

    @property
    def exit_code(self) -> int:
        """143 after SIGTERM or SIGUSR1, 130 after Ctrl-C, else 0."""
        return EXIT_CODES[signal.Signals(self.signum)] if self.signum else 0

    @contextmanager
    def listening(self, at_once: Callable[[], None]) -> Iterator[None]:
        """Take the signals while inside.

        Args:
            at_once: Called when a second Ctrl-C ends the process at once.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # Python lets no other thread listen
            return

        def handle(signum: int, frame: Any) -> None:
            if self.signum and signum == signal.SIGINT:
                at_once()
                os._exit(130)
            self.signum = max(self.signum, signum)
            name = signal.Signals(signum).name
            text = f"\n{name}: stopping after this step; Ctrl-C stops at once\n"
            with suppress(OSError):  # Ctrl-C also ends the `tee` that reads it
                os.write(2, text.encode())  # `print` may be interrupted in the middle of itself

        with handled_by(handle, EXIT_CODES):
            yield


@contextmanager
def handled_by(handle: Callable[[int, Any], None], signums: Iterable[int]) -> Iterator[None]:
    """Let a function handle signals, while inside; the main thread alone may ask for that.

    Those that were blocked are let in, so that one which came before is handled now.
    """
    before = {signum: signal.signal(signum, handle) for signum in signums}
    blocked = set_mask("SIG_UNBLOCK", before)
    try:
        yield
    finally:
        set_mask("SIG_SETMASK", blocked)
        for signum, handler in before.items():
            signal.signal(signum, handler)


def set_mask(how: str, signums: Iterable[int]) -> set[int]:
    """Change which signals wait, where a system can; return those that waited before."""
    if not hasattr(signal, "pthread_sigmask"):
        return set()
    return set(signal.pthread_sigmask(getattr(signal, how), signums))


class Stopped(SystemExit):
    """A signal has stopped the run, on every process at the same step.

    Attributes:
        signum: Of the signal, which this process may not have got itself.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(EXIT_CODES[signal.Signals(signum)])
        self.signum = signum


class StopBeforeTesting(Callback):
    """Ends a run that was asked to stop while it measures its best checkpoint."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.state.fn == "validate":  # within a training it goes on to the next step
            self.stop_if_asked(trainer)

    def on_test_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.stop_if_asked(trainer)

    def stop_if_asked(self, trainer: Trainer) -> None:
        if signum := largest_of_all(trainer, [self.stop.signum])[0]:
            leave(trainer, signum)


class FiniteLoss(Callback):
    """Stops a run at the step whose loss is NaN or infinite.

    Args:
        kept: Says which checkpoint there is from before.

    Raises:
        RunError: On every process, with the step, the learning rate and the gradient norm.
    """

    def __init__(self, kept: Callable[[], str]) -> None:
        self.kept = kept
        self.loss: Tensor | None = None
        self.copied: Any = None
        self.outputs_before: Any = None

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        # One GPU is waited for no longer than its forward pass: the copy is asked for now and
        # looked at when the rest of the step is under way. (Several must agree, and wait.)
        if loss.is_cuda:
            self.loss = torch.empty((), pin_memory=True).copy_(loss.detach(), non_blocking=True)
            self.copied = torch.cuda.Event()
            self.copied.record()
        else:
            self.loss = loss.detach()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.loss is None:  # a task that does without `backward`
            return
        if self.copied is not None:
            self.copied.synchronize()
        is_finite = math.isfinite(self.loss.item())
        if largest_of_all(trainer, [int(not is_finite)])[0]:
            message = self.message(trainer, pl_module, outputs, batch_idx)
            wait_for_children(trainer)
            raise RunError(message)
        self.outputs_before = outputs

    def message(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: int) -> str:
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm(gradients)).item()
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        loss, before = loss_in(outputs), loss_in(self.outputs_before)
        where = f"{loss}" if not math.isfinite(loss) else f"not finite on another process, {loss:g}"
        return (
            f"the loss is {where} at step {trainer.global_step} (epoch {trainer.current_epoch}, "
            f"batch {batch}): learning rate {rate:g}, gradient norm {norm:g}, loss of the batch "
            f"before {before:g}; run with a lower --model.optimizer.lr, or "
            f"--trainer.gradient_clip_val 1 ({self.kept()})"
        )


def loss_in(outputs: Any) -> float:
    """Return the loss in what a training step returned, NaN where it has none."""
    return float(outputs["loss"]) if isinstance(outputs, Mapping) else math.nan


def leave(trainer: Trainer, signum: int) -> NoReturn:
    """End this process; every process of the run must call it at the same step."""
    wait_for_children(trainer)
    raise Stopped(signum)


def wait_for_children(trainer: Trainer) -> None:
    """Let processes that Lightning started end by themselves, before this one ends.

    Else its observer, which looks every 5 s, kills this process when one of them has left.
    """
    started = getattr(trainer.strategy.launcher, "procs", [])
    for process in started:
        atexit.register(process.wait, timeout=60)
    started.clear()
