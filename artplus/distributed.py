"""The rank of this process, and communication between processes.

``torchrun`` and ``accelerate launch`` start the same program several times; ``torch.distributed``
connects the processes and numbers them by *rank*. Without a connection there is one process, of
rank 0, and every function here is trivial. All but :func:`rank`, :func:`world_size`,
:func:`started`, :func:`launched_any`, :func:`is_main` and :func:`share` are collective: every
process must call them, in the same order.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from artplus.errors import ConfigurationError

T = TypeVar("T")


def rank() -> int:
    """Number of this process; 0 if there is only one."""
    return dist.get_rank() if _connected() else 0


def world_size() -> int:
    """Number of connected processes."""
    return dist.get_world_size() if _connected() else 1


def started() -> int:
    """Number of processes that a launcher started, connected or not."""
    return max(world_size(), int(os.environ.get("WORLD_SIZE", 1)))


def launched_any() -> bool:
    """Whether a launcher started this process, even as the only one, or it is connected."""
    return _connected() or {"RANK", "WORLD_SIZE"} <= os.environ.keys()


def is_main() -> bool:
    """Whether this is the process that writes files and shows progress."""
    return rank() == 0


def join(device: torch.device) -> None:
    """Connect the processes that ``torchrun`` started, unless they are connected already.

    Args:
        device: The model's device; NCCL connects GPUs, gloo connects CPUs.

    Raises:
        ConfigurationError: if the model of this process is on the GPU of another process.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    if device.type == "cuda" and "LOCAL_RANK" in os.environ and device.index not in (None, local):
        raise ConfigurationError(
            f"process {local} of this machine has its model on {device}, the GPU of another "
            "process. Before the model is built: "
            'torch.cuda.set_device(int(os.environ["LOCAL_RANK"])), and .to("cuda")'
        )
    if _connected() or started() == 1:
        return
    dist.init_process_group("cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo")
    atexit.register(_leave)


def launched() -> None:
    """Select this process's GPU, if there is one, and connect to the others under ``torchrun``."""
    gpu = torch.cuda.is_available()
    if gpu and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    join(torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu"))


def all_reduce(values: Tensor) -> Tensor:
    """The sum of ``values`` over the processes, on the device of ``values``.

    All processes give tensors of one shape; ``values`` itself is not changed.
    """
    total = values.detach().clone()
    if world_size() == 1:
        return total
    total = total.to(_device())  # NCCL sends from GPUs only
    dist.all_reduce(total)
    return total.to(values.device)


def all_gather(value: Any) -> list[Any]:
    """The values of all processes in the order of ranks, the same list in each.

    Values are pickled, which is safe between the processes of one run.
    """
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_main(make: Callable[[], T]) -> T:
    """Call ``make`` in the main process; all processes return its result or raise its exception."""
    if world_size() == 1:
        return make()
    outcome: Any = None
    if is_main():
        try:
            outcome = make(), None
        except Exception as error:  # the other processes wait, so any error must reach them
            outcome = None, error
    value, raised = all_gather(outcome)[0]
    if raised is not None:
        raise raised
    return cast(T, value)


def broadcast(tensor: Tensor) -> None:
    """Overwrite ``tensor`` with that of process 0."""
    if world_size() == 1:
        return
    sent = tensor.detach().to(_device())
    dist.broadcast(sent, 0)
    tensor.detach().copy_(sent)


def barrier() -> None:
    """Wait until every process has called this."""
    if world_size() > 1:
        dist.barrier()


def share(n: int) -> slice:
    """This process's contiguous part of ``n`` rows; sizes differ by at most one.

    Example:
        >>> share(10)
        slice(0, 10, None)
    """
    return part(n, rank(), world_size())


def part(n: int, k: int, parts: int) -> slice:
    """The ``k``-th of ``parts`` contiguous parts of ``n`` rows, which together cover all rows.

    Example:
        >>> [part(10, k, 4) for k in range(4)]
        [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None), slice(8, 10, None)]
    """
    least, longer = divmod(n, parts)
    start = k * least + min(k, longer)
    return slice(start, start + least + (k < longer))


def _leave() -> None:
    if _connected():
        dist.destroy_process_group()


def _connected() -> bool:
    return dist.is_available() and dist.is_initialized()


def _device() -> str:
    """The type of device that the backend sends from."""
    backend = cast(str, dist.get_backend())
    return "cuda" if "nccl" in backend and "gloo" not in backend else "cpu"
