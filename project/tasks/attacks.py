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


def fgsm(classify: Classify, images: Tensor, labels: Tensor, epsilon: Number) -> Tensor:
    """Return images (B, C, H, W) in [0, 1] after one step up the sign of the gradient.

    Source: Goodfellow et al. 2015, arXiv:1412.6572.
    """
    return pgd(classify, images, labels, epsilon, epsilon, 1, random_start=False)


def strongest_pgd(
    classify: Classify,
    images: Tensor,
    labels: Tensor,
    epsilon: Number,
    step_size: Number,
    steps: int,
    restarts: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return images (B, C, H, W) in [0, 1], those that fool if one of some attacks found such.

    Tried in this order: the image as it is, then `restarts` of `pgd` from random starts. What is
    fooled already is not attacked again; what never is, is returned as it is.
    """
    found = images.detach().clone()
    standing = is_right(classify, images, labels).nonzero().flatten()  # indices, (up to B,)
    for _ in range(restarts):
        if len(standing) == 0:
            break
        x, y = images[standing], labels[standing]
        attacked = pgd(classify, x, y, epsilon, step_size, steps, generator=generator)
        is_fooled = ~is_right(classify, attacked, y)
        found[standing[is_fooled]] = attacked[is_fooled]
        standing = standing[~is_fooled]
    return found


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


def smallest_changes(
    classify: Classify,
    images: Tensor,
    labels: Tensor,
    epsilons: list[float],
    steps: int,
    restarts: int = 1,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Return, of images (n, C, H, W) in [0, 1], the least of some balls in which `pgd` fools each.

    The least is sought by halving, as a fooled image is so in every larger ball: one that stands
    in a ball is not attacked in the smaller ones. The size of a step is 2.5 `epsilon` / `steps`:
    enough to cross the ball (Madry et al. 2018).

    Args:
        epsilons: Rising.

    Returns:
        The images that were found, the others as they were; and the epsilon of each, (n,): 0 for
        those that are wrong as they are, infinity for those that stand everywhere.
    """
    found, count = images.detach().clone(), len(epsilons)
    is_standing = is_right(classify, images, labels)
    first = torch.zeros(len(images), dtype=torch.int64, device=images.device)  # may yet fool each
    last = torch.where(is_standing, count, 0)  # does fool each; `count`: none is known to
    while (first < last).any():
        tried = (first + last) // 2
        for place in tried[first < last].unique().tolist():
            asked = ((first < last) & (tried == place)).nonzero().flatten()
            epsilon = epsilons[place]
            step = 2.5 * epsilon / steps
            attacked = strongest_pgd(
                classify, images[asked], labels[asked], epsilon, step, steps, restarts, generator
            )
            is_fooled = ~is_right(classify, attacked, labels[asked])
            found[asked[is_fooled]] = attacked[is_fooled]
            last[asked[is_fooled]] = place
            first[asked[~is_fooled]] = place + 1
    least = torch.tensor([*epsilons, torch.inf], device=images.device)[first]
    return found, torch.where(is_standing, least, 0)


@torch.no_grad()
def square_search(
    classify: Classify,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    queries: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return images (B, C, H, W) in [0, 1] after a search that asks for no gradient.

    Each query sets a square of the change to plus or minus `epsilon`, one sign a channel, and
    keeps it where the margin of the true class fell. After the Square Attack (Andriushchenko et
    al. 2020, arXiv:1912.00049), with stripes to begin with and a side that shrinks evenly, from
    half the image to a pixel.
    """
    batch, channels, height, width = images.shape
    signs = 2 * (uniform_like(images[:, :, :1], generator) < 0.5).to(images) - 1  # (B, C, 1, W)
    change = (epsilon * signs).expand_as(images).clone()
    margin = margins(classify((images + change).clamp(0, 1)), labels)
    rows, columns = (torch.arange(size, device=images.device) for size in (height, width))
    for query in range(queries):
        side = max(1, round(0.5 * min(height, width) * (1 - query / queries)))
        draws = uniform_like(images.new_empty(batch, 2 + channels), generator)
        top = (draws[:, :1] * (height - side + 1)).floor()
        left = (draws[:, 1:2] * (width - side + 1)).floor()
        down = (rows >= top) & (rows < top + side)  # (B, H)
        across = (columns >= left) & (columns < left + side)  # (B, W)
        inside = (down[:, :, None] & across[:, None, :])[:, None]  # (B, 1, H, W)
        colour = epsilon * (2 * (draws[:, 2:] < 0.5).to(images) - 1)[:, :, None, None]
        candidate = torch.where(inside, colour, change)
        candidate_margin = margins(classify((images + candidate).clamp(0, 1)), labels)
        is_better = candidate_margin < margin
        change = torch.where(is_better[:, None, None, None], candidate, change)
        margin = torch.minimum(margin, candidate_margin)
    return (images + change).clamp(0, 1)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the true class's logit less the largest of the others, (B,): below 0 when fooled."""
    true = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return true[:, 0] - others.amax(dim=1)
