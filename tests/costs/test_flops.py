"""Counted operations agree with what can be counted by hand, and peaks with data sheets."""

import pytest
import torch
from torch import Tensor, nn

from project.costs.flops import peak_flops, training_flops
from project.models.mlp import MLP
from project.models.transformer import GPT


def test_an_mlp_costs_six_operations_a_weight_but_for_the_gradient_of_its_input() -> None:
    network = MLP(in_channels=1, image_size=8, num_classes=10, width=32, depth=2)
    matrices = [p.numel() for p in network.parameters() if p.ndim == 2]
    first = matrices[0]
    assert training_flops(network, torch.rand(16, 1, 8, 8)) == 6 * sum(matrices) - 2 * first


def test_gpt2_small_costs_what_nanogpt_says() -> None:
    """6 N + 12 layers x width x context operations a token, of 124 M weights: 854.9 million."""
    with torch.device("meta"):
        network = GPT(50304, 1024, width=768, depth=12, num_heads=12, tied=True)
    counted = training_flops(network, torch.zeros(2, 1024, dtype=torch.int64))
    assert counted is not None
    weights = sum(p.numel() for p in network.parameters())
    assert counted / 1024 == pytest.approx(6 * weights + 12 * 12 * 768 * 1024, rel=1e-3)


def test_frozen_weights_cost_no_gradient_and_the_network_is_left_alone() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 10)).eval()
    images = torch.rand(4, 1, 8, 8)
    everything = training_flops(network, images)
    network[1].requires_grad_(False)
    assert training_flops(network, images) == everything - 2 * 64 * 64 - 2 * 64 * 10
    assert not network.training
    assert all(p.device.type == "cpu" and p.grad is None for p in network.parameters())


def test_a_network_that_looks_at_its_numbers_has_no_count() -> None:
    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum().item() > 0 else -x

    assert training_flops(Looks(), torch.rand(2, 3)) is None


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GB200", 2500),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_peaks_are_dense_ones(name: str, tera: float) -> None:
    assert peak_flops(name) == pytest.approx(tera * 1e12)


@pytest.mark.parametrize("name", ["Tesla T4", "NVIDIA L40", "AMD EPYC 9R14", ""])
def test_an_unknown_device_has_no_peak(name: str) -> None:
    assert peak_flops(name) is None
