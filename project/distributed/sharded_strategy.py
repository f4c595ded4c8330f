"""Lightning's strategy for sharded networks (FSDP2), with the checkpoints of any other run."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from project.checkpoints.checkpoint_file import (
    finish_folder,
    is_folder,
    read_common,
    remove,
    slices_file,
    slices_of,
    with_slices,
)
from project.distributed.sharding import shard, sliced
from project.messages import UsageError


def network_of(task: nn.Module) -> nn.Module:
    """Return the network of a task, which is all of it that is shared out.

    Raises:
        UsageError: If there is none, or if others of its parameters are trained: the processes
            would not add up their gradients.
    """
    network = getattr(task, "network", None)
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"ShardedStrategy shares out the `network` of a task, and {type(task).__name__} has "
            "none; name its network so, or take --trainer.strategy ddp"
        )
    outside = [
        name
        for name, parameter in task.named_parameters(remove_duplicate=False)
        if parameter.requires_grad and not name.startswith("network.")
    ]
    if outside:
        raise UsageError(
            f"ShardedStrategy shares out the `network` of a task, and {type(task).__name__} also "
            f"trains {', '.join(outside)}; make them part of it, or take --trainer.strategy ddp"
        )
    return network


def saved_buffers(task: nn.Module) -> Iterator[Tensor]:
    """Yield the buffers that are in a checkpoint; the others are constants."""
    for part in task.modules():
        for name, buffer in part.named_buffers(recurse=False):
            if name not in part._non_persistent_buffers_set:
                yield buffer


class ShardedStrategy(ModelParallelStrategy):
    """Shares out `task.network` over all processes.

    Lightning's own (2.6.6) leaves the sharding to the task, writes files past the checkpoint
    plugin, numbers the optimizer's state in another order than without sharding, and cannot read a
    checkpoint of before the first step.

    Args:
        save_distributed_checkpoint: Each process writes its slices, and a checkpoint is a folder;
            else the first process gathers them in its main memory, for a file as of any other run.
    """

    def __init__(self, save_distributed_checkpoint: bool = False) -> None:
        super().__init__(
            tensor_parallel_size=1, save_distributed_checkpoint=save_distributed_checkpoint
        )

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Do what Lightning's does, and share out the network on the way."""
        assert self.accelerator is not None
        assert self.lightning_module is not None
        self.accelerator.setup(trainer)
        is_training = trainer.state.fn == TrainerFn.FITTING
        if is_training and self._layer_sync is not None and self.root_device.type == "cuda":
            self._layer_sync.apply(self.lightning_module)  # --trainer.sync_batchnorm
        self.share_out(self.lightning_module)
        self.model = self.precision_plugin.convert_module(self.lightning_module)
        self.model_to_device()
        self.shared_buffers = list(saved_buffers(self.lightning_module))
        self.barrier()
        if is_training:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def share_out(self, task: nn.Module) -> None:
        shard(network_of(task), self.device_mesh["data_parallel"])

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        self.take_buffers()
        return super().training_step(*args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        self.take_buffers()
        return super().validation_step(*args, **kwargs)

    def take_buffers(self) -> None:
        """Make buffers, such as those of batch norm, the ones of the first process, as DDP does."""
        for buffer in self.shared_buffers:
            torch.distributed.broadcast(buffer, src=0)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return optimizer.state_dict()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint, as one file or as a folder of every process's slices."""
        if self._save_distributed_checkpoint:
            self.save_folder(checkpoint, Path(self.broadcast(filepath)))  # rank 0 knows the run
            return
        checkpoint = apply_to_collection(checkpoint, DTensor, self.gathered)
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options)

    def save_folder(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Write slices beside `path`, then what is left, and give the folder its name at last."""
        slices: dict[int, Tensor] = {}

        def take(tensor: DTensor) -> Tensor:
            slices[len(slices)] = tensor.to_local().cpu()
            return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

        common = apply_to_collection(checkpoint, DTensor, take)
        beside = path.with_name(f".{path.name}.tmp")
        if self.is_global_zero:
            remove(beside)
            beside.mkdir(parents=True)
        self.barrier()
        self.checkpoint_io.save_checkpoint(
            {"state_dict": slices}, slices_file(beside, self.global_rank)
        )
        self.barrier()
        if self.is_global_zero:
            finish_folder(common, self.world_size, beside, path)

    def gathered(self, tensor: DTensor) -> Tensor | None:
        """Return a whole tensor on the first process, to which all have to send."""
        whole = tensor.full_tensor()
        return whole.cpu() if self.is_global_zero else None

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        path = Path(self.broadcast(checkpoint_path))
        common = read_common(path) if is_folder(path) else {}  # the slices of others stay unread
        if len(common.get("slices", ())) == self.world_size:
            slices = iter(slices_of(path, self.global_rank).values())
            content = with_slices(common, lambda whole: self.placed(next(slices), whole))
        else:
            content = self.checkpoint_io.load_checkpoint(path, weights_only=True)
        assert self.lightning_module is not None
        weights = self.lightning_module.state_dict()
        for key in ("state_dict", "current_model_state"):  # the second beside an average
            for name, tensor in content.get(key, {}).items():
                content[key][name] = sliced(tensor, weights.get(name))
        return content

    def placed(self, local: Tensor, whole: Tensor) -> DTensor:
        """Return this process's slice as part of a tensor of the shape of `whole`."""
        return DTensor.from_local(
            local.to(self.root_device),
            self.device_mesh["data_parallel"],
            [Shard(0)],
            run_check=False,
            shape=whole.shape,
            stride=whole.stride(),
        )

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for number, state in saved["state"].items():
                for name, value in state.items():
                    state[name] = sliced(value, parameters[number])
            optimizer.load_state_dict(saved)
