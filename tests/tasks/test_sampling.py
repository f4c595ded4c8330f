"""Text from a network: the cache changes nothing, and every option does what it says."""

import pytest
import torch
from conftest import awake
from torch import Tensor, nn

from project.models.cnn import CausalCNN
from project.models.mlp import MLPLanguageModel
from project.models.rnn import RNNLanguageModel
from project.models.transformer import GPT, SinusoidalTransformer
from project.tasks.sampling import generate, next_probabilities

V, CONTEXT = 11, 12
NETWORKS = {
    "mlp": lambda: MLPLanguageModel(V, history=4, features=8, width=32),
    "cnn": lambda: CausalCNN(V, width=16, depth=2),
    "gru": lambda: RNNLanguageModel(V, "gru", width=16),
    "lstm": lambda: RNNLanguageModel(V, "lstm", width=16),
    "gpt": lambda: GPT(V, CONTEXT, width=16, depth=2),
    "gpt-swiglu-tied": lambda: GPT(V, CONTEXT, width=16, feed_forward="swiglu", tied=True),
    "sinusoidal": lambda: SinusoidalTransformer(V, CONTEXT, width=16),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return awake(NETWORKS[name](), std=0.7).eval()


def written(network: nn.Module, prompt: Tensor, max_tokens: int, **options) -> Tensor:
    return torch.stack(list(generate(network, prompt, max_tokens, **options)), dim=1)


def what_is_seen(network: nn.Module, length: int) -> int:
    """Return how many of `length` tokens the next prediction is a function of."""
    if isinstance(network, GPT) and length > CONTEXT:
        half = CONTEXT // 2  # the newer half is kept when the context is full
        return half + 1 + (length - CONTEXT - 1) % half
    return min(length, getattr(network, "context_length", length))


class FullForward(nn.Module):
    """The network without its state: all that a prediction sees is read again for each token."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        return self.network(tokens[:, -what_is_seen(self.network, tokens.shape[1]) :])


@every_network
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("prompt_length", [1, 5, CONTEXT, CONTEXT + 7])
def test_text_equals_that_of_the_full_forward_token_by_token(
    name, temperature, prompt_length
) -> None:
    """Far past the context, too."""
    network, prompt = built(name), torch.randint(0, V, (3, prompt_length))
    text = written(network, prompt, 40, temperature=temperature)
    expected = written(FullForward(network), prompt, 40, temperature=temperature)
    assert torch.equal(text, expected)
    if temperature > 0:
        assert len(text.unique()) > 3


@every_network
def test_a_sample_does_not_depend_on_how_many_there_are(name) -> None:
    network, prompt = built(name), torch.randint(0, V, (1, 3))
    five = written(network, prompt.repeat(5, 1), 20)
    two = written(network, prompt.repeat(2, 1), 20)
    assert torch.equal(five[:2], two)
    assert len({tuple(row) for row in five.tolist()}) == 5


def test_the_seed_alone_decides_and_the_global_state_is_left_alone() -> None:
    network, prompt = built("gpt"), torch.zeros(1, 1, dtype=torch.int64)
    before = torch.get_rng_state()
    first = written(network, prompt, 20, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(written(network, prompt, 20, seed=3), first)
    assert not torch.equal(written(network, prompt, 20, seed=4), first)


def test_probabilities_are_those_by_hand() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    e = logits.exp()[0]
    torch.testing.assert_close(next_probabilities(logits, 1.0, None, None)[0], e / e.sum())
    torch.testing.assert_close(next_probabilities(logits, 0.5, None, None)[0], e**2 / (e**2).sum())
    kept = e * torch.tensor([0.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(next_probabilities(logits, 1.0, 2, None)[0], kept / kept.sum())
    assert next_probabilities(logits, 0.0, None, None).tolist() == [[0, 1, 0, 0]]
    assert next_probabilities(logits, 1.0, 1, None).argmax() == 1
    # softmax is .087, .644, .237, .032: .644 < .7 <= .881
    nucleus = next_probabilities(logits, 1.0, None, 0.7)[0]
    assert (nucleus > 0).tolist() == [False, True, True, False]
    assert (nucleus[1] / nucleus[2]).item() == pytest.approx((e[1] / e[2]).item())
    assert (next_probabilities(logits, 1.0, None, 0.01)[0] > 0).sum() == 1
    assert (next_probabilities(logits, 1.0, None, 1.0)[0] > 0).all()
    assert next_probabilities(logits, 1.0, 100, None).min() > 0


def test_tokens_are_drawn_with_their_probabilities() -> None:
    class Fixed(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return torch.tensor([0.1, 0.2, 0.7]).log().expand(*tokens.shape, 3)

    drawn = written(Fixed(), torch.zeros(50, 1, dtype=torch.int64), 100)
    shares = torch.bincount(drawn.flatten(), minlength=3) / drawn.numel()
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.2, 0.7]), atol=0.03, rtol=0)
    limited = written(Fixed(), torch.zeros(5, 1, dtype=torch.int64), 100, vocab_size=2)
    assert limited.max() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"top_k": 0}, "top_k 0"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"top_p": 1.5}, "top_p 1.5"),
    ],
)
def test_options_out_of_range_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        written(built("gpt"), torch.zeros(1, 1, dtype=torch.int64), 1, **options)


def test_an_empty_prompt_and_logits_that_are_not_finite_are_refused() -> None:
    network = built("gpt")
    with pytest.raises(ValueError, match="prompt has no tokens"):
        written(network, torch.zeros(1, 0, dtype=torch.int64), 1)
    nn.init.constant_(network.head.weight, torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        written(network, torch.zeros(1, 1, dtype=torch.int64), 1)
