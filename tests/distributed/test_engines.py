"""Two processes on one machine are one process, to rounding, with every engine."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from artplus.errors import CheckpointError, ConfigurationError
from artplus.training import checkpoint
from artplus.training.engines import Engine, as_engine
from tests.distributed import cases

ENGINES = ("ddp", "fsdp2", "accelerate")

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)


@pytest.fixture(scope="module", params=ENGINES)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Engine, folder, and what each of two processes found."""
    name = request.param
    if name == "accelerate":
        pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        patch.setenv("MASTER_PORT", str(free_port()))
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.multiprocessing.spawn(cases.work, (2, str(folder), name), nprocs=2)
    return name, folder, [torch.load(folder / f"{name}.{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """The same trainings in one process."""
    return {case: run("torch") for case, run in cases.CASES.items()}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def close(a: dict[str, Any], b: dict[str, Any]) -> None:
    torch.testing.assert_close(a["weights"], b["weights"], atol=2e-6, rtol=1e-4)
    for one, other in zip(a["rows"], b["rows"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("case", cases.CASES)
def test_two_processes_equal_one(ranks, alone, case):
    """Weights and figures, for every loss, step and callback; both processes hold the same."""
    _, _, (first, second) = ranks
    close(first[case], alone[case])
    close(second[case], first[case])


def test_batch_norm_sees_the_part_of_each_process(ranks):
    """As one process that takes the batch in two parts."""
    _, _, (first, _) = ranks
    reference = cases.batch_norm("torch", 8)["weights"]
    found = first["batch norm"]["weights"]
    for name in reference.keys() - {"1.num_batches_tracked"}:  # one process counts both parts
        torch.testing.assert_close(found[name], reference[name], atol=2e-6, rtol=1e-4)


def test_running_statistics_are_averaged(ranks):
    """Each process has seen other examples, and all hold the same afterwards."""
    _, _, (first, second) = ranks
    one, other = (own["interrupted"]["through"]["weights"] for own in (first, second))
    assert float(one["1.running_mean"].abs().sum()) > 0
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_the_inner_loop_sends_nothing(ranks):
    """As many messages with six attack steps as with one, and there are some."""
    _, _, (first, _) = ranks
    few, many = first["communication"]
    assert few == many > 0


@pytest.mark.parametrize("kind", ["interrupted", "interrupted, partly frozen"])
def test_an_interrupted_run_goes_on_bit_for_bit(ranks, kind):
    """With dropout, random starts, batch statistics, averaged weights: each in its own process."""
    _, _, found = ranks
    for own in found:
        through, resumed = own[kind]["through"], own[kind]["resumed"]
        assert through["rows"] == resumed["rows"]
        for name, value in through["weights"].items():
            assert torch.equal(value, resumed["weights"][name]), name


def test_a_checkpoint_of_several_processes_leaves_out_frozen_weights(ranks):
    """Whole weights where they are trained, none where they are not."""
    _, folder, (first, _) = ranks
    newest = max((folder / "partly frozen").iterdir())
    saved = checkpoint.read(newest)["model"]
    through = first["interrupted, partly frozen"]["through"]["weights"]
    assert through.keys() - saved.keys() == {"0.weight", "0.bias"}
    assert all(saved[name].shape == through[name].shape for name in saved)
    for name, value in cases.net(batch_norm=True, dropout=0.3)[0].named_parameters():
        assert torch.equal(through[f"0.{name}"], value)


def test_another_number_of_processes_is_refused(ranks):
    """Their random streams would be others, so the run would be another."""
    _, folder, _ = ranks
    with pytest.raises(CheckpointError, match="plan.processes: 2 in the checkpoint, 1 now"):
        cases.train(
            "torch",
            cases.net(batch_norm=True, dropout=0.3),
            attack=cases.PGD(eps=0.1, steps=2),
            callbacks=[cases.EMA(0.9)],
            validation=cases.data(20),
            resume=folder / "checkpoints",
        )


def test_a_distributed_sampler_has_its_own_way(ranks):
    """It deals out the data itself: each example once an epoch, in another order the next."""
    name, _, found = ranks
    if name != "ddp":
        pytest.skip("the same for all engines, so looked at with one")
    for epoch in range(2):
        both = [b for own in found for b in own["sampled"][3 * epoch : 3 * epoch + 3]]
        assert sorted(v for batch in both for v in batch) == list(range(cases.N))
    assert found[0]["sampled"][:3] != found[0]["sampled"][3:]


def test_a_shuffling_loader_has_one_order_for_all(ranks):
    """Its order comes from the global stream, which differs between processes."""
    name, _, (first, second) = ranks
    if name != "ddp":
        pytest.skip("the same for all engines, so looked at with one")
    close(first["random order"], second["random order"])
    rows = first["random order"]["rows"]
    assert all(row["loss"] > 0 for row in rows)


def test_an_accelerators_accumulation_splits_the_batch(ranks, alone):
    """A step of the weights sees one batch however many parts the accelerator is told to make."""
    name, _, found = ranks
    if name != "accelerate":
        pytest.skip("only Accelerate has such a setting of its own")
    for own in found:
        close(own["accumulating accelerator"], alone["trades"])


def near(found: dict[str, Any], full: dict[str, Any]) -> None:
    """Attack and step in bf16, perturbations and weights in fp32, these near the run in fp32."""
    assert found["seen"] == {
        "attack": {torch.bfloat16}, "step": {torch.bfloat16}, "x_adv": {torch.float32}
    }  # fmt: skip
    gap = way = 0.0
    for name, begin in cases.net().state_dict().items():
        assert found["weights"][name].dtype == torch.float32
        gap += float((found["weights"][name] - full["weights"][name]).norm())
        way += float((full["weights"][name] - begin).norm())
    assert 0 < gap < 0.1 * way


def test_two_processes_in_bf16_are_near_those_in_fp32(ranks):
    """By DDP and by Accelerate's own mixed precision; both processes hold the same weights."""
    name, _, (first, second) = ranks
    if name == "fsdp2":
        pytest.skip("its arithmetic is that of DDP")
    near(first["bf16"], first["at"])
    near(second["bf16"], second["at"])
    assert first["bf16"]["rows"] == second["bf16"]["rows"]
    close(second["bf16"], first["bf16"])


@pytest.fixture
def accelerator(monkeypatch):
    """Makes an ``Accelerator``; what it leaves in the process is cleared away."""
    accelerate = pytest.importorskip("accelerate")
    from accelerate.state import AcceleratorState

    with mock.patch.dict("os.environ"):
        AcceleratorState._reset_state(reset_partial_state=True)
        yield lambda **options: accelerate.Accelerator(cpu=True, **options)
        AcceleratorState._reset_state(reset_partial_state=True)


def test_an_accelerator_in_bf16_is_near_one_in_fp32(accelerator, alone):
    """In one process, attack and step by its mixed precision."""
    near(cases.half(accelerator(mixed_precision="bf16")), alone["at"])


def test_an_accelerator_that_ignores_its_precision_is_refused(accelerator):
    """It takes fp16 on a processor and trains in fp32 without a word."""
    with pytest.raises(ConfigurationError, match="would train in fp32: .* device is cpu"):
        as_engine(accelerator(mixed_precision="fp16"))


def test_an_accelerator_that_compiles_takes_no_second_derivatives(accelerator):
    """As with compile=."""
    with pytest.raises(ConfigurationError, match="torch.compile does not .* its dynamo_backend"):
        cases.train(accelerator(dynamo_backend="inductor"), **cases.loss("input_gradient"))


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_an_engine_of_several_processes_needs_a_launcher(monkeypatch, name):
    """Both say so alike, before any work; a launcher of one process is enough."""
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(variable, raising=False)
    model = cases.net()
    before = cases.whole(model)
    with pytest.raises(ConfigurationError, match=f"engine='{name}' is for .* Run torchrun"):
        cases.train(name, model)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigurationError, match="nothing was started"):
        cases.train("auto", model)
    assert not torch.distributed.is_initialized()
    torch.testing.assert_close(cases.whole(model), before, rtol=0, atol=0)


def one(_: int, folder: str, name: str) -> None:
    """The same training in the one process that a launcher started."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    torch.set_num_threads(1)
    torch.save(cases.CASES["at"](name), Path(folder) / "one.pt")


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_a_launcher_may_start_one_process(monkeypatch, tmp_path, alone, name):
    """``torchrun --nproc_per_node 1``: what one process gives."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    torch.multiprocessing.spawn(one, (str(tmp_path), name), nprocs=1)
    close(torch.load(tmp_path / "one.pt"), alone["at"])


def test_an_unknown_engine_is_refused():
    with pytest.raises(ConfigurationError, match="engine must be one of auto, torch, ddp"):
        as_engine("horovod")


def test_settings_beside_an_engine_with_its_own_are_refused():
    with pytest.raises(ConfigurationError, match="this one has its own settings"):
        as_engine(Engine(), precision="bf16")


def test_one_process_knows_what_it_is(monkeypatch):
    """``auto`` is plain torch where nothing else was started."""
    for name in ("WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    assert as_engine("auto").name == "torch"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert as_engine("auto").name == "ddp"


def test_compilation_of_shards_is_refused():
    with pytest.raises(ConfigurationError, match="compile is not supported with fsdp2"):
        as_engine("fsdp2", compile=True)


def test_a_worker_that_fails_says_so(tmp_path: Path):
    """The worker's cases run under one process too, so that a failure there is seen here."""
    found = cases.interrupted("torch", tmp_path)
    assert found["through"]["rows"] == found["resumed"]["rows"]
