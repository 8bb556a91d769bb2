"""One process among several: numbers, sums, gathered values; trivial where there is only one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from artplus import distributed


def test_one_process_is_rank_0_of_1_and_talks_to_itself() -> None:
    """Without torch.distributed everything is the value itself, and sums are copies."""
    values = torch.arange(3.0)
    summed = distributed.all_reduce(values)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert torch.equal(summed, values) and summed.data_ptr() != values.data_ptr()
    assert distributed.all_gather("here") == ["here"]
    assert distributed.share(7) == slice(0, 7)
    distributed.barrier()


@given(n=st.integers(0, 200), parts=st.integers(1, 17))
def test_parts_are_every_row_once_and_of_even_size(n: int, parts: int) -> None:
    """Joined in order they are all rows; their sizes differ by one at most."""
    rows = [list(range(n))[distributed.part(n, k, parts)] for k in range(parts)]
    assert sum(rows, []) == list(range(n))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1


def talk(rank: int, size: int, folder: str) -> None:
    """What each process does in the test below."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    try:
        own = torch.tensor([rank + 1.0])
        found: dict[str, Any] = {
            "rank": distributed.rank(),
            "ranks": distributed.world_size(),
            "main": distributed.is_main(),
            "total": distributed.all_reduce(own),
            "own": own,
            "gathered": distributed.all_gather({"from": rank}),
            "share": list(range(5))[distributed.share(5)],
        }
        distributed.barrier()
        torch.save(found, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
def test_two_processes_know_their_numbers_and_hear_each_other(tmp_path: Path) -> None:
    """Both get the same sum and the same list; each has its own number and rows."""
    torch.multiprocessing.spawn(talk, (2, str(tmp_path)), nprocs=2)
    found = [torch.load(tmp_path / f"{k}.pt", weights_only=True) for k in range(2)]
    assert [each["rank"] for each in found] == [0, 1]
    assert [each["main"] for each in found] == [True, False]
    for k, each in enumerate(found):
        assert each["ranks"] == 2
        assert each["total"].item() == 3.0 and each["own"].item() == k + 1
        assert each["gathered"] == [{"from": 0}, {"from": 1}]
    assert [each["share"] for each in found] == [[0, 1, 2], [3, 4]]
