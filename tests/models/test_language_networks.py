"""Properties that every language model has, for any weights. A new network is found by listing."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import awake, networks_with
from torch import Tensor, nn

from project.models.cnn import CausalCNN
from project.models.mlp import MLPLanguageModel
from project.models.rnn import RNNLanguageModel
from project.models.transformer import (
    GPT,
    CausalSelfAttention,
    SinusoidalTransformer,
    rotate,
    rotation_table,
    sinusoids,
)

V = 11
VARIANTS: list[tuple[type[nn.Module], dict[str, object]]] = [
    (RNNLanguageModel, {"cell": "elman"}),
    (RNNLanguageModel, {"cell": "gru"}),
    (RNNLanguageModel, {"weight_drop": 0.3}),
    (RNNLanguageModel, {"tied": False}),
    (GPT, {"feed_forward": "swiglu"}),
    (GPT, {"tied": True}),
    (CausalCNN, {"kernel_size": 2, "depth": 3}),
    (MLPLanguageModel, {"history": 3}),
]


def cases() -> Iterator[Any]:
    for cls in networks_with("vocab_size"):
        yield pytest.param(cls, {}, id=cls.__name__)
    for cls, options in VARIANTS:
        name = "-".join(f"{key}_{value}" for key, value in options.items())
        yield pytest.param(cls, options, id=f"{cls.__name__}-{name}")


every_network = pytest.mark.parametrize(("cls", "options"), list(cases()))
every_reader = pytest.mark.parametrize(  # networks that read on from a state
    ("cls", "options"), [case for case in cases() if hasattr(case.values[0], "extend")]
)


def build(cls: type[nn.Module], options: dict[str, object], **more: object) -> nn.Module:
    width = 16 if cls is not MLPLanguageModel else 24
    return cls(**{"vocab_size": V, "width": width, **options, **more})  # type: ignore[arg-type]


def some_tokens(rows: int = 2, length: int = 24) -> Tensor:
    return torch.randint(0, V, (rows, length))


def test_five_architectures_are_found() -> None:
    names = {"MLPLanguageModel", "CausalCNN", "RNNLanguageModel", "GPT", "SinusoidalTransformer"}
    assert {cls.__name__ for cls in networks_with("vocab_size")} >= names


@every_network
def test_logits_have_one_row_per_token(cls, options) -> None:
    assert build(cls, options)(some_tokens(3, 7)).shape == (3, 7, V)


@every_network
def test_loss_starts_at_ln_v(cls, options) -> None:
    logits = build(cls, options).train()(some_tokens())
    loss = F.cross_entropy(logits.flatten(0, 1), some_tokens().flatten())
    assert loss.item() == pytest.approx(math.log(V), abs=1e-6)


@every_network
@pytest.mark.parametrize("place", [0, 1, 12, 23])
def test_the_future_does_not_leak_to_the_bit(cls, options, place) -> None:
    network = awake(build(cls, options)).eval()
    tokens = some_tokens()
    changed = tokens.clone()
    changed[:, place] = (changed[:, place] + 1) % V
    with torch.no_grad():
        before, after = network(tokens), network(changed)
    assert torch.equal(before[:, :place], after[:, :place])
    assert not torch.equal(before[:, place], after[:, place])


@every_network
def test_the_past_is_seen(cls, options) -> None:
    network = awake(build(cls, options)).eval()
    tokens = some_tokens()
    changed = tokens.clone()
    changed[:, 10] = (changed[:, 10] + 1) % V
    with torch.no_grad():
        assert not torch.equal(network(tokens)[:, 11], network(changed)[:, 11])


@every_network
def test_rows_do_not_mix(cls, options) -> None:
    network = awake(build(cls, options)).eval()
    tokens = some_tokens(4)
    with torch.no_grad():
        together, alone = network(tokens), network(tokens[1:2])
    torch.testing.assert_close(together[1:2], alone)


@every_network
def test_every_parameter_gets_a_gradient(cls, options) -> None:
    torch.manual_seed(1)
    network = awake(build(cls, options))
    tokens = torch.arange(4 * 24).view(4, 24) % V  # every token of the vocabulary
    F.cross_entropy(network(tokens).flatten(0, 1), some_tokens(4).flatten()).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@every_network
def test_one_batch_can_be_learnt_by_heart(cls, options) -> None:
    """A second softmax could not come below ln(1 + (V - 1) / e), about 1.5."""
    options = {**options, "weight_drop": 0.0} if cls is RNNLanguageModel else options
    torch.manual_seed(0)
    network = build(cls, options, width=32)
    text = torch.randperm(V)[None]  # each token has one successor
    inputs, targets = text[:, :-1], text[:, 1:]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(120):
        loss = F.cross_entropy(network(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


@every_network
def test_dropout_acts_in_training_and_never_in_eval(cls, options) -> None:
    network = awake(build(cls, options, dropout=0.5))
    tokens = some_tokens()
    assert not torch.equal(network.train()(tokens), network(tokens))
    network.eval()
    without = awake(build(cls, options, dropout=0.0)).eval()
    without.load_state_dict(network.state_dict())
    assert torch.equal(network(tokens), network(tokens))
    assert torch.equal(network(tokens), without(tokens))


@every_reader
@pytest.mark.parametrize("pieces", [(24,), (1,) * 24, (5, 1, 9, 9), (23, 1)])
def test_reading_in_pieces_equals_reading_at_once(cls, options, pieces) -> None:
    network = build(cls, options)
    if options.get("cell") != "elman":  # whose large weights would be chaotic
        awake(network)
    else:
        nn.init.normal_(network.gain)  # type: ignore[arg-type]
    tokens, state, parts = some_tokens(), None, []
    network.eval()
    with torch.no_grad():
        for piece in tokens.split(pieces, dim=1):
            logits, state = network.extend(piece, state)  # type: ignore[operator]
            parts.append(logits)
        torch.testing.assert_close(torch.cat(parts, dim=1), network(tokens), rtol=1e-4, atol=1e-4)


# Transformers


def test_gpt_past_its_context_forgets_the_older_half() -> None:
    """As the docstring says: a full context of 8 goes on from its newer 4 tokens."""
    network = awake(GPT(V, context_length=8, width=16, depth=2)).eval()
    tokens, state, parts = some_tokens(2, 24), None, []
    with torch.no_grad():
        for token in tokens.split(1, dim=1):
            logits, state = network.extend(token, state)
            parts.append(logits)
        starts = [0] * 8 + [4] * 4 + [8] * 4 + [12] * 4 + [16] * 4
        for t, start in enumerate(starts):
            full = network(tokens[:, start : t + 1])[:, -1:]
            torch.testing.assert_close(parts[t], full, rtol=1e-4, atol=1e-4)
        at_once, _ = network.extend(tokens)
    torch.testing.assert_close(at_once, torch.cat(parts, dim=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cls", [GPT, SinusoidalTransformer])
def test_more_tokens_than_the_context_are_refused(cls) -> None:
    with pytest.raises(ValueError, match=r"9 tokens .* context_length 8"):
        cls(V, context_length=8, width=16)(some_tokens(1, 9))


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    query, key = torch.randn(16, dtype=torch.float64), torch.randn(16, dtype=torch.float64)
    cos, sin = (table.double() for table in rotation_table(300, 16))
    queries, keys = (rotate(x.expand(300, 16), (cos, sin)) for x in (query, key))
    scores = queries @ keys.T  # (i, j)
    for distance in (0, 1, 17, 256):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-5, atol=1e-5)
    assert scores[0, 0] != scores[1, 0]
    assert scores[1, 0] != scores[0, 1]


def test_rotary_angles_are_those_of_the_paper() -> None:
    cos, sin = rotation_table(50, 8)
    for t in (0, 1, 49):
        for i in range(4):
            angle = t * 10_000 ** (-2 * i / 8)
            assert cos[t, i].item() == pytest.approx(math.cos(angle), abs=1e-6)
            assert sin[t, i].item() == pytest.approx(math.sin(angle), abs=1e-6)


@pytest.mark.parametrize("width", [1, 2, 7, 8, 33])
def test_sinusoids_equal_their_closed_form(width) -> None:
    table = sinusoids(40, width)
    assert table.shape == (40, width)
    for t in (0, 1, 5, 39):
        for feature in range(width):
            angle = t / 10_000 ** (2 * (feature // 2) / width)
            expected = math.sin(angle) if feature % 2 == 0 else math.cos(angle)
            assert table[t, feature].item() == pytest.approx(expected, abs=1e-6)


def test_dropout_leaves_the_position_table_whole() -> None:
    network = SinusoidalTransformer(V, context_length=40, width=16, num_heads=2, dropout=0.5)
    network.train()(some_tokens())
    assert torch.equal(network.positions, sinusoids(40, 16))


def test_sinusoidal_transformer_takes_an_odd_width() -> None:
    assert SinusoidalTransformer(V, width=15, num_heads=3)(some_tokens(2, 5)).shape == (2, 5, V)


def test_causal_attention_is_scaled_by_the_size_of_a_head() -> None:
    attention = CausalSelfAttention(width=8, num_heads=2, dropout=0.0)
    nn.init.normal_(attention.out.weight)
    x, rotation = torch.randn(1, 5, 8), rotation_table(5, 4)
    heads = [layer(x).view(1, 5, 2, 4).transpose(1, 2) for layer in attention.children()][:2]
    query, key = (rotate(h / h.square().mean(-1, keepdim=True).sqrt(), rotation) for h in heads)
    value = attention.value(x).view(1, 5, 2, 4).transpose(1, 2)
    scores = (query @ key.mT / math.sqrt(4)).masked_fill(
        torch.ones(5, 5, dtype=torch.bool).triu(1), -torch.inf
    )
    by_hand = attention.out((scores.softmax(-1) @ value).transpose(1, 2).reshape(1, 5, 8))
    torch.testing.assert_close(attention(x, rotation), by_hand)


def test_attention_dropout_is_off_in_eval() -> None:
    attention = CausalSelfAttention(width=8, num_heads=2, dropout=0.5)
    nn.init.normal_(attention.out.weight)
    x, rotation = torch.randn(1, 5, 8), rotation_table(5, 4)
    assert not torch.equal(attention.train()(x, rotation), attention(x, rotation))
    attention.eval()
    assert torch.equal(attention(x, rotation), attention(x, rotation))


# Recurrent networks


@pytest.mark.parametrize("cell", ["elman", "gru", "lstm"])
def test_weight_drop_acts_on_the_recurrence_in_training_alone(cell) -> None:
    torch.manual_seed(0)
    network = RNNLanguageModel(V, cell, width=16, depth=1, weight_drop=0.5)
    nn.init.normal_(network.gain)  # type: ignore[arg-type]
    plain = RNNLanguageModel(V, cell, width=16, depth=1)
    plain.load_state_dict(network.state_dict())
    tokens = some_tokens()
    dropped = network.train()(tokens)
    # The state is empty at the first token, so a recurrent weight does nothing there.
    torch.testing.assert_close(dropped[:, 0], plain(tokens)[:, 0])
    assert (dropped[:, 1:] != plain(tokens)[:, 1:]).any(dim=2).all()
    assert torch.equal(network.eval()(tokens), plain.eval()(tokens))


def test_weight_drop_keeps_the_gradient_of_the_raw_weight() -> None:
    network = RNNLanguageModel(V, "lstm", width=16, depth=1, weight_drop=0.5)
    nn.init.normal_(network.gain)  # type: ignore[arg-type]
    network.train()(some_tokens()).sum().backward()
    gradient = network.layers[0].weight_hh_l0.grad
    assert gradient is not None
    share = (gradient == 0).float().mean().item()  # those dropped have none
    assert 0.4 < share < 0.6


def test_locked_mask_is_the_same_at_every_time_step_and_differs_between_rows() -> None:
    network = RNNLanguageModel(V, width=64, dropout=0.5).train()
    masked = network.locked_dropout(torch.ones(3, 20, 64))
    assert torch.equal(masked, masked[:, :1].expand_as(masked))
    assert not torch.equal(masked[0], masked[1])
    assert set(masked.unique().tolist()) == {0.0, 2.0}


def test_forget_gates_start_open_and_recurrence_orthogonal() -> None:
    for layer in RNNLanguageModel(V, "lstm", width=5).layers:
        assert (layer.bias_ih_l0[5:10] == 1).all()
        for gate in layer.weight_hh_l0.chunk(4):
            torch.testing.assert_close(gate @ gate.T, torch.eye(5))


# Tied embeddings


def tied_networks() -> list[nn.Module]:
    return [RNNLanguageModel(V, width=16), GPT(V, width=16, tied=True)]


@pytest.mark.parametrize("network", tied_networks(), ids=lambda n: type(n).__name__)
def test_tied_weights_stay_tied_after_load_and_compile(network) -> None:
    import copy

    def is_tied(candidate: nn.Module) -> bool:
        return candidate.embedding.weight is candidate.head.weight  # type: ignore[union-attr]

    assert is_tied(network)
    network.load_state_dict({k: torch.randn_like(v) for k, v in network.state_dict().items()})
    assert is_tied(network)
    assert is_tied(network.to(torch.float64).float())
    assert is_tied(copy.deepcopy(network))
    compiled = torch.compile(network, backend="eager")
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.1)
    compiled(some_tokens()).square().mean().backward()
    optimizer.step()
    assert is_tied(network)
    names = [name for name, _ in network.named_parameters()]
    assert "embedding.weight" in names
    assert "head.weight" not in names  # counted and decayed once


@pytest.mark.parametrize("network", tied_networks(), ids=lambda n: type(n).__name__)
def test_tied_weights_stay_tied_in_the_moving_average(network) -> None:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(2):
        with torch.no_grad():
            network.embedding.weight.add_(1.0)
        average.update_parameters(network)
    assert average.module.embedding.weight is average.module.head.weight


# Sizes


def test_sizes_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="num_heads 3"):
        GPT(width=16, num_heads=3)
    with pytest.raises(ValueError, match="2 x num_heads 4"):
        GPT(width=20, num_heads=4)
    with pytest.raises(ValueError, match="num_heads 3"):
        SinusoidalTransformer(width=16, num_heads=3)
    with pytest.raises(ValueError, match="history 0"):
        MLPLanguageModel(history=0)
    with pytest.raises(ValueError, match="kernel_size 1"):
        CausalCNN(kernel_size=1)
    with pytest.raises(ValueError, match="cell 'lstn'"):
        RNNLanguageModel(cell="lstn")  # type: ignore[arg-type]


def test_cnn_sees_as_far_back_as_it_says() -> None:
    network = awake(CausalCNN(V, width=8, depth=3, kernel_size=3)).eval()
    assert network.receptive_field == 15
    tokens = some_tokens(1, 40)
    for back, is_seen in ((14, True), (15, False)):
        changed = tokens.clone()
        changed[0, 39 - back] = (changed[0, 39 - back] + 1) % V
        with torch.no_grad():
            differs = not torch.equal(network(tokens)[0, 39], network(changed)[0, 39])
        assert differs is is_seen
