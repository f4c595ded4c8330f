"""Schedule and optimizers against their definitions, and in a training."""

import copy
import functools
import inspect

import pytest
import torch
from conftest import quiet_trainer
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import nn

from project.data.image_sets import Digits
from project.data.images import ImageData
from project.models.cnn import CNN
from project.models.mlp import MLP
from project.optimization.muon import MuonAdamW, orthogonalise
from project.optimization.optimizers import parameter_groups
from project.optimization.schedule import WarmupDecay
from project.tasks.image_classification import ImageClassification


def rates(**options) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = WarmupDecay(optimizer, total_steps=100, **options)
    seen = []
    for _ in range(100):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_rises_to_the_peak_and_falls(decay) -> None:
    lr = rates(warmup=0.2, decay=decay)
    assert lr[0] == pytest.approx(2.0 / 20)
    assert max(lr) == pytest.approx(2.0)
    assert lr.index(max(lr)) in (19, 20)
    assert lr[:19] == sorted(lr[:19])
    assert lr[20:] == sorted(lr[20:], reverse=True)
    assert 0 < lr[-1] < 0.05  # the last step still learns


def test_ends_at_the_share_asked_for() -> None:
    assert rates(final=0.1)[-1] == pytest.approx(0.2, rel=0.05)
    assert rates(warmup=0.0)[0] == pytest.approx(2.0)


def test_linear_is_halfway_in_the_middle() -> None:
    assert rates(warmup=0.0, decay="linear")[50] == pytest.approx(1.0)


def test_total_steps_can_be_given_later() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = WarmupDecay(optimizer, warmup=0.5)
    schedule.set_total_steps(100)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(2.0 / 50)
    assert schedule.get_last_lr() == [pytest.approx(2.0 / 50)]


def test_groups_keep_their_share() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    WarmupDecay(optimizer, warmup=0.5, total_steps=10)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.2, 0.02])


def test_warmup_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"warmup 5 .* \[0, 1\)"):
        rates(warmup=5)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 40), (2, 40, 8)])
@pytest.mark.parametrize("is_fast", [False, True], ids=["float32", "bfloat16"])
def test_orthogonalise_brings_singular_values_near_one(shape, is_fast, monkeypatch) -> None:
    monkeypatch.setattr("project.optimization.muon.cpu_is_fast_in_bf16", lambda: is_fast)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_rest_follows_torch_adamw() -> None:
    ours, theirs = (nn.Parameter(torch.ones(4)) for _ in range(2))
    muon = MuonAdamW([{"params": [ours]}], adamw_lr=0.1, weight_decay=0.3, beta2=0.95)
    adamw = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.95), weight_decay=0.3)
    for step in range(5):
        for parameter, optimizer in ((ours, muon), (theirs, adamw)):
            parameter.grad = torch.linspace(-1, 2, 4) * (step + 1)
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_hidden_update_is_the_orthogonal_direction_of_the_momentum() -> None:
    weight = nn.Parameter(torch.zeros(4, 8))
    gradient = torch.randn(4, 8)
    optimizer = MuonAdamW([{"params": [weight], "hidden": True}], lr=0.5)
    weight.grad = gradient
    optimizer.step()
    expected = -0.5 * orthogonalise(gradient[None])[0]
    torch.testing.assert_close(weight.detach(), expected, atol=0.02, rtol=0)  # bfloat16 inside


def test_state_survives_a_round_trip() -> None:
    def stepped(weight: nn.Parameter, optimizer: MuonAdamW, steps: int) -> None:
        for step in range(steps):
            weight.grad = torch.full((4, 4), float(step + 1)) + torch.eye(4)
            optimizer.step()

    first = nn.Parameter(torch.eye(4))
    optimizer = MuonAdamW([{"params": [first], "hidden": True}])
    stepped(first, optimizer, 2)
    second = nn.Parameter(first.detach().clone())
    restored = MuonAdamW([{"params": [second], "hidden": True}])
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    stepped(first, optimizer, 2)
    stepped(second, restored, 2)
    assert torch.equal(first, second)


# In a task


def small_mlp() -> MLP:
    network = MLP(image_size=8, width=16, depth=1, dropout=0.0)
    nn.init.normal_(network.head.weight)
    return network


OPTIMIZERS = [
    cls
    for _, cls in inspect.getmembers(torch.optim, inspect.isclass)
    # SparseAdam needs sparse gradients, LBFGS takes no parameter groups, Muon only matrices.
    if cls is not torch.optim.Optimizer and cls.__name__ not in ("SparseAdam", "LBFGS", "Muon")
]


@pytest.mark.parametrize("cls", [*OPTIMIZERS, MuonAdamW], ids=lambda cls: cls.__name__)
def test_any_optimizer_trains_and_spares_vectors_the_decay(cls, tmp_path) -> None:
    task = ImageClassification(
        small_mlp(), optimizer=cls, scheduler=functools.partial(WarmupDecay, warmup=0.2)
    )
    before = [p.clone() for p in task.parameters()]
    data = ImageData(Digits(), batch_size=256)
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    trainer.fit(task, data)
    groups = trainer.optimizers[0].param_groups
    counts = [sum(p.numel() for p in group["params"]) for group in groups]
    assert sum(counts) == sum(p.numel() for p in task.network.parameters())
    assert all(g.get("weight_decay", 0) == 0 for g in groups for p in g["params"] if p.ndim < 2)
    assert all(torch.isfinite(p).all() for p in task.parameters())
    assert all((p != old).any() for p, old in zip(task.parameters(), before, strict=True))


def test_schedules_step_once_an_optimizer_step(tmp_path) -> None:
    task = ImageClassification(
        small_mlp(),
        optimizer=functools.partial(torch.optim.SGD, lr=1.0),
        scheduler=functools.partial(torch.optim.lr_scheduler.StepLR, step_size=3, gamma=0.1),
    )
    trainer = quiet_trainer(tmp_path, max_steps=7)
    trainer.fit(task, ImageData(Digits(), batch_size=100))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)


def test_plateau_scheduler_follows_its_metric(tmp_path) -> None:
    task = ImageClassification(
        small_mlp(),
        optimizer=functools.partial(torch.optim.SGD, lr=0.1),
        # The loss falls, and more is asked for: every epoch but the first is a bad one.
        scheduler=functools.partial(
            ReduceLROnPlateau, monitor="val/loss", mode="max", patience=0, factor=0.5
        ),
    )
    trainer = quiet_trainer(tmp_path, max_epochs=3)
    trainer.fit(task, ImageData(Digits(), batch_size=500))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 4)


def test_a_schedule_without_an_end_is_refused(tmp_path) -> None:
    task = ImageClassification(small_mlp(), scheduler=WarmupDecay)
    with pytest.raises(ValueError, match="WarmupDecay needs the length of the run"):
        quiet_trainer(tmp_path, max_epochs=-1).fit(task, ImageData(Digits()))


def test_hidden_weights_are_told_from_the_head() -> None:
    network = CNN(width=4)
    hidden, other, vectors = parameter_groups(network)
    assert {id(p) for p in other["params"]} == {id(network.head.weight)}
    assert all(p.ndim == 4 for p in hidden["params"])
    assert all(p.ndim == 1 for p in vectors["params"])
    assert vectors["weight_decay"] == 0


def test_frozen_and_tied_parameters_are_optimized_once_or_not_at_all() -> None:
    network = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    network["head"].weight = network["embedding"].weight
    network["head"].bias.requires_grad_(False)
    groups = parameter_groups(network)
    assert [len(group["params"]) for group in groups] == [1]
