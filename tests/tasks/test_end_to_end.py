"""Every kind of model trained, interrupted, in parts, on two processes, and judged."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import artplus
from artplus.attacks import PGD
from artplus.errors import ConfigurationError
from artplus.spaces import EmbeddingSpace
from artplus.training import make_method
from artplus.training.callbacks import EMA
from artplus.training.steps import AWP
from tests.distributed.test_engines import free_port
from tests.tasks import cases, models
from tests.tasks.cases import CASES, Case, train

pytest.importorskip("transformers")

ADAM = partial(torch.optim.Adam, lr=0.02)
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def close(a: dict[str, Any], b: dict[str, Any], rtol: float) -> None:
    """Each weight to a share of its tensor's largest."""
    for name, value in a.items():
        if value.is_floating_point():  # parts count their batches
            atol = rtol * float(value.abs().max()) + 1e-8
            torch.testing.assert_close(value, b[name], atol=atol, rtol=0)


@EACH
@pytest.mark.parametrize("loss", ["mix", "trades"])
def test_it_is_hardened_and_judged(case: Case, loss: str) -> None:
    """The robust loss falls; what has no divergence is refused by what compares predictions."""
    if loss == "trades" and not case.divergent:
        with pytest.raises(ConfigurationError, match="'detection' has no divergence"):
            train(case, loss=loss)
        return
    before = case.judged(case.model(0.0))
    model, history = train(case, loss=loss, epochs=8, attack=case.attack(), optimizer=ADAM)
    after = case.judged(model)
    assert after.robust_metrics["loss"] < 0.9 * before.robust_metrics["loss"]
    (attack,) = after.attacks
    assert attack.broken is None and attack.changed > 0 and attack.max_norm <= case.eps * 5
    assert after.robust_metrics["loss"] > after.clean_metrics["loss"]
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].argument == "auto"])
def test_the_task_by_name_is_the_one_that_is_inferred(name: str) -> None:
    """Weights are the same to the bit."""
    case = CASES[name]
    model, _ = train(case)
    named, _ = train(case, task=case.task)
    assert same(model, named)


class Language(nn.Module):
    """A language model of one's own, whose class tells nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru = nn.Embedding(24, 6), nn.GRU(6, 8, batch_first=True)
        self.head = nn.Linear(8, 24)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.gru(self.embed(input_ids))[0])


@pytest.mark.parametrize("shifted", [False, True])
def test_labels_that_are_the_ids_are_those_of_the_next_token(shifted: bool) -> None:
    """Labels shifted by hand are taken as they are: none is shifted again."""
    data = cases.language(cases.N)
    if shifted:
        data["labels"] = data["labels"].roll(-1, 1)
        data["labels"][:, -1] = -100
    case = replace(CASES["llama"], model=lambda p: Language())
    model, _ = train(case, data=data)
    named, _ = train(case, data=data, task="segmentation" if shifted else "causal_lm")
    assert same(model, named)
    report = case.judged(model)
    assert "perplexity" in report.clean_metrics


def test_a_loop_of_ones_own() -> None:
    """On columns of a tokenizer, and without a perturbation twice the model's own loss."""
    model, data = models.make("llama").eval(), cases.language(cases.N)
    labels = data.pop("labels")
    method = make_method("mix", attack=PGD(eps=0.0, norm=2, steps=1), space=EmbeddingSpace())
    expected = 2 * model(**data, labels=labels).loss
    torch.testing.assert_close(method.loss(model, data, labels), expected)


@EACH
def test_perturbed_weights_and_averages(case: Case) -> None:
    """AWP and EMA see nothing of what inputs and targets are."""
    averaged, _ = train(case, callbacks=[EMA(0.9)], optimizer=ADAM, epochs=3)
    both, history = train(case, step=AWP(0.01), callbacks=[EMA(0.9)], optimizer=ADAM, epochs=3)
    assert not same(averaged, both) and history["loss"][-1] < history["loss"][0]


@EACH
@pytest.mark.parametrize("loss", ["mix", "trades"])
def test_parts_of_a_batch_are_the_whole(case: Case, loss: str) -> None:
    """Parts of three examples and fewer, attack and step alike."""
    objective = artplus.make_loss(loss if case.divergent else "at")
    climbs = replace(objective, inner=None, start_noise=0.0)  # so that nothing is drawn
    whole, rows = train(case, loss=climbs)
    parts, others = train(case, loss=climbs, micro_batch=3)
    close(whole.state_dict(), parts.state_dict(), 1e-5)
    for one, other in zip(cases.figures(rows), cases.figures(others), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@EACH
def test_an_interrupted_run_goes_on_bit_for_bit(case: Case, tmp_path) -> None:
    """In the middle of an epoch, with dropout, random starts and averaged weights."""
    (through, rows), (resumed, others) = cases.interrupted(case, tmp_path)
    assert same(through, resumed) and cases.figures(rows) == cases.figures(others)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What each of two processes ends with."""
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        patch.setenv("MASTER_PORT", str(free_port()))
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.multiprocessing.spawn(cases.work, (2, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one(ranks: Any, name: str) -> None:
    """Though tokens, frames, pixels and boxes are dealt out unevenly."""
    model, history = train(CASES[name])
    agree(ranks, name, model, history)


def test_two_processes_pad_their_sentences_to_different_lengths(ranks: Any) -> None:
    """Tokens weigh alike in both, whatever share of a batch they are."""
    model, history = train(CASES["llama"], data=cases.loader(1, 0))
    agree(ranks, "llama, sampled", model, history)


def agree(ranks: Any, name: str, model: nn.Module, history: Any) -> None:
    (weights, rows), (others, _) = (rank[name] for rank in ranks)
    close(model.state_dict(), weights, 1e-5)
    close(weights, others, 0)
    for one, other in zip(cases.figures(history), rows, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
