"""A network whose parameters are shared out over processes: FSDP2.

Each process keeps a slice of every parameter, a `DTensor` cut along its first dimension. A block is
put together when it computes. What is trained is what DDP trains, up to the last bits of sums.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Share out a network's parameters over a mesh, block by block; does nothing the second time.

    Between steps every parameter is a slice. A network that was compiled in place is compiled block
    by block, and what is around the blocks is not: the hooks that put a block together are no part
    of a graph. One without blocks is compiled as a whole.
    """
    if isinstance(network, FSDPModule):
        return
    for parameter in network.parameters():  # channels-last filters would be refused
        parameter.data = parameter.data.contiguous()
    parts = list(blocks(network))
    if parts and network._compiled_call_impl is not None:
        network._compiled_call_impl = None
        for block in parts:
            block.compile()
    for block in parts:
        fully_shard(block, mesh=mesh)
    # By default the outermost parameters would stay whole after a forward pass.
    fully_shard(network, mesh=mesh, reshard_after_forward=True)
    if hasattr(network, "extend"):
        register_fsdp_forward_method(network, "extend")


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost members of lists of modules that are made of others.

    A layer alone, such as an LSTM whose weights its network uses, is no block.
    """
    for child in network.children():
        if isinstance(network, nn.ModuleList | nn.Sequential) and any(child.children()):
            yield child
        else:
            yield from blocks(child)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor of which processes may have slices; then every one of them must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sliced(value: Any, like: Any) -> Any:
    """Return this process's slice of a whole tensor, cut as a parameter of the same shape is."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    if isinstance(value, DTensor):
        return value
    # Every process has the whole, so that nothing is sent.
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
