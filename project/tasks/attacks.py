"""Attacks on classifiers: bounded changes of an image that raise its loss as far as they can.

They need a function from images to logits and nothing else. The limits `low` and `high` of a pixel
may be numbers (0 and 1) or a tensor (C, 1, 1), and `epsilon` with them, so that an attack is the
same on pixels and on normalised images. Gradients are taken of the images alone; those of
parameters stay as they are. What is drawn comes from the generator that is given, else from
torch's own.

Shape letters: B batch, C channels, H height, W width, K classes, n examples.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Classify = Callable[[Tensor], Tensor]  # images (B, C, H, W) to logits (B, K)
Number = float | Tensor  # or (C, 1, 1): one a channel


class ProjectedGradientDescent:
    """What adversarial training does to each batch: `pgd`, its sizes in pixels of [0, 1].

    Source: Madry et al. 2018, arXiv:1706.06083; its setting for MNIST is the default. `steps` 1
    with a `step_size` of 1.25 `epsilon` is the fast training of Wong et al. 2020
    (arXiv:2001.03994), which may overfit to its one step: then accuracy under more falls to 0.

    Args:
        epsilon: The most that a pixel changes.
        steps: Of gradient ascent, at least 1.
        step_size: Of each pixel in each step.
        random_start: Begin anywhere in the ball; else at the image.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        epsilon: float = 0.3,
        steps: int = 40,
        step_size: float = 0.01,
        random_start: bool = True,
    ) -> None:
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon {epsilon} must lie in [0, 1]: black is 0 and white is 1")
        if steps < 1 or step_size < 0:
            raise ValueError(f"steps {steps} must be at least 1 and step_size {step_size} not < 0")
        self.epsilon, self.steps = epsilon, steps
        self.step_size, self.random_start = step_size, random_start

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        low: Number,
        high: Number,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return attacked images (B, C, H, W) for a network, which is in evaluation mode meanwhile.

        So the attack is on the function that will be used: dropout would blur its gradient, and
        batch norm tie each image to the others (Pang et al. 2021, arXiv:2010.00467, section 3.4).

        Args:
            images: As the network expects them.
            low, high: What black and white are there.
        """
        unit = high - low  # what a change by 1 of a pixel in [0, 1] is to the network
        with evaluation_mode(network):
            return pgd(
                network,
                images,
                labels,
                self.epsilon * unit,
                self.step_size * unit,
                self.steps,
                low=low,
                high=high,
                random_start=self.random_start,
                generator=generator,
            )


def pgd(
    classify: Classify,
    images: Tensor,
    labels: Tensor,
    epsilon: Number,
    step_size: Number,
    steps: int,
    *,
    low: Number = 0.0,
    high: Number = 1.0,
    random_start: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return images (B, C, H, W) after projected gradient ascent on the cross-entropy.

    Each step adds `step_size` times the sign of the gradient, then goes back into the ball (no
    pixel further than `epsilon` from the image) and the box [low, high]. The last step is kept,
    not the best. Source: Madry et al. 2018, arXiv:1706.06083.

    Args:
        labels: int64 (B,), to be led away from; -100 leaves an image near its start.
        random_start: Begin anywhere in the ball, uniformly; else at the image.
    """
    # Limits as tensors of the images' kind: `clamp` takes two numbers or two tensors.
    lower = torch.maximum(images - epsilon, torch.as_tensor(low).to(images))
    upper = torch.minimum(images + epsilon, torch.as_tensor(high).to(images))
    attacked = images.detach().clone()
    if random_start:
        attacked += (2 * uniform_like(images, generator) - 1) * epsilon
    attacked = attacked.clamp(lower, upper)
    for _ in range(steps):
        attacked = attacked + step_size * loss_gradient(classify, attacked, labels).sign()
        attacked = attacked.clamp(lower, upper)
    return attacked


def loss_gradient(classify: Classify, images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of each image's own cross-entropy, (B, C, H, W)."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        # The sum: a mean would shrink gradients, to nothing in half precision, for large batches.
        loss = F.cross_entropy(classify(images).float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
    return gradient


@torch.no_grad()
def is_right(classify: Classify, images: Tensor, labels: Tensor) -> Tensor:
    """Return whether each image is classified as its label says, bool (B,)."""
    return classify(images).argmax(dim=1) == labels


def uniform_like(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return draws in [0, 1) of the shape of `images`, on its device whatever the generator's."""
    device = images.device if generator is None else generator.device
    draws = torch.rand(images.shape, generator=generator, device=device, dtype=images.dtype)
    return draws.to(images.device)


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a while; each part goes back to what it was in.

    Recurrent layers stay as they are: cuDNN gives no gradient of one in evaluation mode.
    """
    modes = [(part, part.training) for part in network.modules()]
    try:
        for part, _ in modes:
            part.training = part.training and isinstance(part, nn.RNNBase)
        yield
    finally:
        for part, was_training in modes:
            part.training = was_training
