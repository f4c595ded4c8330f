"""Properties that every image network has, for any weights. A new network is found by listing."""

import inspect
import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from conftest import awake, networks_with
from torch import nn

from project.models.rnn import RNN


def cases() -> Iterator[object]:
    for cls in networks_with("image_size"):
        yield pytest.param(cls, {}, id=cls.__name__)
    for options in ({"cell": "elman"}, {"cell": "gru"}, {"bidirectional": True}):
        yield pytest.param(RNN, options, id=f"RNN-{'-'.join(map(str, options.values()))}")


every_network = pytest.mark.parametrize(("cls", "options"), list(cases()))


def built(cls: type[nn.Module], **options: object) -> nn.Module:
    """Return a network for grey 28 x 28 images of 10 classes, whatever its own defaults are."""
    return cls(**{"in_channels": 1, "image_size": 28, "num_classes": 10} | options)


def test_four_architectures_are_found() -> None:
    assert {cls.__name__ for cls in networks_with("image_size")} >= {"MLP", "CNN", "RNN", "ViT"}


@every_network
@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 8, 10), (1, 28, 10), (3, 32, 7)])
def test_logits_have_one_row_per_image(cls, options, channels, size, classes) -> None:
    network = cls(in_channels=channels, image_size=size, num_classes=classes, **options)
    assert network(torch.randn(3, channels, size, size)).shape == (3, classes)


@every_network
def test_loss_starts_at_ln_k(cls, options) -> None:
    logits = built(cls, num_classes=7, **options)(torch.randn(4, 1, 28, 28))
    loss = F.cross_entropy(logits, torch.tensor([0, 1, 2, 6]))
    assert loss.item() == pytest.approx(math.log(7), abs=1e-6)


@every_network
def test_every_parameter_gets_a_gradient(cls, options) -> None:
    network = awake(built(cls, **options))
    F.cross_entropy(network(torch.randn(8, 1, 28, 28)), torch.arange(8)).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@every_network
def test_images_of_a_batch_do_not_mix_in_eval(cls, options) -> None:
    network = awake(built(cls, **options)).eval()
    images = torch.randn(4, 1, 28, 28, requires_grad=True)
    network(images)[0].sum().backward()
    assert images.grad is not None
    assert images.grad[0].abs().max() > 0
    assert images.grad[1:].abs().max() == 0


@every_network
def test_permuting_the_batch_permutes_the_logits(cls, options) -> None:
    network = awake(built(cls, **options)).eval()
    images, order = torch.randn(6, 1, 28, 28), torch.tensor([3, 1, 5, 0, 2, 4])
    with torch.no_grad():
        torch.testing.assert_close(network(images)[order], network(images[order]))


@every_network
def test_one_batch_can_be_learnt(cls, options) -> None:
    network = built(cls, image_size=8, **options)
    images, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for step in range(1, 151):
        loss = F.cross_entropy(network.train()(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 25 == 0:
            with torch.no_grad():
                right = network.eval()(images).argmax(dim=1) == labels
            if right.all():
                return
    pytest.fail(f"{int(right.sum())} of 16 images were learnt in 150 steps")


@every_network
def test_eval_is_deterministic(cls, options) -> None:
    # A network of one's own may have none.
    dropout = {"dropout": 0.5} if "dropout" in inspect.signature(cls).parameters else {}
    network = awake(built(cls, **dropout, **options)).eval()
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(network(images), network(images))


def test_sizes_that_cannot_work_are_refused() -> None:
    from project.models.cnn import CNN
    from project.models.transformer import ViT

    with pytest.raises(ValueError, match="image_size 3"):
        CNN(image_size=3)
    with pytest.raises(ValueError, match="patch_size 5"):
        ViT(patch_size=5)
    with pytest.raises(ValueError, match="num_heads 3"):
        ViT(num_heads=3)


def test_attention_is_scaled_by_the_size_of_a_head() -> None:
    from project.models.transformer import SelfAttention

    attention = SelfAttention(width=8, num_heads=2, dropout=0.0)
    x = torch.randn(1, 5, 8)
    heads = attention.query_key_value(x).view(1, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
    query, key, value = heads
    weights = (query @ key.mT / math.sqrt(4)).softmax(dim=-1)
    by_hand = attention.out((weights @ value).transpose(1, 2).reshape(1, 5, 8))
    torch.testing.assert_close(attention(x), by_hand)


def test_forget_gate_of_the_lstm_starts_open() -> None:
    bias = RNN(cell="lstm", width=5, depth=1).recurrent.bias_ih_l0
    assert (bias[5:10] == 1).all()
