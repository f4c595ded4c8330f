"""Loss, metrics, accumulation and carried state of `LanguageModeling`, against counts by hand."""

import functools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import quiet_trainer, ready, text_data
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from project.data.corpora import PythonDocs
from project.data.loader import IGNORED
from project.data.text import TextData, TokenBatch
from project.data.tokenization import BPETokenizer, CharTokenizer
from project.models.mlp import MLPLanguageModel
from project.models.rnn import RNNLanguageModel
from project.models.transformer import GPT
from project.tasks.language_modeling import LanguageModeling
from project.tracking.metrics_file import MetricsFile

SENTENCE = "It was the best of times, it was the worst of times.\n"


def small_data(folder: Path, tokenizer=None, **options) -> TextData:
    options = {"context_length": 16, "batch_size": 4, "eval_batch_size": 7, **options}
    return text_data(folder, SENTENCE * 60, tokenizer, seed=0, **options)


def small_rnn(**options) -> RNNLanguageModel:
    torch.manual_seed(0)
    network = RNNLanguageModel(width=16, depth=1, **options)
    assert network.gain is not None
    nn.init.normal_(network.gain)
    return network


def small_mlp(**options) -> MLPLanguageModel:
    torch.manual_seed(0)
    network = MLPLanguageModel(width=16, features=8, history=4, **options)
    nn.init.normal_(network.head.weight, std=0.1)
    return network


class Uniform(nn.Module):
    """Every token is as likely as another."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.scale.expand(*tokens.shape, self.vocab_size)


# Evaluation


@pytest.mark.parametrize("streams", [False, True])
def test_metrics_equal_those_by_hand_over_all_tokens(tmp_path, streams) -> None:
    task, data = LanguageModeling(small_rnn()), small_data(tmp_path, streams=streams)
    (logged,) = quiet_trainer(tmp_path).test(task, data, verbose=False)
    tokens = torch.from_numpy(data.splits["test"].astype("int64"))
    with torch.no_grad():
        if streams:  # seven streams, each read from its beginning to its end
            rows = [tokens[i : i + 24] for i in range(0, len(tokens) - 1, 23)]
        else:
            rows = [tokens[i : i + 17] for i in range(0, len(tokens) - 1, 16)]
        loss_sum = sum(
            F.cross_entropy(task(row[None, :-1])[0], row[1:], reduction="sum").item()
            for row in rows
        )
    assert len(tokens) - 1 == sum(len(row) - 1 for row in rows)
    loss = loss_sum / (len(tokens) - 1)
    assert logged["test/loss"] == pytest.approx(loss, rel=1e-5)
    assert logged["test/perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert logged["test/bits_per_byte"] == pytest.approx(loss / math.log(2), rel=1e-5)
    assert task.measured["loss"]["count"] == len(tokens) - 1
    low, high = task.measured["loss"]["interval_95"]
    assert low < loss < high


@pytest.mark.parametrize("tokenizer", [CharTokenizer(), BPETokenizer(300)])
def test_bits_per_byte_compare_tokenizers(tmp_path, tokenizer) -> None:
    data = ready(small_data(tmp_path, tokenizer))
    task = LanguageModeling(Uniform(data.vocab_size))
    (logged,) = quiet_trainer(tmp_path).test(task, data, verbose=False)
    tokens = data.splits["test"]
    num_bytes = len(data.tokenizer.decode(tokens[1:].tolist()).encode())
    bits = (len(tokens) - 1) * math.log2(data.vocab_size)
    assert logged["test/loss"] == pytest.approx(math.log(data.vocab_size), rel=1e-6)
    assert logged["test/bits_per_byte"] == pytest.approx(bits / num_bytes, rel=1e-6)


def test_unknown_characters_cost_bits_and_count_as_no_bytes(tmp_path) -> None:
    text, shares = "abab" * 200 + "abXX" * 10, {"val_fraction": 40 / 840, "test_fraction": 0.0}
    data = text_data(tmp_path, text, CharTokenizer(), **shares)
    (logged,) = quiet_trainer(tmp_path).validate(LanguageModeling(Uniform(3)), data, verbose=False)
    assert logged["val/bits_per_byte"] == pytest.approx(39 * math.log2(3) / 19, rel=1e-6)


def test_random_windows_are_measured_by_validate_as_by_hand(tmp_path) -> None:
    task, data = LanguageModeling(small_mlp()), small_data(tmp_path)
    (logged,) = quiet_trainer(tmp_path).validate(task, data, verbose=False)
    with torch.no_grad():
        losses = [
            F.cross_entropy(task(batch.inputs).flatten(0, 1), batch.targets.flatten()).item()
            for batch in data.random_windows("val", 200)
        ]
    assert logged["val/loss_random_windows"] == pytest.approx(sum(losses) / 200, rel=1e-5)
    assert logged["val/loss_random_windows"] != pytest.approx(logged["val/loss"], rel=1e-6)


# Accumulation


def batches_of(tokens: Tensor, size: int, ignored: Tensor | None = None) -> list[TokenBatch]:
    targets = tokens[:, 1:].clone()
    if ignored is not None:
        targets[ignored] = IGNORED
    return [
        TokenBatch(inputs, target, False)
        for inputs, target in zip(tokens[:, :-1].split(size), targets.split(size), strict=True)
    ]


def trained(path: Path, batches: list[TokenBatch], **options) -> tuple[Tensor, Trainer]:
    task = LanguageModeling(small_mlp(), optimizer=functools.partial(torch.optim.SGD, lr=1.0))
    trainer = quiet_trainer(path, max_epochs=1, **options)
    trainer.fit(task, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return torch.cat([p.detach().flatten() for p in task.parameters()]), trainer


def test_one_batch_of_64_equals_four_of_16_accumulated(tmp_path) -> None:
    tokens = torch.randint(0, 256, (64, 9))
    whole, _ = trained(tmp_path, batches_of(tokens, 64))
    parts, trainer = trained(tmp_path, batches_of(tokens, 16), accumulate_grad_batches=4)
    assert trainer.global_step == 1
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_accumulation_is_weighted_by_tokens_and_the_clip_comes_after(tmp_path) -> None:
    tokens = torch.randint(0, 256, (64, 9))
    ignored = torch.rand(64, 8) < torch.linspace(0, 0.95, 64)[:, None]
    for clip in (None, 0.01):
        options = {"gradient_clip_val": clip}
        whole, _ = trained(tmp_path, batches_of(tokens, 64, ignored), **options)
        parts, _ = trained(
            tmp_path, batches_of(tokens, 16, ignored), accumulate_grad_batches=4, **options
        )
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_the_last_accumulation_of_an_epoch_may_be_short(tmp_path) -> None:
    tokens = torch.randint(0, 256, (48, 9))
    whole, _ = trained(tmp_path, batches_of(tokens, 48))
    parts, trainer = trained(tmp_path, batches_of(tokens, 16), accumulate_grad_batches=8)
    assert trainer.global_step == 1
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


# State


class Spy(RNNLanguageModel):
    """Remembers the states it was given and gave."""

    def __init__(self) -> None:
        super().__init__(width=8, depth=1)
        self.given: list[list[Tensor] | None] = []
        self.gave: list[list[Tensor]] = []

    def extend(self, tokens, state=None):
        logits, after = super().extend(tokens, state)
        self.given.append(state)
        self.gave.append(after)
        return logits, after


def test_state_is_carried_detached_and_reset_where_streams_begin(tmp_path) -> None:
    network, data = Spy(), small_data(tmp_path, streams=True)
    task = LanguageModeling(network, sample_tokens=0)
    quiet_trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(task, data)
    per_epoch = len(network.given) // 2
    assert per_epoch > 10
    for k, state in enumerate(network.given):
        if k % per_epoch == 0:
            assert state is None
        else:
            assert state is not None
            assert torch.equal(state[0], network.gave[k - 1][0])
            assert not state[0].requires_grad
            assert network.gave[k - 1][0].requires_grad


def test_validation_in_mid_epoch_leaves_training_alone(tmp_path) -> None:
    weights = []
    for interval in (None, 3):
        task = LanguageModeling(small_rnn(dropout=0.2), sample_tokens=5)
        data = small_data(tmp_path, streams=True)
        options = {"limit_val_batches": 0} if interval is None else {"val_check_interval": interval}
        torch.manual_seed(1)
        trainer = quiet_trainer(
            tmp_path, max_epochs=2, logger=CSVLogger(tmp_path), log_every_n_steps=1, **options
        )
        trainer.fit(task, data)
        weights.append(torch.cat([p.detach().flatten() for p in task.parameters()]))
    assert torch.equal(*weights)


def test_windows_are_each_read_from_an_empty_state(tmp_path) -> None:
    network = Spy()
    task = LanguageModeling(network, sample_tokens=0)
    quiet_trainer(tmp_path, max_epochs=1).fit(task, small_data(tmp_path, streams=False))
    assert network.given
    assert all(state is None for state in network.given)


# Before and beside training


def test_network_for_other_data_is_refused_with_the_flags_to_set(tmp_path) -> None:
    data = ready(small_data(tmp_path))
    message = (
        r"GPT was built for vocab_size 65, context_length 8, but the data have vocab_size 256, "
        r"context_length 16; set --model.network.vocab_size 256 --model.network.context_length 16"
    )
    with pytest.raises(ValueError, match=message):
        LanguageModeling(GPT(65, context_length=8)).check_data(data)
    LanguageModeling(GPT(300, context_length=16)).check_data(data)
    LanguageModeling(small_rnn()).check_data(data)  # has no end to its context


def test_a_sample_is_written_at_each_validation(tmp_path) -> None:
    task = LanguageModeling(small_mlp(), sample_prompt="It was", sample_tokens=20)
    logger = MetricsFile(tmp_path / "log")
    trainer = quiet_trainer(
        tmp_path,
        max_steps=9,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        log_every_n_steps=3,
        logger=logger,
        num_sanity_val_steps=2,  # which write none
    )
    trainer.fit(task, small_data(tmp_path))
    written = (tmp_path / "log" / "samples.txt").read_text(encoding="utf-8")
    steps = [line for line in written.splitlines() if line.startswith("--- step")]
    assert steps == ["--- step 3", "--- step 6", "--- step 9"]
    assert written.count("It was|") == 3


def test_logits_that_are_not_finite_do_not_stop_the_training_by_the_sample(tmp_path) -> None:
    network = small_mlp()
    nn.init.constant_(network.head.weight, torch.nan)
    logger = MetricsFile(tmp_path / "log")
    trainer = quiet_trainer(tmp_path, max_steps=2, val_check_interval=2, logger=logger)
    trainer.fit(LanguageModeling(network), small_data(tmp_path))
    assert trainer.global_step == 2
    assert "(no sample: the network's logits are not finite" in (
        tmp_path / "log" / "samples.txt"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("prompt", "message"), [("", "has no tokens"), ("\u00e9", "has '\u00e9', which is not among")]
)
def test_a_prompt_that_cannot_be_is_refused_before_the_training(tmp_path, prompt, message) -> None:
    data = ready(small_data(tmp_path, CharTokenizer()))
    with pytest.raises(ValueError, match=f"--model.sample_prompt: the prompt {message}"):
        LanguageModeling(small_mlp(), sample_prompt=prompt).check_data(data)


def test_a_larger_vocabulary_than_the_data_have_is_never_sampled(tmp_path) -> None:
    data = small_data(tmp_path, CharTokenizer())
    task = LanguageModeling(small_mlp(), sample_tokens=100)
    trainer = quiet_trainer(tmp_path, max_epochs=1, logger=MetricsFile(tmp_path / "log"))
    trainer.fit(task, data)
    assert "|" in (tmp_path / "log" / "samples.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("streams", [False, True])
def test_predict_gives_the_loss_of_each_token(tmp_path, streams) -> None:
    task, data = LanguageModeling(small_rnn()), small_data(tmp_path, streams=streams)
    losses = torch.cat(quiet_trainer(tmp_path).predict(task, data))  # type: ignore[arg-type]
    (logged,) = quiet_trainer(tmp_path).test(task, data, verbose=False)
    count = len(data.splits["test"]) - 1
    assert losses.sum().item() / count == pytest.approx(logged["test/loss"], rel=1e-5)


def test_training_learns_the_embedded_docs(tmp_path) -> None:
    """A real text, a few seconds: far below the entropy of single bytes, 3.2 nats."""
    data = TextData(PythonDocs(), context_length=32, batch_size=16, cache_dir=str(tmp_path))
    task = LanguageModeling(
        MLPLanguageModel(width=64, features=16, history=4),
        optimizer=functools.partial(torch.optim.AdamW, lr=5e-3),
        sample_tokens=0,
    )
    trainer = quiet_trainer(tmp_path, max_steps=200, limit_val_batches=0)
    trainer.fit(task, data)
    (logged,) = trainer.test(task, data, verbose=False)
    assert 1.5 < logged["test/loss"] < 2.6
