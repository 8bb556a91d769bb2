"""A hardened Trainer in two processes is one in one, to rounding, under DDP and FSDP2."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
if not torch.distributed.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

from tests.distributed.test_engines import free_port
from tests.huggingface import workers


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Wrapper, and what each of two processes found."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        patch.setenv("MASTER_PORT", str(free_port()))
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.multiprocessing.spawn(workers.work, (2, str(folder), request.param), nprocs=2)
    return request.param, [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", workers.CASES)
def test_two_processes_equal_one(ranks, case, tmp_path):
    """Weights, and every figure of the log but accuracies of ties."""
    kind, (first, second) = ranks
    alone = workers.run(tmp_path, case)
    assert first[case]["sharded"] == (kind == "fsdp2")
    torch.testing.assert_close(first[case]["weights"], alone["weights"], atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(second[case]["weights"], first[case]["weights"], atol=0, rtol=0)
    for one, other in zip(first[case]["log"], alone["log"], strict=True):
        for name in other.keys() - {"clean_accuracy", "adversarial_accuracy"}:
            assert one[name] == pytest.approx(other[name], abs=1e-5), name
