"""Language modelling: how any network that returns logits is trained on text and measured.

Shape letters: B batch, T time, V vocabulary, n windows of an evaluation.
"""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from project.checkpoints.hyper_parameters import save_plain_hyperparameters
from project.data.loader import IGNORED, gather
from project.data.text import TokenBatch
from project.data.tokenization import stream_text
from project.optimization.optimizers import (
    OptimizerFactory,
    SchedulerFactory,
    clip_gradients,
    optimizer_and_schedule,
    scale_gradients,
)
from project.tasks.results import text_results
from project.tasks.sampling import generate
from project.tasks.sizes import check_sizes
from project.tracking.dashboards import log_text

RANDOM_BATCHES = 200  # of nanoGPT's protocol (`eval_iters`)
PROMPT_TOKENS = 16  # of the validation text, where no prompt is given


class LanguageModeling(LightningModule):
    """Fit a network to text: predict each token from those before it, by cross-entropy.

    A batch is a `TokenBatch`. Where it continues the one before, a network with a method `extend`
    and no end to its context (no attribute `context_length`) goes on from the state that it
    ended with, through which no gradient flows.

    Logs:
        train/loss: Of the batch, nats per token; every `log_every_n_steps`.
        train/learning_rate: Of the first parameter group, beside it.
        {val,test}/loss: Negative log-likelihood, nats per token, over every token of the split.
        {val,test}/perplexity: exp of that.
        {val,test}/bits_per_byte: The same in bits, over the bytes that the tokens stand for: does
            not depend on the tokenizer. Left out where the data do not say the bytes.
        val/loss_random_windows: nats per token of 200 batches of windows that begin anywhere:
            nanoGPT's protocol, to compare with its figures. In `Trainer.validate` alone, and not
            where `limit_val_batches` is a number.
        samples.txt: Text written by the network at each validation, beside `metrics.csv`, and in
            TensorBoard and W&B as `val/sample`.

    Args:
        network: Maps tokens int64 (B, T) to logits (B, T, V).
        optimizer: Any torch optimizer, or `MuonAdamW`; by default AdamW with torch's numbers.
        scheduler: Any torch scheduler, counted in optimizer steps, or `WarmupDecay`.
        sample_prompt: Beginning of each sample; by default that of the validation text.
        sample_tokens: Length of each sample; 0 for none.

    Attributes:
        measured: Loss, perplexity and bits per byte of the last evaluation, with 95 % intervals
            over windows, and counts.
        outcomes: Its losses in the order of the text, nats, one a token after the first; of
            `Trainer.validate` and `test`.
    """

    unit = "tokens"  # of the throughput
    evaluation_state: Any

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        sample_prompt: str | None = None,
        sample_tokens: int = 200,
    ) -> None:
        super().__init__()
        save_plain_hyperparameters(self)
        self.network = network
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.sample_prompt = sample_prompt
        self.sample_tokens = sample_tokens
        self.tokens_expected = 0  # of the first batch since the last optimizer step
        self.measured: dict[str, Any] = {}
        self.outcomes: dict[str, Tensor] = {}

    def setup(self, stage: str) -> None:
        if (data := getattr(self.trainer, "datamodule", None)) is not None:
            self.check_data(data)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.network(tokens)

    def on_train_epoch_start(self) -> None:
        self.load_epoch_state({})

    def epoch_state(self) -> dict[str, Any]:
        """Return the state of this process's streams; goes into the resume point."""
        return {"train_state": self.train_state}

    def load_epoch_state(self, state: dict[str, Any]) -> None:
        """Go on from what `epoch_state` returned; from an empty state at the start of an epoch."""
        self.train_state: Any = state.get("train_state")
        self.start_accumulation()

    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        targets = batch.targets
        state = self.train_state if batch.continues else None
        logits, self.train_state = self.read(batch, state)
        loss_sum = token_losses(logits, targets).sum()
        count = (targets != IGNORED).sum()
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.global_step + 1) % every == 0:
            self.log("train/loss", loss_sum.detach() / count, prog_bar=True)
            self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        self.accumulated_tokens += count
        if self.tokens_expected == 0:
            self.tokens_expected = targets.numel()
        return loss_sum / self.tokens_expected  # made a mean in `on_before_optimizer_step`

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Turn the gradient into that of the mean over all tokens since the last step.

        Lightning averages over batches and processes. Where those have unequal numbers of
        tokens, or the last accumulation of an epoch is a short one, that is another mean.
        """
        steps = self.trainer.accumulate_grad_batches
        tokens = self.trainer.strategy.reduce(self.accumulated_tokens, reduce_op="sum")
        scale = self.tokens_expected * steps * self.trainer.world_size / tokens.clamp(min=1)
        scale_gradients(self.network, scale)
        self.start_accumulation()

    configure_gradient_clipping = clip_gradients

    def on_validation_epoch_start(self) -> None:
        self.start_evaluation()

    def validation_step(self, batch: TokenBatch, batch_idx: int) -> None:
        self.evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self.finish_evaluation("val")
        data: Any = getattr(self.trainer, "datamodule", None)
        if self.trainer.state.fn == TrainerFn.VALIDATING and hasattr(data, "random_windows"):
            if not isinstance(self.trainer.limit_val_batches, int):  # else it is only a trial
                self.log("val/loss_random_windows", self.random_window_loss(data))
        elif self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self.log_sample(data)

    def on_test_epoch_start(self) -> None:
        self.start_evaluation()

    def test_step(self, batch: TokenBatch, batch_idx: int) -> None:
        self.evaluate(batch)

    def on_test_epoch_end(self) -> None:
        self.finish_evaluation("test")

    def on_predict_epoch_start(self) -> None:
        self.start_evaluation()

    def predict_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        """Return the negative log-likelihood of each target, nats, (B, T)."""
        return self.evaluated_losses(batch)

    def configure_optimizers(self) -> Any:
        return optimizer_and_schedule(self.network, self.optimizer, self.scheduler, self.trainer)

    def check_data(self, data: Any) -> None:
        """Stop before training when the network or the prompt does not suit the data.

        Compares `vocab_size` and `context_length` where both sides have them; a larger network
        is good, and some of its logits are never right.

        Raises:
            ValueError: With every value, what the data have, and the flags to set; or what of
                `sample_prompt` the tokenizer does not know.
        """
        if hasattr(self.network, "image_size"):
            raise ValueError(
                f"{type(self.network).__name__} reads images; set --model.network to one for text: "
                "MLPLanguageModel, CausalCNN, RNNLanguageModel, GPT"
            )
        if self.sample_prompt is not None:
            try:
                data.prompt_tokens(self.sample_prompt)
            except ValueError as error:
                raise ValueError(f"--model.sample_prompt: {error}") from error
        check_sizes(self.network, data, ("vocab_size", "context_length"), operator.ge)

    def read(self, batch: TokenBatch, state: Any) -> tuple[Tensor, Any]:
        """Return logits (B, T, V) and the detached state after them, None for windows."""
        if not hasattr(self.network, "extend") or hasattr(self.network, "context_length"):
            return self(batch.inputs), None
        logits, state = self.network.extend(batch.inputs, state)  # type: ignore[operator]
        return logits, apply_to_collection(state, Tensor, Tensor.detach)

    def start_accumulation(self) -> None:
        self.accumulated_tokens = torch.zeros((), dtype=torch.int64, device=self.device)
        self.tokens_expected = 0

    def start_evaluation(self) -> None:
        self.evaluation_state = None
        self.evaluated: list[tuple[Tensor, ...]] = []  # losses and counted (B, T), starts (B,)
        self.num_bytes = torch.zeros((), dtype=torch.int64, device=self.device)
        data = getattr(self.trainer, "datamodule", None)
        token_bytes = getattr(data, "token_bytes", None)
        self.token_bytes = None if token_bytes is None else token_bytes.to(self.device)

    def evaluate(self, batch: TokenBatch) -> None:
        """Count one batch; targets of -100 are left out."""
        counted = batch.targets != IGNORED  # (B, T)
        starts = torch.full_like(batch.inputs[:, 0], -1) if batch.starts is None else batch.starts
        self.evaluated.append((self.evaluated_losses(batch), counted, starts))
        if self.token_bytes is not None:
            self.num_bytes += self.token_bytes[batch.targets[counted]].sum()

    def evaluated_losses(self, batch: TokenBatch) -> Tensor:
        """Return the loss of each target, nats (B, T), read on from the batch before."""
        state = self.evaluation_state if batch.continues else None
        logits, self.evaluation_state = self.read(batch, state)
        return token_losses(logits, batch.targets)

    def finish_evaluation(self, split: str) -> None:
        """Add up over the processes and log under `split`."""
        losses, counted, starts = (
            gather(self, list(parts)) for parts in zip(*self.evaluated, strict=True)
        )  # (n, T), (n, T), (n,)
        num_bytes = self.trainer.strategy.reduce(self.num_bytes, reduce_op="sum")
        tokens = counted.sum(dim=1)
        sums = losses.double().sum(dim=1)[tokens > 0]
        self.measured = text_results(sums, tokens[tokens > 0], int(num_bytes))
        self.log(f"{split}/loss", self.measured["loss"]["value"], prog_bar=True)
        for name in ("perplexity", "bits_per_byte"):
            if name in self.measured:
                self.log(f"{split}/{name}", self.measured[name]["value"])
        self.outcomes = {}
        if self.trainer.state.fn != TrainerFn.FITTING and starts.min() >= 0:
            places = (starts[:, None] + torch.arange(losses.shape[1]))[counted]
            self.outcomes = {"losses": losses[counted][places.argsort()]}

    def random_window_loss(self, data: Any) -> float:
        """Return the mean loss over the random windows of nanoGPT's protocol, nats per token."""
        loss_sum, count = 0.0, 0
        for batch in data.random_windows("val", RANDOM_BATCHES):
            batch = self.transfer_batch_to_device(batch, self.device, 0)
            with self.trainer.precision_plugin.val_step_context():
                logits, _ = self.read(batch, None)
            loss_sum += token_losses(logits, batch.targets).sum().item()
            count += batch.targets.numel()
        return loss_sum / count

    def log_sample(self, data: Any) -> None:
        """Write a sample into `samples.txt` and the dashboards."""
        tokenizer = getattr(data, "tokenizer", None)
        if tokenizer is None or self.sample_tokens == 0:
            return
        prompt = data.splits["val"][:PROMPT_TOKENS].tolist()
        if self.sample_prompt is not None:
            prompt = data.prompt_tokens(self.sample_prompt)
        tokens = generate(  # on every process: a sharded network needs them all
            self.network,
            torch.tensor([prompt], device=self.device),
            self.sample_tokens,
            seed=self.global_step,
            vocab_size=len(tokenizer.vocabulary),
        )
        try:
            with torch.compiler.set_stance("force_eager"):  # a length a token: too many graphs
                written = "".join(stream_text(tokenizer, (int(token) for token in tokens)))
        except ValueError as error:  # logits that are not finite are the training's affair
            written = f"(no sample: {error})"
        text = f"{tokenizer.decode(prompt)}|{written}"  # the network goes on where the bar is
        if self.trainer.is_global_zero:
            log_text(self.trainer.loggers, "val/sample", text, self.global_step)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood of each target, nats, float32 (B, T); 0 where ignored.

    Args:
        logits: Float (B, T, V).
        targets: int64 (B, T).
    """
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view(targets.shape)
