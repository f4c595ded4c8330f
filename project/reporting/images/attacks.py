"""Attacks that measure a classifier and train none, on pixels in [0, 1].

Shape letters: B batch, C channels, H height, W width, K classes, n examples.
"""

import torch
from torch import Tensor

from project.tasks.attacks import Classify, Number, is_right, pgd, uniform_like


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
