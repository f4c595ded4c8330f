"""What is told of a language model: its loss and rivals, where it loses, what it copies."""

import lzma
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from project.data.corpora import PythonDocs, TextCorpus
from project.data.text import TextData
from project.data.tokenization import BPETokenizer, CharTokenizer
from project.models.rnn import RNNLanguageModel
from project.models.transformer import GPT, SinusoidalTransformer
from project.reporting.findings import Measure
from project.reporting.subject import Subject
from project.reporting.text import calibration, performance
from project.reporting.text.baselines import compressed_bits, ngram_losses
from project.reporting.text.copying import Copying, copying
from project.reporting.text.losses import KINDS, kinds, loss_by
from project.reporting.text.memorisation import (
    copied_bytes,
    longest_copy,
    reproduced_tokens,
    spans_found,
)
from project.reporting.text.opened import Text
from project.tasks.language_modeling import LanguageModeling
from project.tasks.sampling import generate


def some_tokens(n: int, vocab_size: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocab_size, n)


def witten_bell(train: list[int], history: tuple[int, ...], token: int, vocab_size: int) -> float:
    """The formula as it is written, for one history."""
    m = len(history)
    after = [train[i] for i in range(m, len(train)) if tuple(train[i - m : i]) == history]
    shorter = witten_bell(train, history[1:], token, vocab_size) if m else 1 / vocab_size
    if not after:
        return shorter
    counts = Counter(after)
    return (counts[token] + len(counts) * shorter) / (len(after) + len(counts))


def test_ngrams_are_those_of_the_formula() -> None:
    train, test = some_tokens(60), some_tokens(25, seed=1)
    losses = ngram_losses(train, test, 3, 4)
    for m in range(4):
        for i, token in enumerate(test.tolist()):
            history = tuple(test[max(0, i - m) : i].tolist())
            expected = -np.log(witten_bell(train.tolist(), history, token, 3))
            assert losses[m, i] == pytest.approx(expected)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_ngram_probabilities_sum_to_one(order: int) -> None:
    """Also after a history that was never seen, and of a token that was not."""
    vocab_size, train = 5, some_tokens(40, 3)
    for history in ([0, 1, 0, 2], [4, 4, 4, 4], [2, 4, 1, 0]):
        each = [[*history, token] for token in range(vocab_size)]
        shares = [
            np.exp(-ngram_losses(train, np.array(t), vocab_size, order)[-1, -1]) for t in each
        ]
        assert sum(shares) == pytest.approx(1)
        assert min(shares) > 0


def test_compressor_pays_little_for_what_it_has_read() -> None:
    new, known = some_tokens(2000, 200).astype(np.uint8).tobytes(), bytes(range(256)) * 10
    assert compressed_bits(new + known, new) < 1
    assert compressed_bits(known, new) == pytest.approx(8 * len(lzma.compress(new)) / 2000, rel=0.1)


def letters(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def test_spans_and_the_longest_are_found_as_by_looking_at_each() -> None:
    draw = np.random.default_rng(0)
    for _ in range(60):
        alphabet = list("abcde"[: draw.integers(1, 5)])
        train = "".join(draw.choice(alphabet, draw.integers(1, 60)))
        texts = ["".join(draw.choice(alphabet, draw.integers(1, 30))) for _ in range(3)]
        arrays = [letters(text) for text in texts]
        cuts = sorted(draw.integers(0, len(train) + 1, 3).tolist())
        pieces = [letters(train[i:j]) for i, j in zip([0, *cuts], [*cuts, None], strict=True)]
        for length in (1, 2, 5, 9):
            found = spans_found(pieces, arrays, length)
            copied = copied_bytes(pieces, arrays, length)
            for there, covered, text in zip(found, copied, texts, strict=True):
                spans = [text[i : i + length] for i in range(len(text) - length + 1)]
                assert there.tolist() == [span in train for span in spans]
                assert covered.tolist() == [
                    any(spans[j] in train for j in range(max(0, i - length + 1), i + 1)
                        if j < len(spans))
                    for i in range(len(text))
                ]  # fmt: skip
        length, number, place = longest_copy(pieces, arrays)
        assert texts[number][place : place + length] in train
        assert not any(
            text[i : i + length + 1] in train for text in texts for i in range(len(text) - length)
        )


def test_a_long_span_is_found_wherever_the_text_is_cut() -> None:
    train = "the cat sat on the mat and the rat sat on the cat"
    text = letters("a dog sat on the mat and slept")
    for size in (1, 7, 100):
        pieces = [letters(train[i : i + size]) for i in range(0, len(train), size)]
        assert longest_copy(pieces, [text])[0] == len(" sat on the mat and ")


def test_a_text_that_is_shorter_than_a_span_has_none() -> None:
    train, short, text = (letters(t) for t in ("abcdefgh", "cd", "xcdez"))
    found = spans_found([train], [short, text, short], 3)
    assert [there.tolist() for there in found] == [[], [False, True, False], []]
    assert [len(there) for there in spans_found([train], [short], 50)] == [0]
    assert [there.tolist() for there in spans_found([], [text], 3)] == [3 * [False]]


def test_nothing_is_copied_where_no_letter_is_shared() -> None:
    assert longest_copy([letters("abc")], [letters("xyz")]) == (0, 0, 0)


class Follows(nn.Module):
    """Says that t + 1 follows t modulo 10, but a wrong token after `wrong`."""

    def __init__(self, wrong: int = -1) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, tokens: Tensor) -> Tensor:
        following = (tokens + 1 + 5 * (tokens == self.wrong)) % 10
        logits = nn.functional.one_hot(following, 12).float()
        logits[..., 11] = 2.0  # of a token that the tokenizer does not have
        return logits


@pytest.mark.parametrize("wrong", [-1, 7, 3])
def test_one_reading_counts_what_greedy_decoding_reproduces(wrong: int) -> None:
    network, prompt = Follows(wrong), 4
    text = (torch.arange(13) + torch.arange(3)[:, None]) % 10
    counted = reproduced_tokens(network, text[:, :-1], text[:, 1:], prompt, 10)
    steps = list(generate(network, text[:, :prompt], 9, temperature=0, vocab_size=10))
    written, truth = torch.stack(steps, dim=1), text[:, prompt:]
    for row, (wrote, true) in enumerate(zip(written.tolist(), truth.tolist(), strict=True)):
        agree = [a == b for a, b in zip(wrote, true, strict=True)]
        assert counted[row] == (agree.index(False) if False in agree else 9)


def test_kinds_of_bytes_and_of_longer_tokens() -> None:
    vocabulary = [bytes([value]) for value in range(256)]
    tokens = torch.tensor(list("x = a1b\n (Né".encode()))
    names = [KINDS[kind] for kind in kinds(vocabulary, tokens).tolist()]
    assert names == [
        "space", "punctuation", "space", "first letter of a word", "digit",
        "first letter of a word", "line break", "space", "punctuation", "first letter of a word",
        "other", "other",
    ]  # fmt: skip
    longer = [b"the", b" cat", b"s", b" 12", b"\n\n"]
    found = kinds(longer, torch.tensor([0, 1, 2, 3, 4, 0]))
    assert [KINDS[kind] for kind in found.tolist()] == [
        "first letter of a word", "letter within a word", "digit", "line break",
        "first letter of a word",
    ]  # fmt: skip


def test_shares_of_the_loss_add_up() -> None:
    losses, groups = torch.rand(100), torch.arange(100) % 3
    found = loss_by(groups, losses, torch.arange(100) // 10)
    assert sum(loss.n for loss in found.values()) == 100
    assert sum(loss.share for loss in found.values()) == pytest.approx(1)
    assert found[2].mean == pytest.approx(losses[groups == 2].mean().item())


def with_its_test(network: nn.Module, data: TextData) -> tuple[Subject, LanguageModeling]:
    """A network as it is, with the record of its test."""
    task = LanguageModeling(network)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.test(task, datamodule=data, verbose=False)
    data.trainer = None
    task.eval()
    run = Path("/nowhere")
    record = {
        "metrics": {"test": task.measured},
        "best_checkpoint": "best.ckpt",
        "data": {"sha256": data.info["sha256"]},
    }
    device = torch.device("cpu")
    subject = Subject(run, run / "best.ckpt", {}, record, task, network, data, device, n=20)
    subject.text = Text(task, data, device)
    return subject, task


def shaken(network: nn.Module) -> nn.Module:
    """Not all logits 0, as they are at first."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def own_text(**options) -> TextData:
    lines = [f"the cat {i} sat on the mat of the rat {i * i % 97}, naïve\n" for i in range(300)]
    lines[::5] = ["this line of sixty characters is there again and again and again\n"] * 60
    Path("text.txt").write_text("".join(lines))
    return TextData(TextCorpus("text.txt"), context_length=16, cache_dir="cache", **options)


@pytest.mark.parametrize("streams", [False, True])
def test_losses_windows_and_intervals_are_those_of_the_test(streams: bool) -> None:
    data = TextData(
        PythonDocs(), context_length=50, eval_batch_size=7, streams=streams, test_fraction=0.01,
        cache_dir="cache",
    )  # fmt: skip
    network = RNNLanguageModel(256, width=8) if streams else GPT(256, 50, 16, 1, 2)
    subject, task = with_its_test(shaken(network), data)
    text = subject.text
    losses = text.losses("test")
    assert torch.allclose(losses, task.outcomes["losses"], atol=1e-5)
    windows, read = text.windows_read("test")
    results = performance.results_of(text, "test", losses, windows)
    for name, figure in task.measured.items():
        assert results[name]["value"] == pytest.approx(figure["value"], rel=1e-5)
        assert results[name]["interval_95"] == pytest.approx(figure["interval_95"], rel=1e-4)
    assert results["loss"]["windows"] == task.measured["loss"]["windows"]
    if streams:  # read on from window to window: 7 streams of equal length
        length = -(-len(losses) // 7)
        assert read.tolist() == [1 + i % length for i in range(len(losses))]
    else:
        assert read.tolist() == [1 + i % 50 for i in range(len(losses))]
    assert "a difference of" in performance.compared(subject, text, "test", results)


def test_readings_visit_each_token_once_with_its_own_logits() -> None:
    subject, _ = with_its_test(shaken(GPT(256, 16, 16, 1, 2)), own_text())
    text = subject.text
    visited = torch.cat([places for _, _, places in text.readings("test")])
    assert sorted(visited.tolist()) == list(range(len(text.tokens("test")) - 1))
    for logits, targets, places in text.readings("test"):
        assert targets.tolist() == [int(text.tokens("test")[place + 1]) for place in places]
        assert logits.shape == (len(targets), 256)


@pytest.mark.parametrize("name", ["bytes", "characters", "pieces"])
def test_the_whole_section_of_each_tokenizer_and_kind_of_network(name: str) -> None:
    tokenizers = {"bytes": None, "characters": CharTokenizer(), "pieces": BPETokenizer(300)}
    data = own_text(tokenizer=tokenizers[name], streams=name == "characters")
    data.prepare_data()
    data.setup("test")
    size = data.vocab_size
    network = {
        "bytes": lambda: GPT(size, 16, 16, 1, 2),
        "characters": lambda: RNNLanguageModel(size, width=8),
        "pieces": lambda: SinusoidalTransformer(size + 3, 16, 16, 1, 2),  # has no `extend`
    }[name]()
    subject, task = with_its_test(shaken(network), data)
    section = performance.section(subject)
    assert section.mark == "fails"  # it has learnt nothing
    assert "no less than counting" in section.verdict
    assert len(section.verdict) < 350
    keys = [measure.key for measure in section.measures()]
    assert len(keys) == len(set(keys))
    assert section.measure("bits_per_byte").value == pytest.approx(
        task.measured["bits_per_byte"]["value"], rel=1e-5
    )
    repeated, new = section.measure("bits_repeated"), section.measure("bits_new")
    assert 0 < repeated.n < repeated.n + new.n == section.measure("loss").n
    if name == "bytes":
        train, test = (bytes(data.splits[split]) for split in ("train", "test"))
        starts = [i for i in range(len(test) - 49) if test[i : i + 50] in train]
        copied = {place - 1 for start in starts for place in range(start, start + 50)} - {-1}
        bits = subject.text.losses("test")[sorted(copied)].mean().item() / np.log(2)
        assert (repeated.n, repeated.value) == (len(copied), pytest.approx(bits, rel=1e-5))
    assert section.measure("compressor").value < section.measure("ngram_1").value
    confident = calibration.section(subject)
    loss = task.measured["loss"]["value"]
    assert confident.measure("nll").value == pytest.approx(loss, rel=1e-5)
    assert confident.measure("temperature").value > 1.0  # its noise is worth nothing
    assert confident.measure("top_1").value <= confident.measure("top_5").value


@pytest.mark.parametrize(
    ("better", "compressor", "copies", "extracts", "mark"),
    [
        ((0.1, 0.2), 2.0, False, False, "holds"),
        ((-0.1, 0.2), 2.0, False, False, "fails"),
        ((0.1, 0.2), 1.4, False, False, "caution"),
        ((0.1, 0.2), 2.0, True, False, "caution"),
        ((0.1, 0.2), 2.0, False, True, "caution"),
    ],
)
def test_the_mark_is_that_of_the_rule(better, compressor, copies, extracts, mark) -> None:
    measures = {
        "bits_per_byte": Measure("bits_per_byte", "", 1.5, "bits/byte", 9, (1.4, 1.6)),
        "ngram_1": Measure("ngram_1", "", 1.65, "bits/byte", 9, (1.6, 1.7)),
        "better": Measure("better", "", 0.15, "bits/byte", 9, better),
        "compressor": Measure("compressor", "", compressor, "bits/byte", 9, how="one"),
    }
    found = Copying([], copies, extracts)
    assert performance.mark_of(measures, found) == mark
    told = performance.verdict_of(measures, found, "test")
    assert ("no less than counting" in told) == (mark == "fails")
    assert ("needs only" in told) == (compressor < 1.5)
    assert ("No sign" in told) == (not copies and not extracts)


class Reciter(nn.Module):
    """Knows a text by heart: after its last tokens it says what follows them there."""

    def __init__(self, text: Any) -> None:
        super().__init__()
        self.text, self.context_length = text.astype(np.uint8).tobytes(), 16
        self.known: dict[bytes, int] = {}

    def following(self, context: bytes) -> int:
        """The byte after the longest end of the context that is in the text."""
        if context not in self.known:
            ends = (context[i:] for i in range(len(context)))
            end = next((e for e in ends if e in self.text[:-1]), b"")
            self.known[context] = self.text[self.text.find(end) + len(end)]
        return self.known[context]

    def forward(self, tokens: Tensor) -> Tensor:
        lines = [bytes(line) for line in tokens.tolist()]
        said = [
            [self.following(line[max(0, i - 7) : i + 1]) for i in range(len(line))]
            for line in lines
        ]
        return 20.0 * nn.functional.one_hot(torch.tensor(said), 256).float()


@pytest.mark.filterwarnings("ignore:checkpoints will be without")
def test_a_network_that_recites_is_found_out() -> None:
    draw = np.random.default_rng(0)
    words = ["".join(draw.choice(list("abcdefghijklmnop"), 5)) for _ in range(1500)]
    Path("text.txt").write_text(" ".join(words))
    data = TextData(TextCorpus("text.txt"), context_length=16, cache_dir="cache")
    data.prepare_data()
    data.setup("test")
    heart = Reciter(data.splits["train"])
    subject, _ = with_its_test(heart, data)
    found = copying(subject, subject.text, "test")
    measures = {m.key: m for block in found.blocks for m in getattr(block, "measures", [])}
    assert found.extracts_more
    assert found.copies_more
    assert measures["extracted"].value > 0.9
    assert measures["extracted_control"].value == 0.0
    assert measures["copied_real"].value == 0.0
    assert measures["longest_t1.0"].value > 50
