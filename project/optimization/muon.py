"""Muon for the hidden matrices and AdamW for the rest, as one optimizer."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from project.distributed.sharding import sliced, whole
from project.hardware import cpu_is_fast_in_bf16


class MuonAdamW(Optimizer):
    """Muon on parameter groups tagged `"hidden": True`, AdamW on the others.

    Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces the momentum of a
    matrix by the nearest orthogonal matrix, found by five Newton-Schulz steps. Convolution
    filters count as matrices (C_out, C_in * H * W). Matrices of one shape are stacked and
    orthogonalised together, in bfloat16 on a GPU and on CPUs that multiply it, else in float32;
    `torch.optim.Muon` works one by one, in bfloat16 everywhere. Weight decay is decoupled and
    scaled by the learning rate in both parts. Of sharded matrices every process orthogonalises
    all, and keeps its slices.

    Args:
        params: Parameters or groups; without a tag, every one is given to AdamW.
        lr: Step size of Muon: the spectral norm of an update is lr * max(1, rows / columns)**0.5.
        momentum: Nesterov momentum of Muon, in [0, 1).
        weight_decay: Of both parts; a group may set its own.
        adamw_lr: Step size of AdamW.
        beta1: Decay of AdamW's mean of gradients, in [0, 1).
        beta2: Decay of AdamW's mean of squared gradients, in [0, 1).
        eps: Added to the denominator of AdamW.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        adamw_lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.99,
        eps: float = 1e-8,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "beta1": beta1,
            "beta2": beta2,
            "eps": eps,
            "hidden": False,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            if not group["hidden"]:  # before a scheduler reads it as the group's peak
                group["lr"] = adamw_lr

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; return what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["hidden"]:
                self.muon_step(parameters, group)
            else:
                self.adamw_step(parameters, group)
        return loss

    def muon_step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update hidden matrices, those of one shape as one stack (N, rows, columns)."""
        alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
            alike[p.shape].append(p)
        for stack in alike.values():
            momenta = [self.state[p]["momentum"] for p in stack]
            gradients = gradients_of(stack)
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov
            matrices = orthogonalise(torch.stack([whole(u).flatten(1) for u in updates]))
            step_size = group["lr"] * max(1.0, matrices.shape[1] / matrices.shape[2]) ** 0.5
            if group["weight_decay"]:
                torch._foreach_mul_(stack, 1 - group["lr"] * group["weight_decay"])
            changes = [
                sliced(m.view(p.shape).to(p.dtype), p) for p, m in zip(stack, matrices, strict=True)
            ]
            torch._foreach_add_(stack, changes, alpha=-step_size)

    def adamw_step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        if not parameters:
            return
        for p in parameters:
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros(())  # on the CPU: read every step
                self.state[p]["mean"] = torch.zeros_like(p)
                self.state[p]["square"] = torch.zeros_like(p)
        states = [self.state[p] for p in parameters]
        adamw(
            parameters,
            gradients_of(parameters),
            [s["mean"] for s in states],
            [s["square"] for s in states],
            [],
            [s["step"] for s in states],
            lr=group["lr"],
            beta1=group["beta1"],
            beta2=group["beta2"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


def gradients_of(parameters: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return the nearest semi-orthogonal matrix of each, roughly: singular values in [0.7, 1.2].

    Five steps of the quintic Newton-Schulz iteration with the coefficients of Jordan et al. 2024,
    in bfloat16 where that is fast. Directions of very small singular values come out shorter.

    Args:
        matrices: Float (N, rows, columns); the result is float32 of the same shape.
    """
    is_fast = matrices.is_cuda or cpu_is_fast_in_bf16()
    x = matrices.bfloat16() if is_fast else matrices
    tall = x.shape[-2] > x.shape[-1]
    if tall:  # the iteration multiplies by x x^T: keep that the small side
        x = x.mT.contiguous()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # spectral norm at most 1
    for _ in range(5):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, polynomial, x, beta=3.4445)
    return (x.mT if tall else x).float()
