"""Texts with mistakes or none of one's own, and what language models are found to make of them."""

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import text_subject
from torch import Tensor, nn

from project.data.corpora import TextCorpus
from project.data.loader import IGNORED
from project.data.text import TextData
from project.data.tokenization import BPETokenizer, ByteTokenizer, CharTokenizer, Tokenizer
from project.models.cnn import CausalCNN
from project.models.mlp import MLPLanguageModel
from project.models.rnn import RNNLanguageModel
from project.models.transformer import GPT, SinusoidalTransformer
from project.reporting.findings import Figures, Table
from project.reporting.subject import Subject
from project.reporting.text import (
    out_of_distribution,
    robustness,
    strange_texts,
    typed_contexts,
    typos,
)
from project.reporting.text.token_exchanges import (
    exchange_blocks,
    flip_estimates,
    likeliest_flips,
    random_flips,
)
from project.tasks.language_modeling import token_losses

WORDS = "The quick brown fox jumps over a lazy dog, and Zoë doesn't mind at all; 42 of them.\n"
NETWORKS: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (GPT, {"context_length": 32, "num_heads": 1}),
    (SinusoidalTransformer, {"context_length": 32, "num_heads": 1}),
    (RNNLanguageModel, {"cell": "lstm"}),
    (RNNLanguageModel, {"cell": "elman", "tied": False}),
    (CausalCNN, {}),
    (MLPLanguageModel, {}),
]


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network_of(cls: type[nn.Module], arguments: dict[str, Any], vocab_size: int) -> nn.Module:
    torch.manual_seed(0)
    network = cls(vocab_size=vocab_size, width=8, depth=2, **arguments).eval()
    for parameter in network.parameters():  # the output layers begin at 0, blocks as identities
        nn.init.normal_(parameter, std=0.3)
    return network


def subject_of(
    tmp_path: Path, cls: type[nn.Module], arguments: dict[str, Any], tokenizer: Tokenizer
) -> Subject:
    (tmp_path / "own.txt").write_text(60 * WORDS)
    data = TextData(
        TextCorpus(str(tmp_path / "own.txt")),
        tokenizer,
        context_length=32,
        test_fraction=0.4,
        root=str(tmp_path),
    )
    data.prepare_data()
    data.setup("test")
    return text_subject(network_of(cls, arguments, data.vocab_size), data, n=80, seed=2)


# Typos


@pytest.mark.parametrize("kind", typos.KINDS)
def test_typos_are_as_many_as_the_rate_says_and_the_same_again(kind: str) -> None:
    text = 300 * WORDS
    letters = sum(c.isalpha() for c in text)
    assert typos.typed(text, kind, 0.0, draws()) == text
    written = typos.typed(text, kind, 0.1, draws())
    assert (
        written == typos.typed(text, kind, 0.1, draws()) != typos.typed(text, kind, 0.1, draws(1))
    )
    if kind in ("insertion", "deletion"):
        made = abs(len(written) - len(text))
    else:
        assert len(written) == len(text)
        made = sum(a != b for a, b in zip(text, written, strict=True))
        if kind == "transposition":  # two letters each, and none at the end of a word
            made //= 2
            pairs = itertools.pairwise(text)
            letters = sum(a.isalpha() and b.isalpha() and a != b for a, b in pairs)
    spread = 5 * (letters * 0.1 * 0.9) ** 0.5
    fewer = 0.1 * letters * 0.1 if kind == "transposition" else 0  # swapped ones do not swap again
    assert 0.1 * letters - spread - fewer <= made <= 0.1 * letters + spread


@pytest.mark.parametrize("kind", typos.KINDS)
def test_typos_leave_all_but_letters_alone(kind: str) -> None:
    others = [c for c in typos.typed(5 * WORDS, kind, 1.0, draws()) if not c.isalpha()]
    assert others == [c for c in 5 * WORDS if not c.isalpha()]


def test_each_kind_of_typo_is_what_it_is_called() -> None:
    text, rate = 20 * WORDS, 0.3
    written = {kind: typos.typed(text, kind, rate, draws()) for kind in typos.KINDS}
    assert written["case"].lower() == text.lower() != written["case"]
    assert sorted(written["transposition"]) == sorted(text)
    assert len(written["deletion"]) < len(text) < len(written["insertion"])
    rest = iter(written["insertion"])
    assert all(c in rest for c in text)  # the text is still in there, in order
    rest = iter(text)
    assert all(c in rest for c in written["deletion"])
    for a, b in zip(text, written["substitution"], strict=True):
        assert a == b or b.lower() in typos.NEIGHBOURS.get(a.lower(), b.lower())
        assert a.isupper() == b.isupper() or a.lower() not in typos.NEIGHBOURS


def test_keys_touch_both_ways() -> None:
    assert set(typos.NEIGHBOURS["g"]) == set("fhtyvb")
    assert set(typos.NEIGHBOURS["q"]) == set("wa")
    assert set(typos.NEIGHBOURS["m"]) == set("njk")
    for key, near in typos.NEIGHBOURS.items():
        assert all(key in typos.NEIGHBOURS[other] for other in near)


@pytest.mark.parametrize("kind", typos.KINDS)
def test_typos_put_in_only_what_the_tokenizer_knows(kind: str) -> None:
    tokenizer = CharTokenizer()
    tokenizer.fit(["abc ABÄ xyz\n"])
    text = 50 * "abc ABÄ xyz\n"
    written = typos.typed(text, kind, 0.8, draws(), lambda c: not tokenizer.unknown(c))
    assert tokenizer.unknown(written) == ""
    assert written != text


def test_impossible_typos_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'spelling'.*substitution, deletion"):
        typos.typed("a", "spelling", 0.1, draws())
    with pytest.raises(ValueError, match=r"1.5.*\[0, 1\]"):
        typos.typed("a", "case", 1.5, draws())


# Exchanges of a token


def test_first_order_estimates_are_exact_where_the_loss_is_linear() -> None:
    class Linear(nn.Module):
        """Its loss, -logit + log-sum-exp, is linear in a logit that is far above or below all."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 3)
            self.direction = nn.Parameter(torch.randn(4, 3))

        def forward(self, tokens: Tensor) -> Tensor:
            told = (self.embedding(tokens[:, :4]) * self.direction).sum(dim=(1, 2))  # (B,)
            logits = torch.zeros(*tokens.shape, 2)
            logits[:, -1, 1] = 1000 + told
            return logits

    network = Linear()
    inputs = torch.randint(7, (3, 6))
    targets = torch.full((3, 6), IGNORED)
    targets[:, -1] = 0  # costs the logit of the other class
    estimates = flip_estimates(network, inputs, targets, 4)
    assert estimates.shape == (3, 4, 7)
    before = token_losses(network(inputs), targets).sum(dim=1)
    for b, t, v in itertools.product(range(3), range(4), range(7)):
        changed = inputs.clone()
        changed[b, t] = v
        harm = (token_losses(network(changed), targets).sum(dim=1) - before)[b]
        assert estimates[b, t, v].item() == pytest.approx(harm.item(), abs=2e-3)
    flips = likeliest_flips(network, inputs, targets, 4, torch.tensor([0, 2, 5]), 1)[0]
    for b in range(3):
        allowed = estimates[b][:, [0, 2, 5]].clone()
        allowed[inputs[b, :4, None] == torch.tensor([0, 2, 5])] = -torch.inf
        (place,) = (flips[b] != inputs[b]).nonzero().flatten().tolist()
        assert estimates[b, place, flips[b, place]] == allowed.max()
    best = inputs.clone()  # no exchange does harm: the least bad is found, not the same token
    best[:, :4] = estimates.argmax(dim=2)
    (flips,) = likeliest_flips(network, best, targets, 4, torch.arange(7), 1)
    assert (flips != best).sum(dim=1).tolist() == [1, 1, 1]


@pytest.mark.parametrize(("cls", "arguments"), NETWORKS)
def test_flips_change_one_token_of_the_context_in_every_network(cls, arguments) -> None:
    network = network_of(cls, arguments, 11)
    inputs, targets = torch.randint(3, 9, (4, 20)), torch.randint(11, (4, 20))
    targets[:, :11] = IGNORED
    tokens = torch.arange(3, 9)
    kept = {name: p.clone() for name, p in network.named_parameters()}
    for flips in (
        likeliest_flips(network, inputs, targets, 12, tokens, 5),
        random_flips(inputs, 12, tokens, 5, draws()),
    ):
        assert flips.shape == (5, 4, 20)
        is_changed = flips != inputs
        assert (is_changed.sum(dim=2) == 1).all()
        assert not is_changed[:, :, 12:].any()
        assert set(flips.unique().tolist()) <= set(tokens.tolist())
    assert all(torch.equal(kept[name], p) for name, p in network.named_parameters())
    assert all(not module._forward_hooks for module in network.modules())


def test_the_gradient_finds_worse_than_chance() -> None:
    network = network_of(GPT, {"context_length": 32, "num_heads": 1}, 11)
    inputs, targets = torch.randint(11, (30, 20)), torch.randint(11, (30, 20))
    targets[:, :11] = IGNORED

    def worst(flips: Tensor) -> float:
        with torch.no_grad():
            costs = torch.stack([token_losses(network(f), targets).sum(dim=1) for f in flips])
        return costs.max(dim=0).values.mean().item()

    tokens = torch.arange(11)
    by_gradient = worst(likeliest_flips(network, inputs, targets, 12, tokens, 8))
    at_random = worst(random_flips(inputs, 12, tokens, 8, draws()))
    assert by_gradient > at_random + 0.1


# What continuations cost


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer(), BPETokenizer(270)])
@pytest.mark.parametrize(("cls", "arguments"), NETWORKS)
def test_the_same_continuation_is_measured_after_every_context(
    tmp_path, cls, arguments, tokenizer
) -> None:
    subject = subject_of(tmp_path, cls, arguments, tokenizer)
    text = subject.text
    assert text is not None
    windows = typed_contexts.drawn_windows(subject, text, 8)
    assert windows is not None
    assert windows.continuations.shape == (8, 8)
    contexts = [c[-(3 + 2 * i) :] for i, c in enumerate(windows.contexts)]  # of many lengths
    found = typed_contexts.cost(text, windows, contexts)
    for i, (context, after) in enumerate(zip(contexts, windows.continuations, strict=True)):
        whole = torch.cat([torch.tensor(context.astype(np.int64)), after])
        with torch.no_grad():
            logits = subject.network(whole[None, :-1])[0]
        bits = F.cross_entropy(logits, whole[1:], reduction="none") / np.log(2)
        assert found.continuation[i].item() == pytest.approx(bits[-8:].sum().item(), rel=1e-4)
        assert found.context[i].item() == pytest.approx(bits[:-8].sum().item(), rel=1e-4)
        assert found.context_bytes[i] == text.byte_counts[whole[1:-8]].sum()
        rest = text.tokenizer.decode(after.tolist()).encode()
        assert text.byte_counts[after].sum() == windows.num_bytes[i]
        assert len(rest) == windows.num_bytes[i] or b"\xef\xbf\xbd" in rest


@pytest.mark.parametrize(("cls", "arguments"), NETWORKS)
def test_every_network_gets_through_both_sections(tmp_path, cls, arguments) -> None:
    tokenizers = (ByteTokenizer(), CharTokenizer(), BPETokenizer(270))
    tokenizer = tokenizers[[c for c, _ in NETWORKS].index(cls) % 3]
    subject = subject_of(tmp_path, cls, arguments, tokenizer)
    for module in (robustness, out_of_distribution):
        found = module.section(subject)
        assert found.mark in ("holds", "caution", "fails")
        assert len(found.verdict) < 350
        assert len({m.key for m in found.measures()}) == len(found.measures()) > 10
        values = [m.value for m in found.measures() if m.value is not None]
        assert np.isfinite(values).all()
        for table in [block for block in found.blocks if isinstance(block, Table)]:
            own = "_own" if "itself" in table.title else ""
            cells = [row[3].split()[0] for row in table.rows if row[0] != "None"]
            expected = [found.measure(f"{kind}_5{own}").value for kind in typos.KINDS]
            assert [float(cell) for cell in cells] == pytest.approx(expected, abs=6e-4)
        assert len(values) == len(found.measures())


def test_sections_are_a_function_of_the_seed(tmp_path) -> None:
    subject = subject_of(tmp_path, CausalCNN, {}, ByteTokenizer())
    for module in (robustness, out_of_distribution):
        first, again = (module.section(subject).measures() for _ in range(2))
        assert first == again
        subject.seed += 1
        assert [m.value for m in module.section(subject).measures()] != [m.value for m in first]


def test_a_network_that_reads_only_the_last_token_is_not_harmed_by_typos(tmp_path) -> None:
    """The last letter of a context is the one exception, and it is a space or newline here."""
    subject = subject_of(tmp_path, CausalCNN, {}, ByteTokenizer())

    class Bigram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(256, 256)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.embedding(tokens)

    assert subject.text is not None
    subject.network = subject.text.network = Bigram()
    windows = typed_contexts.drawn_windows(subject, subject.text, 8)
    assert windows is not None
    windows.texts = [piece[:-1] + "\n" for piece in windows.texts]
    windows.contexts = [subject.text.tokenizer.encode(piece) for piece in windows.texts]
    clean = typed_contexts.cost(subject.text, windows, windows.contexts)
    alone = typed_contexts.cost(subject.text, windows, [c[-1:] for c in windows.contexts])
    costs, num_cut = typed_contexts.typed_costs(subject, subject.text, windows)
    assert num_cut == 0
    assert len(costs) == 25
    for after in (alone, *costs.values()):
        torch.testing.assert_close(after.continuation, clean.continuation)
    worth = robustness.difference("worth", "", alone, clean, 0)
    assert robustness.share_lost(alone, clean, worth) is None  # it is worth nothing
    for kind in typos.KINDS:  # whereas the typed text itself is another one
        assert not torch.equal(costs[kind, 0.2].context, clean.context)
    (figures, passage), told = exchange_blocks(
        subject, subject.text, windows.contexts, windows.continuations, windows.num_bytes
    )
    assert isinstance(figures, Figures)
    drawn, worst_drawn, found = (m.value or 0.0 for m in figures.measures)
    assert found > 0.1  # the last token of the context, whose successor is counted
    assert found >= worst_drawn >= drawn
    assert re.search(r"-> .\]\|", str(getattr(passage, "text", "")), re.DOTALL)
    assert "A single token of 16" in told


# Strange texts


def test_texts_are_changed_as_they_are_called() -> None:
    text = " one two\tthree\n\nfour  "
    words = strange_texts.words_shuffled(text, draws(1))
    assert sorted(words.split()) == sorted(text.split())
    assert words != text
    assert [c for c in words if c.isspace()] == [c for c in text if c.isspace()]
    letters = strange_texts.shuffled(text, draws())
    assert sorted(letters) == sorted(text)
    assert letters != text


def test_windows_do_not_overlap_and_lie_anywhere(tmp_path) -> None:
    subject = subject_of(tmp_path, CausalCNN, {}, ByteTokenizer())
    assert subject.text is not None
    tokens = subject.text.tokens("test")
    seen = set()
    for seed in range(6):
        batch = subject.text.windows("test", 10_000, draws(seed))
        assert batch.starts is not None
        starts = sorted(batch.starts.tolist())
        assert len(starts) == (len(tokens) - 1) // 32
        assert (np.diff(starts) == 32).all()
        assert starts[-1] + 32 < len(tokens)
        seen.add(starts[0])
        rows, first = strange_texts.whole_rows(batch), int(batch.starts[3])
        assert rows[3].tolist() == tokens[first : first + 33].tolist()
    assert len(seen) > 1
    few = subject.text.windows("test", 5, draws()).starts
    assert few is not None
    assert len(set(few.tolist())) == 5
    near = subject.text.windows("test", 10_000, draws(), apart=5).starts
    assert near is not None
    assert (near.sort().values.diff() == 5).all()
    assert len(near) == (len(tokens) - 1 - 32) // 5 + 1
    whole = subject.text.windows("test", 9, draws(), length=10**6)
    assert whole.starts.tolist() == [0]
    assert whole.targets.shape == (1, len(tokens) - 1)


def test_a_short_row_counts_no_more_than_it_has() -> None:
    batch = strange_texts.windows_of([[1, 2, 3], [4, 5, 6, 7, 8, 9]], 4)
    assert batch.inputs.tolist() == [[1, 2, 3, 0], [4, 5, 6, 7]]
    assert batch.targets.tolist() == [[2, 3, IGNORED, IGNORED], [5, 6, 7, 8]]


def test_the_length_of_a_window_does_not_make_it_strange(tmp_path) -> None:
    subject = subject_of(tmp_path, CausalCNN, {}, ByteTokenizer())
    text = subject.text
    assert text is not None
    text.network = lambda tokens: torch.zeros(*tokens.shape, 256)
    batch = strange_texts.windows_of([list(range(3)), list(range(20))], 19)
    kind = out_of_distribution.Kind("key", "title", batch).read(text)
    assert kind.losses.tolist() == pytest.approx([8, 8])  # bits per byte, of 256 equal chances
    assert kind.bits_per_byte == pytest.approx(8)


@pytest.mark.parametrize("knows", [True, False])
def test_what_a_planted_model_knows_is_found(tmp_path, knows: bool) -> None:
    subject = subject_of(tmp_path, CausalCNN, {}, ByteTokenizer())
    assert subject.text is not None
    pairs = torch.zeros(256, 256)
    tokens = torch.from_numpy(subject.text.tokens("train").astype(np.int64))
    pairs[tokens[:-1], tokens[1:]] = 8.0 if knows else -8.0

    class Pairs(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return pairs[tokens]

    subject.network = subject.text.network = Pairs()
    found = out_of_distribution.section(subject)
    for key in ("characters", "reversed", "random", "python_source", "python_docs"):
        measure = found.measure(f"{key}_auroc")
        assert measure is not None, key
        assert measure.value == float(knows), key
    assert knows or found.mark == "fails"


def test_too_short_a_text_is_not_run(tmp_path) -> None:
    subject = subject_of(tmp_path, CausalCNN, {}, ByteTokenizer())
    assert subject.text is not None
    subject.text.data.splits["test"] = subject.text.tokens("test")[:30]
    for module in (robustness, out_of_distribution):
        found = module.section(subject)
        assert found.mark == "not run"
        assert "two windows" in found.verdict
