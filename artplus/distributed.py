"""Which of several processes this is, and what they tell one another.

``torchrun`` and ``accelerate launch`` start the same program several times; ``torch.distributed``
connects them, and each has a number, its *rank*. Where nothing is connected there is one process,
of rank 0, and every function here is then trivial. All but :func:`rank`, :func:`world_size`,
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
    """Number of this process; 0 where there is only one."""
    return dist.get_rank() if _connected() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _connected() else 1


def started() -> int:
    """How many processes a launcher started, whether they are connected yet or not."""
    return max(world_size(), int(os.environ.get("WORLD_SIZE", 1)))


def launched_any() -> bool:
    """Whether a launcher started this process, alone or with others, or it is connected."""
    return _connected() or {"RANK", "WORLD_SIZE"} <= os.environ.keys()


def is_main() -> bool:
    """Whether this is the process that writes files and shows progress."""
    return rank() == 0


def join(device: torch.device) -> None:
    """Connect the processes that ``torchrun`` started, if it did and nobody has yet.

    Args:
        device: Where the model is: NCCL connects GPUs, gloo processors.

    Raises:
        ConfigurationError: if this process has its model on the GPU of another one.
    """
    own = int(os.environ.get("LOCAL_RANK", 0))
    if device.type == "cuda" and "LOCAL_RANK" in os.environ and device.index not in (None, own):
        raise ConfigurationError(
            f"process {own} of this machine has its model on {device}, the GPU of another "
            "process. Before the model is built: "
            'torch.cuda.set_device(int(os.environ["LOCAL_RANK"])), and .to("cuda")'
        )
    if _connected() or started() == 1:
        return
    dist.init_process_group("cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo")
    atexit.register(_leave)


def launched() -> None:
    """Under ``torchrun``: take this process's GPU, if there are some, and join the others."""
    gpu = torch.cuda.is_available()
    if gpu and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    join(torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu"))


def all_reduce(values: Tensor) -> Tensor:
    """The sum over the processes of tensors of one shape, on the device of ``values``.

    ``values`` itself is left as it is.
    """
    found = values.detach().clone()
    if world_size() == 1:
        return found
    # NCCL sends from the GPU only, gloo gladly from the CPU.
    sent = found.to(_device())
    dist.all_reduce(sent)
    return sent.to(values.device)


def all_gather(value: Any) -> list[Any]:
    """What each process gave, in the order of the ranks; the same list everywhere.

    It goes through pickle: between the processes of one run, which trust each other.
    """
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


def from_main(make: Callable[[], T]) -> T:
    """What ``make`` gives in the main process, everywhere; so does an exception that it raises."""
    if world_size() == 1:
        return make()
    answer: Any = None
    if is_main():
        try:
            answer = make(), None
        except Exception as error:  # the others wait for an answer, whatever it is
            answer = None, error
    value, raised = all_gather(answer)[0]
    if raised is not None:
        raise raised
    return cast(T, value)


def broadcast(tensor: Tensor) -> None:
    """Overwrite ``tensor`` by that of process 0."""
    if world_size() == 1:
        return
    sent = tensor.detach().to(_device())
    dist.broadcast(sent, 0)
    tensor.detach().copy_(sent)


def barrier() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        dist.barrier()


def share(n: int) -> slice:
    """This process's part of ``n`` rows: contiguous, and no part larger by more than one.

    Example:
        >>> share(10)
        slice(0, 10, None)
    """
    return part(n, rank(), world_size())


def part(n: int, k: int, parts: int) -> slice:
    """The ``k``-th of ``parts`` contiguous parts of ``n`` rows; together they are all of them.

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
    backend = cast(str, dist.get_backend())
    return "cuda" if "nccl" in backend and "gloo" not in backend else "cpu"
