"""Batches of text: what follows what, and that every token is counted once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ready, text_data
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer as LightningTrainer

from project.data.cleaning import Cleaning
from project.data.corpora import PythonDocs, TextCorpus
from project.data.loader import IGNORED
from project.data.text import Streams, TextData, Windows, take_windows
from project.data.tokenization import BPETokenizer, ByteTokenizer, CharTokenizer


def numbered(folder: Path, num_tokens: int = 1000, **options) -> TextData:
    """Data whose token at place i of the text is i + 1, so that a batch shows where it is from."""
    paths = [str(folder / f"{split}.txt") for split in ("train", "val", "test")]
    for path in paths:
        text = "".join(chr(0x4E00 + i) for i in range(num_tokens))
        Path(path).write_text(text, encoding="utf-8")
    options = {
        "val_fraction": 0.0,
        "test_fraction": 0.0,
        "context_length": 8,
        "batch_size": 4,
        **options,
    }
    corpus = TextCorpus(*paths)
    cache = str(folder / "cache")
    return ready(TextData(corpus, CharTokenizer(), cache_dir=cache, seed=0, **options))


def counted(batches) -> list[int]:
    """Return every target that counts, in the order of the batches."""
    return [t for batch in batches for t in batch.targets[batch.targets != IGNORED].tolist()]


both_ways = pytest.mark.parametrize("streams", [False, True], ids=["windows", "streams"])


@both_ways
@pytest.mark.parametrize("split", ["train", "val"])
def test_targets_are_inputs_one_step_later(tmp_path, streams, split) -> None:
    data = numbered(tmp_path, streams=streams, batch_size=4, eval_batch_size=6)
    for inputs, targets, *_ in getattr(data, f"{split}_dataloader")():
        is_counted = targets != IGNORED
        assert (targets == inputs + 1)[is_counted].all()
        assert torch.equal(targets[:, :-1][is_counted[:, 1:]], inputs[:, 1:][is_counted[:, 1:]])
        assert inputs.dtype == targets.dtype == torch.int64
        if split == "train":
            assert is_counted.all()
            assert inputs.shape == (4, 8)


@both_ways
@settings(deadline=None)
@given(
    num_tokens=st.integers(2, 300),
    length=st.integers(1, 20),
    rows=st.integers(1, 9),
    world=st.integers(1, 3),
)
@example(num_tokens=17, length=8, rows=2, world=1)  # windows fit exactly
@example(num_tokens=2, length=20, rows=9, world=3)
def test_evaluation_counts_every_target_once(streams, num_tokens, length, rows, world) -> None:
    tokens = np.arange(num_tokens, dtype=np.uint16)
    rows = rows * world
    layout = (
        Streams(num_tokens, length, rows, whole=False)
        if streams
        else Windows(num_tokens, length, whole=False)
    )
    indices = np.arange(layout.num_windows)
    starts, counts = layout.place(indices, 0)
    batch = take_windows(tokens, starts, counts, length, continues=False)
    targets = batch.targets[batch.targets != IGNORED].tolist()
    assert sorted(targets) == list(range(1, num_tokens))


@both_ways
@pytest.mark.parametrize("world", [1, 2, 3])
def test_loaders_of_all_processes_count_every_target_once(tmp_path, streams, world) -> None:
    class Trainer:
        world_size = world
        global_rank = 0

    data = numbered(tmp_path, 203, streams=streams, eval_batch_size=5)
    targets, lengths = [], set()
    for rank in range(world):
        data.trainer = Trainer()  # type: ignore[assignment]
        data.trainer.global_rank = rank  # type: ignore[misc]
        batches = list(data.val_dataloader())
        lengths.add(len(batches))
        targets += counted(batches)
    assert sorted(targets) == list(range(2, 204))
    assert len(lengths) == 1


@both_ways
@settings(deadline=None)
@given(num_tokens=st.integers(60, 300), length=st.integers(1, 20), data=st.data())
def test_training_windows_are_whole_and_none_comes_twice(streams, num_tokens, length, data) -> None:
    rows = data.draw(st.integers(1, 2))
    layout = (
        Streams(num_tokens, length, rows, whole=True)
        if streams
        else Windows(num_tokens, length, whole=True)
    )
    offset = data.draw(st.integers(0, layout.num_offsets - 1))
    starts, counts = layout.place(np.arange(layout.num_windows), offset)
    assert (counts == length).all()
    assert starts.min() >= 0
    assert starts.max() + length < num_tokens
    assert (np.diff(np.sort(starts)) >= length).all()
    missed = num_tokens - layout.num_windows * length
    assert missed <= 2 * length * (rows if streams else 1)


def test_an_epoch_has_its_own_order_and_offset(tmp_path) -> None:
    data = numbered(tmp_path, batch_size=4)
    loader = data.train_dataloader()
    epochs = []
    for epoch in (0, 1, 0):
        loader.position = lambda epoch=epoch: (epoch, 0)
        epochs.append([batch.inputs.tolist() for batch in loader])
    assert epochs[0] == epochs[2]
    assert epochs[0] != epochs[1]
    offsets = {epoch[0][0][0] % 8 for epoch in epochs}
    assert len(offsets) == 2


@both_ways
def test_a_resumed_epoch_goes_on_with_the_same_batches(tmp_path, streams) -> None:
    data = numbered(tmp_path, batch_size=4, streams=streams)
    loader = data.train_dataloader()
    loader.position = lambda: (3, 0)
    whole = [batch.inputs.tolist() for batch in loader]
    loader.position = lambda: (3, 5)
    assert [batch.inputs.tolist() for batch in loader] == whole[5:]


def test_rows_of_streams_go_on_where_they_ended(tmp_path) -> None:
    data = numbered(tmp_path, batch_size=4, eval_batch_size=6, streams=True)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        before = None
        for batch in loader:
            assert batch.continues == (before is not None)
            if before is not None:
                goes_on = batch.inputs[:, 0] == before.inputs[:, -1] + 1
                padded = batch.targets[:, 0] == IGNORED
                assert (goes_on | padded).all()
                assert not padded.all()
            before = batch
        assert before is not None


def test_streams_are_shared_by_processes_row_by_row(tmp_path) -> None:
    class Trainer:
        world_size = 2
        global_rank = 0
        overfit_batches = 0
        fit_loop = LightningTrainer(logger=False, enable_checkpointing=False).fit_loop

    data = numbered(tmp_path, batch_size=2, streams=True)
    together = numbered(tmp_path, batch_size=4, streams=True).train_dataloader()
    halves = []
    for rank in range(2):
        data.trainer = Trainer()  # type: ignore[assignment]
        data.trainer.global_rank = rank  # type: ignore[misc]
        halves.append(list(data.train_dataloader()))
    for whole, first, second in zip(together, *halves, strict=True):
        assert torch.equal(whole.inputs[0::2], first.inputs)
        assert torch.equal(whole.inputs[1::2], second.inputs)


@both_ways
def test_no_window_crosses_the_split(tmp_path, streams) -> None:
    text, share = "a" * 503 + "b" * 63 + "c" * 63, 63 / 629
    options = {"context_length": 8, "batch_size": 3, "eval_batch_size": 2, "streams": streams}
    data = ready(text_data(tmp_path, text, val_fraction=share, test_fraction=share, **options))
    for split, letter in (("train", "a"), ("val", "b"), ("test", "c")):
        seen = set()
        for inputs, targets, *_ in getattr(data, f"{split}_dataloader")():
            seen |= set(inputs.unique().tolist()) | set(targets.unique().tolist())
        assert seen - {IGNORED} == {ord(letter)}


def test_random_windows_are_the_same_at_every_call(tmp_path) -> None:
    data = numbered(tmp_path, batch_size=3)
    once, again = (list(data.random_windows("val", 5)) for _ in range(2))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(once, again, strict=True))
    assert not torch.equal(once[0].inputs, once[1].inputs)
    starts = torch.cat([batch.inputs[:, 0] for batch in once])
    assert (starts % 8).unique().numel() > 3  # anywhere, not at multiples of the window
    assert all(torch.equal(batch.targets, batch.inputs + 1) for batch in once)


def test_a_text_shorter_than_a_window_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"8 training tokens.*context_length \+ 1 = 9.*7 or less"):
        numbered(tmp_path, 8)
    numbered(tmp_path, 9)  # the shortest that does


def test_too_few_tokens_for_streams_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"70 training tokens are too few for 8 streams.*72 are"):
        numbered(tmp_path, 70, batch_size=8, streams=True)
    assert len(list(numbered(tmp_path, 72, batch_size=8, streams=True).train_dataloader())) == 1


def test_nothing_to_validate_on_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"leaves 0 tokens to validate on.*--data.val_fraction"):
        ready(text_data(tmp_path, "a" * 100, val_fraction=0.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 1.0}, "val_fraction 1.0 must lie"),
        ({"val_fraction": 0.6, "test_fraction": 0.5}, "leave nothing to train on"),
        ({"context_length": 0}, "context_length 0 must be at least 1"),
        ({"batch_size": 0}, "batch_size 0 must be at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        TextData(PythonDocs(), **options)


def test_a_checkpoint_brings_the_tokenizer_back(tmp_path) -> None:
    data = TextData(PythonDocs(), BPETokenizer(300), cache_dir=str(tmp_path / "cache"))
    ready(data)
    twin = TextData(PythonDocs(), BPETokenizer(300), cache_dir=str(tmp_path / "other"))
    twin.load_state_dict(data.state_dict())
    assert twin.tokenizer.vocabulary == data.tokenizer.vocabulary
    assert not (tmp_path / "other").exists()  # the text itself is not needed


@pytest.mark.parametrize("tokenizer", [CharTokenizer, BPETokenizer, ByteTokenizer])
def test_another_text_is_read_with_the_tokenizer_of_the_checkpoint(tmp_path, tokenizer) -> None:
    (tmp_path / "other").mkdir()
    text, strange = "abcab cab\n" * 50, "bca zab\n" * 40
    trained = ready(text_data(tmp_path, text, tokenizer(), context_length=8))
    again = text_data(tmp_path, text, tokenizer(), context_length=8)
    other = text_data(tmp_path / "other", strange, tokenizer(), context_length=8)
    for data in (again, other):
        data.load_state_dict(trained.state_dict())
        ready(data, "test")
        assert data.tokenizer.vocabulary == trained.tokenizer.vocabulary
    assert again.token_file.was_cached
    text = other.tokenizer.decode(other.splits["train"].tolist())
    assert text.replace("\ufffd", "z").startswith("bca zab\nbca")


def test_a_short_text_can_be_evaluated_whole(tmp_path) -> None:
    data = ready(text_data(tmp_path, "abc abc\n", val_fraction=0, test_fraction=0), "test")
    assert data.context_length == 64
    (batch,) = data.evaluation_loader("train")
    assert (batch.targets != -100).sum() == 7
    assert batch.starts.tolist() == [0]


def test_a_text_that_is_changed_or_gone_after_setup_does_not_matter(tmp_path) -> None:
    data = numbered(tmp_path)
    characters = data.tokenizer.vocabulary
    (tmp_path / "train.txt").write_text("another text")
    (tmp_path / "val.txt").unlink()
    ready(data, "test")  # as Lightning does before each stage
    assert data.tokenizer.vocabulary == characters
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_checkpoint_whose_tokens_mean_something_else_is_refused(tmp_path) -> None:
    state = numbered(tmp_path, 50).state_dict()
    (tmp_path / "other").mkdir()
    other = numbered(tmp_path / "other", 51)
    with pytest.raises(ValueError, match="CharTokenizer of the checkpoint was fitted to another"):
        other.load_state_dict(state)
    assert len(other.tokenizer.vocabulary) == 52
    numbered(tmp_path, 50).load_state_dict(state)


def test_a_prompt_is_cleaned_as_the_text_was(tmp_path) -> None:
    options = {"cleaning": Cleaning(lower_case=True, normal_form="NFC"), "context_length": 8}
    data = ready(text_data(tmp_path, "caf\u00e9 au lait\n" * 20, CharTokenizer(), **options))
    assert data.tokenizer.decode(data.prompt_tokens("CAFE\u0301\r\n\x07")) == "caf\u00e9\n"
    with pytest.raises(ValueError, match="the prompt has 'xy', which is not among the 10"):
        data.prompt_tokens("Xylit")
    for empty in ("", "\x07"):
        with pytest.raises(ValueError, match="the prompt has no tokens"):
            data.prompt_tokens(empty)


def test_a_split_that_is_not_there_is_named(tmp_path) -> None:
    data = ready(text_data(tmp_path, "a" * 1000, test_fraction=0.0))
    with pytest.raises(ValueError, match=r"no test split: set --data.test_fraction above 0"):
        data.test_dataloader()


def test_embedded_docs_need_no_file(tmp_path) -> None:
    data = TextData(PythonDocs(), root=str(tmp_path / "nothing"))
    ready(data)
    batch = next(iter(data.train_dataloader()))
    assert batch.inputs.shape == (32, 64)
    assert "PythonDocs" in data.summary()
    record = data.describe()
    assert record["vocab_size"] == 256
    assert sum(record["tokens"].values()) == sum(record["bytes"].values())
