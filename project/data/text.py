"""Batches of text: windows of a token file, in a random order or as streams that run on.

Shape letters: B batch, T time, V vocabulary, n tokens of a split.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor

from project.checkpoints.hyper_parameters import save_plain_hyperparameters
from project.data.cleaning import Cleaning, clean, decoded, no_counts
from project.data.corpora import Corpus, Document
from project.data.download import data_root
from project.data.loader import IGNORED, PADDING, SeededLoader, derived_seed, train_position
from project.data.token_files import Preparation, TokenFile, prepare, token_cache
from project.data.tokenization import ByteTokenizer, Tokenizer

Indices = NDArray[np.int64]


class TokenBatch(NamedTuple):
    """Windows of tokens and what follows each token.

    Attributes:
        inputs: int64 (B, T) in [0, V).
        targets: int64 (B, T): `inputs` one step later, or -100 where nothing is to be counted.
        continues: Whether row b goes on where row b of the batch before ended.
        starts: Place of the first input of each window in its split, int64 (B,).
    """

    inputs: Tensor
    targets: Tensor
    continues: bool
    starts: Tensor | None = None


class TextData(LightningDataModule):
    """Train, validation and test batches of any `Corpus`, as `TokenBatch`.

    The text is cleaned, split and tokenised once and kept in `cache_dir` (see `token_files.py`).
    Validation and test visit every token once, the last window included.

    Training visits every token about once an epoch. With `streams` off, the text is cut into
    windows, from an offset that each epoch draws anew, which are shuffled. With `streams` on, it
    is cut into as many streams as a batch has rows, on all processes together, and batch k holds
    window k of each, so that the state of a recurrent network is carried on; validation and test
    are read the same way. Every stream begins with an empty state: the fewer the rows of an
    evaluation, the more of the text is known, and the lower the loss.

    Args:
        corpus: Which text.
        tokenizer: `ByteTokenizer`, `CharTokenizer` or `BPETokenizer`.
        context_length: T, tokens of a window.
        batch_size: Windows of a training batch, on each process.
        eval_batch_size: Windows of a validation or test batch, on each process.
        streams: Read on from batch to batch, for recurrent networks.
        val_fraction, test_fraction: Shares of the text, in [0, 1): train is first, then
            validation, then test. Not used where the corpus has a document for the split.
        cleaning: What is changed in the text.
        seed: Of the order; by default the seed given to `seed_everything`.
        root: Folder of the data files; by default the variable DATA_DIR, else `data`.
        cache_dir: Folder of prepared texts; by default `tokens` in `root`.
        num_workers: Processes that make training batches, ahead of time; 0 makes them in the
            training process. The batches are the same.

    Raises:
        ValueError: If a number is out of range, or, from `setup`, a split has too few tokens.

    Attributes:
        vocab_size: V, that a network must be built for; after `setup`.
        token_bytes: Bytes of each token, int64 (V,); 0 for an unknown character; after `setup`.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer | None = None,
        context_length: int = 64,
        batch_size: int = 32,
        eval_batch_size: int = 128,
        streams: bool = False,
        val_fraction: float = 0.05,
        test_fraction: float = 0.05,
        cleaning: Cleaning = Cleaning(),
        seed: int | None = None,
        root: str | None = None,
        cache_dir: str | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (
            ("context_length", context_length),
            ("batch_size", batch_size),
            ("eval_batch_size", eval_batch_size),
        ):
            if value < 1:
                raise ValueError(f"{name} {value} must be at least 1")
        save_plain_hyperparameters(self)
        self.corpus = corpus
        self.tokenizer = tokenizer or ByteTokenizer()
        self.context_length = context_length
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.streams = streams
        self.num_workers = num_workers
        self.seed = torch.initial_seed() if seed is None else seed
        self.root = data_root(root)
        self.cache = token_cache(self.root, cache_dir)
        self.preparation = Preparation(
            corpus, self.tokenizer, cleaning, val_fraction, test_fraction
        )
        self.token_file: TokenFile | None = None
        self.splits: dict[str, Any] = {}  # tokens (n,), mapped from the disk

    def prepare_data(self) -> None:  # on one process
        if self.token_file is None:  # Lightning asks again before each stage
            self.corpus.download(self.root)
            self.token_file = prepare(self.preparation, self.root, self.cache)

    def setup(self, stage: str | None = None) -> None:  # on every process
        if self.splits:
            return
        token_file = self.token_file or prepare(self.preparation, self.root, self.cache)
        self.info = info = token_file.info
        self.tokenizer.load_state_dict(info["tokenizer"])
        self.vocab_size = len(self.tokenizer.vocabulary)
        self.token_bytes = torch.tensor(self.tokenizer.byte_counts())
        is_to_train = stage in (None, "fit")
        for split, count in info["tokens"].items():
            if is_to_train and split == "train" and count < self.context_length + 1:
                raise ValueError(
                    f"the text of {type(self.corpus).__name__} has {count} training tokens, but "
                    f"one window needs context_length + 1 = {self.context_length + 1}; give a "
                    f"longer text or set --data.context_length {max(1, count - 1)} or less"
                )
            if is_to_train and split == "val" and count < 2:
                raise ValueError(
                    f"the text of {type(self.corpus).__name__} leaves {count} tokens to validate "
                    "on and at least 2 are needed; raise --data.val_fraction or give a longer text"
                )
            if count >= 2:
                self.splits[split] = token_file.tokens(split)
        if is_to_train:
            self.train_dataloader()  # refuses a text that is too short for its streams

    def train_dataloader(self) -> SeededLoader[TokenBatch]:
        return self.loader("train", self.batch_size, is_training=True)

    def val_dataloader(self) -> SeededLoader[TokenBatch]:
        return self.evaluation_loader("val")

    def test_dataloader(self) -> SeededLoader[TokenBatch]:
        return self.evaluation_loader("test")

    def predict_dataloader(self) -> SeededLoader[TokenBatch]:
        return self.evaluation_loader("test")

    def evaluation_loader(self, split: str) -> SeededLoader[TokenBatch]:
        """Return every token of `split` (train, val or test) in order, as it is evaluated."""
        return self.loader(split, self.eval_batch_size, is_training=False)

    def loader(self, split: str, batch_size: int, is_training: bool) -> SeededLoader[TokenBatch]:
        """Return the batches of `split` for this process.

        To train, windows are whole, and shuffled but for streams; else every token is in one.

        Raises:
            ValueError: If there is no such split, or too little text for the streams.
        """
        if split not in self.splits:
            fraction = getattr(self.preparation, f"{split}_fraction", None)
            remedy = f"set --data.{split}_fraction above {fraction}" if split != "train" else ""
            raise ValueError(f"the data have no {split} split: {remedy or 'give a longer text'}")
        tokens = self.splits[split]
        trainer = self.trainer
        rank, world_size = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        rows = batch_size * world_size
        layout: Windows | Streams
        if self.streams:
            layout = Streams(len(tokens), self.context_length, rows, whole=is_training)
        else:
            layout = Windows(len(tokens), self.context_length, whole=is_training)

        def make_batch(indices: Tensor, epoch: int) -> TokenBatch:
            offset = 0
            if is_training:
                offset = derived_seed("offset", self.seed, epoch) % layout.num_offsets
            present = indices.clamp(min=0)  # any window in the place of PADDING
            starts, counted = layout.place(present.numpy(), offset)
            counted[indices.numpy() == PADDING] = 0
            continues = self.streams and int(present[0]) >= rows
            return take_windows(tokens, starts, counted, self.context_length, continues)

        return SeededLoader(
            layout.num_windows,
            batch_size,
            make_batch,
            seed=self.seed,
            shuffle=is_training and not self.streams,
            rank=rank,
            world_size=world_size,
            position=partial(train_position, trainer if is_training else None),
            num_workers=self.num_workers if is_training else 0,
        )

    def random_windows(self, split: str, num_batches: int) -> Iterator[TokenBatch]:
        """Yield batches of `batch_size` windows that begin anywhere, the same at every call."""
        tokens, length = self.splits[split], min(self.context_length, len(self.splits[split]) - 1)
        generator = np.random.Generator(np.random.Philox(0))
        for _ in range(num_batches):
            starts = generator.integers(0, len(tokens) - length, self.batch_size)
            counted = np.full(self.batch_size, length)
            yield take_windows(tokens, starts, counted, length, continues=False)

    def prompt_tokens(self, prompt: str) -> list[int]:
        """Return the tokens of a prompt, cleaned as the corpus was; needs no `setup`.

        Raises:
            ValueError: If it has no tokens, or a character that the tokenizer does not know.
        """
        text = "".join(clean([(prompt, True)], self.preparation.cleaning, no_counts()))
        if unknown := self.tokenizer.unknown(text):
            raise ValueError(
                f"the prompt has {unknown!r}, which is not among the "
                f"{len(self.tokenizer.vocabulary) - 1} characters that this model was trained on; "
                "write it without, or train with --data.tokenizer ByteTokenizer"
            )
        if not text:
            raise ValueError("the prompt has no tokens and at least one is needed")
        return self.tokenizer.encode(text).tolist()

    def document_tokens(self, document: Document, encoding: str) -> tuple[NDArray[Any], int]:
        """Return the tokens (n,) of another text, cleaned as the corpus was; needs no `setup`.

        And the number of characters that the tokenizer does not know.

        Raises:
            ValueError: If it cannot be decoded, or has fewer than two tokens.
        """
        blocks = decoded(document, encoding)
        text = "".join(clean(blocks, self.preparation.cleaning, no_counts()))
        tokens = self.tokenizer.encode(text)
        if len(tokens) < 2:
            raise ValueError(
                f"{document.name!r} has {len(tokens)} tokens, and at least 2 are needed"
            )
        strange = set(self.tokenizer.unknown(text))
        return tokens, sum(text.count(character) for character in strange)

    def describe(self) -> dict[str, Any]:
        """Return what a run's record holds: the corpus, its sizes and hashes."""
        kept = ("vocab_size", "tokens", "bytes", "characters", "made_from", "sha256")
        return {
            "corpus": type(self.corpus).__name__,
            "tokenizer": type(self.tokenizer).__name__,
            **{key: self.info[key] for key in kept},
        }

    def summary(self) -> str:
        """Return the corpus and the size of each split, for a person."""
        sizes = ", ".join(f"{len(tokens):,} {split}" for split, tokens in self.splits.items())
        return (
            f"{type(self.corpus).__name__}: {sizes} tokens "
            f"({type(self.tokenizer).__name__}, {self.vocab_size:,})"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed of the training text without it; goes into every checkpoint."""
        state = {"tokenizer_state": self.tokenizer.state_dict()}
        return state | ({k: self.info[k] for k in ("sha256", "tokens")} if self.splits else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the tokenizer of a checkpoint, also for a text that is opened later.

        Raises:
            ValueError: If a text is open whose tokens mean something else.
        """
        state = state_dict["tokenizer_state"]
        if self.splits and state != self.tokenizer.state_dict():
            raise ValueError(
                f"the {type(self.tokenizer).__name__} of the checkpoint was fitted to another text "
                f"than this {type(self.corpus).__name__}, so its tokens mean something else; give "
                "the text and the options that it was trained with"
            )
        self.tokenizer.load_state_dict(state)
        self.preparation = replace(self.preparation, is_fitted=True)


class Windows:
    """The text as windows that follow one another from an offset.

    Args:
        num_tokens: n of the split.
        length: T of a window.
        whole: Whole windows alone, from an offset drawn for each epoch; else all tokens, from 0.
    """

    def __init__(self, num_tokens: int, length: int, whole: bool) -> None:
        self.num_targets, self.length = num_tokens - 1, length
        if whole:
            self.num_windows = max(1, (num_tokens - length) // length)
        else:
            self.num_windows = -(-self.num_targets // length)
        self.num_offsets = min(length, num_tokens - self.num_windows * length)

    def place(self, indices: Indices, offset: int) -> tuple[Indices, Indices]:
        """Return the first token of each window and how many of its targets exist, both (B,)."""
        starts = offset + indices * self.length
        return starts, (self.num_targets - starts).clip(0, self.length)


class Streams:
    """The text as `rows` streams of equal length; index i is window i // rows of stream i % rows.

    Raises:
        ValueError: If whole windows are asked for and a stream would have none.
    """

    def __init__(self, num_tokens: int, length: int, rows: int, whole: bool) -> None:
        self.num_targets, self.length, self.rows, self.whole = num_tokens - 1, length, rows, whole
        if whole:
            per_stream = (num_tokens - length) // (rows * length)
        else:
            per_stream = -(-self.stream_length(0) // length)
        if per_stream < 1:
            raise ValueError(
                f"{num_tokens:,} training tokens are too few for {rows} streams with windows of "
                f"{length}: {(rows + 1) * length:,} are needed; give a longer text, or set "
                "--data.batch_size or --data.context_length to less"
            )
        self.num_windows = rows * per_stream
        self.num_offsets = min(length, num_tokens - self.num_windows * length)

    def stream_length(self, offset: int) -> int:
        """Return the targets of each stream; the last may have fewer unless `whole`."""
        targets = self.num_targets - offset
        return targets // self.rows if self.whole else -(-targets // self.rows)

    def place(self, indices: Indices, offset: int) -> tuple[Indices, Indices]:
        """Return the first token of each window and how many of its targets exist, both (B,)."""
        window, stream = np.divmod(indices, self.rows)
        stream_length = self.stream_length(offset)
        starts = offset + stream * stream_length + window * self.length
        left = np.minimum(stream_length - window * self.length, self.num_targets - starts)
        return starts, left.clip(0, self.length)


def take_windows(
    tokens: Any, starts: Indices, counted: Indices, length: int, continues: bool
) -> TokenBatch:
    """Return windows of `length` inputs from `starts` (B,), of which `counted` (B,) have targets.

    Args:
        tokens: Unsigned (n,), in memory or mapped from the disk.
    """
    steps = np.arange(length + 1)
    places = (starts[:, None] + steps).clip(max=len(tokens) - 1)  # (B, T + 1)
    windows = torch.from_numpy(tokens[places].astype(np.int64))
    is_counted = torch.from_numpy(steps[:-1] < counted[:, None])  # (B, T)
    targets = windows[:, 1:].masked_fill(~is_counted, IGNORED)
    return TokenBatch(windows[:, :-1], targets, continues, torch.from_numpy(starts))
