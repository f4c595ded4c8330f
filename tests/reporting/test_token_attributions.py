"""Attributions of tokens, the effective context and attention, for any weights."""

import inspect
import re
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from conftest import networks_with, text_subject
from torch import Tensor, nn

from project.data.corpora import PythonDocs
from project.data.text import TextData
from project.models.cnn import CausalCNN
from project.models.mlp import MLPLanguageModel
from project.models.rnn import RNNLanguageModel
from project.models.transformer import GPT, SinusoidalTransformer
from project.reporting.text import attributions, explained, interpretability, reach
from project.reporting.text.attention import attention_distances, attention_maps, has_attention
from project.reporting.text.pictures import laid_out

V = 11


def cases() -> Iterator[object]:
    for cls in networks_with("vocab_size"):
        yield pytest.param(cls, {}, id=cls.__name__)
    yield pytest.param(GPT, {"tied": True, "feed_forward": "swiglu"}, id="GPT-tied")
    yield pytest.param(RNNLanguageModel, {"cell": "gru", "tied": False}, id="GRU-untied")


every_network = pytest.mark.parametrize(("cls", "options"), list(cases()))


def build(cls: type[nn.Module], options: dict[str, object], **more: object) -> nn.Module:
    """A network under which every path counts, of two layers where it has a depth."""
    torch.manual_seed(0)
    depth = {"depth": 2} if "depth" in inspect.signature(cls).parameters else {}
    network = cls(**{"vocab_size": V, "width": 16, **depth, **options, **more})
    for name, weight in network.named_parameters():
        if not weight.any() or name.endswith(("out.weight", "gain", "head.weight")):
            nn.init.normal_(weight, std=0.5)
    return network.eval().requires_grad_(False)


def some_tokens(rows: int = 3, length: int = 12) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randint(0, V, (rows, length)), torch.randint(0, V, (rows,))


def log_probability(network: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    with torch.no_grad():
        return -F.cross_entropy(network(tokens)[:, -1], targets, reduction="none")


@every_network
def test_a_reader_is_the_network_and_other_embeddings_are_other_tokens(cls, options) -> None:
    network, (tokens, targets) = build(cls, options), some_tokens()
    reader = attributions.Reader(network)
    for case in (tokens, tokens.flip(1)):
        found = reader(attributions.embedded(network, case), targets)
        torch.testing.assert_close(found, log_probability(network, case, targets))
    assert not network.embedding._forward_hooks


@every_network
def test_integrated_gradients_add_up(cls, options) -> None:
    network, (tokens, targets) = build(cls, options), some_tokens()
    average = attributions.average_token(network, tokens)
    values = attributions.integrated_gradients(network, tokens, targets, average, steps=128)
    error, difference = attributions.completeness(network, tokens, targets, average, values)
    assert error.sum() < 0.02 * difference.sum()
    assert values.shape == tokens.shape


@pytest.mark.parametrize("cls", [CausalCNN, RNNLanguageModel, SinusoidalTransformer])
@pytest.mark.filterwarnings("ignore")
def test_integrated_gradients_are_captums_of_the_embedding_layer(cls) -> None:
    from captum.attr import LayerIntegratedGradients

    network, (tokens, targets) = build(cls, {}), some_tokens()

    def forward(ids: Tensor) -> Tensor:
        return network(ids)[:, -1].log_softmax(dim=1)

    with torch.enable_grad():
        expected = LayerIntegratedGradients(forward, network.embedding).attribute(
            tokens, baselines=torch.full_like(tokens, 4), target=targets, n_steps=16
        )
    baseline = network.embedding.weight[4].detach()
    found = attributions.integrated_gradients(network, tokens, targets, baseline, steps=16)
    torch.testing.assert_close(found, expected.sum(dim=2).float().detach(), atol=1e-5, rtol=1e-4)


def test_zeros_are_no_baseline_for_a_network_that_normalises_its_embeddings() -> None:
    """Why attributions are from the average token: with 64 steps, zeros miss all of the path."""
    network, (tokens, targets) = build(GPT, {}), some_tokens()
    average = attributions.average_token(network, tokens)
    errors, sizes = [], []
    for baseline in (average, torch.zeros_like(average)):
        values = attributions.integrated_gradients(network, tokens, targets, baseline)
        error, difference = attributions.completeness(network, tokens, targets, baseline, values)
        errors.append((error.sum() / difference.sum()).item())
        values = attributions.gradient_times_input(network, tokens, targets, baseline)
        sizes.append(values.abs().sum().item())
    assert errors[0] < 0.01
    assert errors[1] > 0.3
    assert sizes[1] < 1e-4 * sizes[0]


@every_network
def test_gradient_times_input_is_the_first_order(cls, options) -> None:
    network, (tokens, targets) = build(cls, options), some_tokens()
    embeddings = attributions.embedded(network.double(), tokens)
    reader, average = attributions.Reader(network), attributions.average_token(network, tokens)
    values = attributions.gradient_times_input(network, tokens, targets, average)
    step = 1e-4 * (embeddings - average)
    change = reader(embeddings + step, targets) - reader(embeddings - step, targets)
    torch.testing.assert_close(values.sum(dim=1), change / 2e-4, atol=1e-3, rtol=1e-2)


@every_network
def test_occlusion_is_the_fall_without_one_token(cls, options) -> None:
    network, (tokens, targets) = build(cls, options), some_tokens()
    baseline = network.embedding.weight[4].detach()  # so that a token can be put in its place
    found = attributions.occlusion(network, tokens, targets, baseline)
    for place in (0, 5, 11):
        without = tokens.clone()
        without[:, place] = 4
        fall = log_probability(network, tokens, targets) - log_probability(
            network, without, targets
        )
        torch.testing.assert_close(found[:, place], fall, atol=1e-5, rtol=1e-4)


def test_tokens_that_are_not_seen_get_nothing() -> None:
    network, (tokens, targets) = build(MLPLanguageModel, {"history": 3}), some_tokens()
    average = attributions.average_token(network, tokens)
    for method in (
        attributions.integrated_gradients,
        attributions.gradient_times_input,
        attributions.occlusion,
    ):
        values = method(network, tokens, targets, average)
        assert not values[:, :-3].any()
        assert values[:, -3:].all()


@every_network
def test_losses_by_context_are_those_of_shorter_texts(cls, options) -> None:
    network, (tokens, targets) = build(cls, options), some_tokens(5)
    losses = reach.losses_by_context(network, tokens, targets, [1, 4, 12])
    for column, length in enumerate((1, 4, 12)):
        expected = -log_probability(network, tokens[:, -length:], targets)
        torch.testing.assert_close(losses[:, column], expected)


def test_context_beyond_what_is_seen_changes_nothing() -> None:
    network, (tokens, targets) = build(MLPLanguageModel, {"history": 4}), some_tokens(5)
    losses = reach.losses_by_context(network, tokens, targets, [2, 4, 8, 12])
    assert torch.equal(losses[:, 1], losses[:, 2])
    assert torch.equal(losses[:, 1], losses[:, 3])
    assert not torch.allclose(losses[:, 0], losses[:, 1])


@pytest.mark.parametrize(("cls", "heads"), [(GPT, 2), (SinusoidalTransformer, 4)])
def test_attention_adds_up_and_never_looks_ahead(cls, heads) -> None:
    network, (tokens, _) = build(cls, {"num_heads": heads}), some_tokens()
    with torch.no_grad():
        before = network(tokens)
        maps = attention_maps(network, tokens)
        torch.testing.assert_close(network(tokens), before)  # and no hook is left
    assert [m.shape for m in maps] == 2 * [(3, heads, 12, 12)]
    for weights in maps:
        torch.testing.assert_close(weights.sum(dim=3), torch.ones(3, heads, 12))
        assert not weights.triu(1).any()
        assert weights.tril().min() >= 0
    assert not torch.allclose(maps[0], maps[1])
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in network.modules())


def heads_of(values: Tensor, number: int) -> Tensor:
    return values.unflatten(-1, (number, -1)).transpose(1, 2)


def test_attention_of_gpt_times_its_values_is_what_the_module_returns() -> None:
    network, (tokens, _) = build(GPT, {"num_heads": 2}), some_tokens()
    seen: list[tuple[Tensor, Tensor]] = []
    for block in network.blocks:
        block.attention.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    with torch.no_grad():
        maps = attention_maps(network, tokens)
        for block, weights, (x, expected) in zip(network.blocks, maps, seen, strict=True):
            mixed = weights @ heads_of(block.attention.value(x), 2)
            found = block.attention.out(mixed.transpose(1, 2).flatten(2))
            torch.testing.assert_close(found, expected)


def test_attention_of_torchs_layers_times_their_values_is_what_they_return() -> None:
    network, (tokens, _) = build(SinusoidalTransformer, {"num_heads": 4}), some_tokens()
    layers = [layer.self_attn for layer in network.encoder.layers]
    seen: list[tuple[Tensor, Tensor]] = []
    for layer in layers:
        layer.register_forward_hook(lambda _, args, out: seen.append((args[0], out[0])))
    with torch.no_grad():
        maps = attention_maps(network, tokens)
        for layer, weights, (x, expected) in zip(layers, maps, seen, strict=True):
            values = F.linear(x, layer.in_proj_weight[32:], layer.in_proj_bias[32:])
            mixed = (weights @ heads_of(values, 4)).transpose(1, 2).flatten(2)
            torch.testing.assert_close(layer.out_proj(mixed), expected)


def test_distances_are_tokens_back() -> None:
    itself = torch.eye(8)
    before = torch.eye(8).roll(-1, dims=1)  # row t looks at t - 1
    before[0] = itself[0]
    alike = torch.ones(8, 8).tril()
    maps = torch.stack([itself, before, alike / alike.sum(dim=1, keepdim=True)])[None]
    expected = torch.tensor([[0.0, 1.0, (4 + 5 + 6 + 7) / 2 / 4]])
    torch.testing.assert_close(attention_distances(maps), expected)


def test_other_networks_have_no_attention() -> None:
    network, (tokens, _) = build(RNNLanguageModel, {}), some_tokens()
    assert not has_attention(network)
    assert attention_maps(network, tokens) == []


def test_text_is_laid_out_letter_for_letter_with_the_number_of_its_token() -> None:
    pieces = ["to be", "\n", " or", "\x00", "x" * 50]
    lines = laid_out("said", pieces, torch.tensor([2.0, -4.0, 1.0, 0.0, 4.0]))
    assert lines[0] == ("said", [])
    cells = [cell for _, line in lines for cell in line]
    assert "".join(c for c, _ in cells) == "to·be↵·or▯" + 50 * "x"
    assert [v for _, v in cells[:10]] == 5 * [0.5] + [-1.0] + 3 * [0.25] + [0.0]
    assert max(len(line) for _, line in lines) == 48


@pytest.fixture(scope="module")
def docs(tmp_path_factory) -> TextData:
    data = TextData(PythonDocs(), context_length=16, root=str(tmp_path_factory.mktemp("docs")))
    data.prepare_data()
    data.setup()
    return data


@every_network
def test_every_language_model_gets_through(cls, options, docs, monkeypatch) -> None:
    monkeypatch.setattr(explained, "STEPS", 8)
    monkeypatch.setattr(explained, "REDRAWS", 2)
    network = build(cls, options, vocab_size=256)
    section = interpretability.section(text_subject(network, docs, n=50))
    assert section.mark in ("holds", "caution", "fails")
    assert len(section.verdict) < 400
    assert len({m.key for m in section.measures()}) == len(section.measures())
    pictures = {b.name for b in section.blocks if hasattr(b, "png")}
    assert pictures >= {"token_attributions", "token_deletion", "effective_context"}
    assert ("attention_heads" in pictures) == has_attention(network)
    absent = section.measure("attention_distance")
    assert (absent is None) == has_attention(network)
    longest = 16 if hasattr(network, "context_length") else 32
    assert re.search(rf"{longest} tokens, as far as|measured up to {longest}\)", section.verdict)


@pytest.mark.parametrize("cls", [GPT, RNNLanguageModel])
def test_a_model_that_always_says_the_same_is_not_explained(cls, docs) -> None:
    network = cls(vocab_size=256, width=16, depth=1).eval().requires_grad_(False)
    assert network(torch.arange(9)[None]).std() == 0  # as it begins
    found = interpretability.section(text_subject(network, docs, n=50))
    assert found.mark == "fails"
    assert found.measure("completeness").value is None


def test_the_reach_is_where_more_context_brings_little_beyond_chance() -> None:
    torch.manual_seed(0)
    noise = 0.01 * torch.randn(200, 1)

    def reach_of(*means: float, spread: float = 0.0) -> int:
        losses = torch.tensor(means) + noise + spread * torch.randn(200, 5)
        return reach.Reach([1, 2, 4, 8, 16], losses).tokens()

    assert reach_of(3.0, 2.0, 1.2, 1.04, 1.0) == 8
    assert reach_of(3.0, 2.0, 1.02, 1.0, 1.0) == 4
    assert reach_of(1.0, 1.0, 1.0, 1.0, 1.0) == 1
    assert reach_of(3.0, 2.0, 1.5, 1.2, 1.0) == 16
    assert reach_of(3.0, 0.9, 1.2, 1.0, 1.0) == 8  # a lucky 2 does not count
    assert reach_of(3.0, 2.0, 1.02, 1.0, 1.0, spread=2.0) == 16  # nothing can be said


def test_a_context_that_is_not_seen_makes_no_difference_in_the_section(docs) -> None:
    network = build(MLPLanguageModel, {"history": 4}, vocab_size=256)
    section = interpretability.section(text_subject(network, docs, n=50))
    assert [section.measure(f"context_{k}").value for k in (4, 8, 16)] == [0, 0, 0]
    assert section.measure("context_2").value != 0
