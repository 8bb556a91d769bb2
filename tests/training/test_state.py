"""What a run remembers: meters, history, progress, seeds."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from torch import nn

from artplus.attacks import PGD
from artplus.errors import ConfigurationError, DataError
from artplus.losses import mix
from artplus.model import LossModel
from artplus.seeding import derived, seeded
from artplus.training import History, Method, Run, State, fit
from artplus.training.state import Meter, clone
from tests.toys import arrays, net, same, weights


def state(*, epochs: int = 4, per_epoch: int | None = 5) -> State:
    model = nn.Linear(6, 3)
    return State(
        model=LossModel(model),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        method=Method(objective=mix(), attack=PGD(eps=0.1)),
        epochs=epochs,
        batches_per_epoch=per_epoch,
        generator=torch.Generator(),
    )


# Meter


def test_a_meter_is_the_mean_over_examples_not_over_batches():
    """Batches of different size count by their examples; names are apart."""
    meter = Meter()
    a, b = torch.rand(3), torch.rand(5)
    meter.add("loss", a)
    meter.add("loss", b)
    meter.add("hit", torch.tensor([True, False]))
    assert meter.read() == {
        "loss": pytest.approx(float(torch.cat([a, b]).mean())),
        "hit": 0.5,
    }
    assert "loss" in meter and "miss" not in meter
    assert Meter().read() == {}


def test_a_meter_keeps_no_graph():
    """Figures do not hold on to the network's memory."""
    meter = Meter()
    meter.add("loss", torch.rand(3, requires_grad=True) * 2)
    assert not meter._sums["loss"].requires_grad


# State


@pytest.mark.parametrize("per_epoch, expected", [(5, 7 / 20), (None, 0.25)])
def test_progress_counts_steps_where_it_can(per_epoch, expected):
    """By steps of the planned total, else by epochs."""
    s = state(per_epoch=per_epoch)
    s.step, s.epoch = 7, 1
    assert s.progress == expected
    assert s.total_steps == (None if per_epoch is None else 20)
    s.step = 99
    assert s.progress <= 1.0


def test_the_candidate_holds_averaged_weights_and_gives_training_ones_back():
    """Also after an error in between."""
    s = state()
    own = weights(s.model.module)
    with s.candidate() as model:
        assert same(weights(model.module), own)
    s.averaged = {k: v + 1 for k, v in own.items()}
    with pytest.raises(RuntimeError, match="within"), s.candidate() as model:
        assert same(weights(model.module), s.averaged)
        raise RuntimeError("within")
    assert same(weights(s.model.module), own)
    assert same(s.weights(), s.averaged)
    s.averaged = None
    copied = s.weights()
    with torch.no_grad():
        s.model.module.weight.add_(1)
    assert same(copied, own)


def test_clone_copies_what_is_no_tensor():
    """Extra state of a module may be anything."""
    given = {"w": torch.ones(2), "extra": {"n": [1]}}
    copied = clone(given)
    given["w"].add_(1)
    given["extra"]["n"].append(2)
    assert copied["w"].tolist() == [1, 1] and copied["extra"] == {"n": [1]}


# History

ROWS = [
    {"epoch": 1, "loss": 2.0, "clean_accuracy": 0.5},
    {"epoch": 2, "loss": 1.0, "val_clean_accuracy": 0.75},
]


def test_history_round_trips_through_json(tmp_path):
    """Rows and notes come back as they were, and the file is plain JSON."""
    history = History(ROWS)
    history.notes.append("kept the best")
    path = history.save(tmp_path / "history.json")
    again = History.load(path)
    assert again.rows == ROWS and again.notes == ["kept the best"]
    assert json.loads(path.read_text())["rows"] == ROWS


def test_history_columns_leave_out_epochs_without_them():
    """A column is a list; an unknown one names those that are known."""
    history = History(ROWS)
    assert history["loss"] == [2.0, 1.0] and history["val_clean_accuracy"] == [0.75]
    assert [row["epoch"] for row in history] == [1, 2] and len(history) == 2
    with pytest.raises(KeyError, match="clean_accuracy, epoch, loss, val_clean_accuracy"):
        history["accuracy"]
    assert repr(history) == "History(2 epochs; last: epoch=2, loss=1, val_clean_accuracy=0.75)"
    assert repr(History()) == "History(0 epochs; last: )"


@pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"rows": [], "notes": 3}'])
def test_what_is_no_history_is_refused(text, tmp_path):
    """Other files say what they are not."""
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(DataError, match="is not a history written by History.save"):
        History.load(path)


@pytest.mark.parametrize("suffix, magic", [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_history_draws_itself(suffix, magic, tmp_path):
    """save() of a picture's name plots; so does plot()."""
    plots = pytest.importorskip("matplotlib") and History(ROWS)
    path = plots.save(tmp_path / f"history{suffix}")
    assert path.read_bytes().startswith(magic)
    assert plots.plot(tmp_path / "again.png").stat().st_size > 1000


def test_a_fits_history_is_plain_data():
    """Every figure is a Python number, so that it saves."""
    model = net()
    history = fit(
        model,
        tuple(torch.from_numpy(v) for v in arrays(16)),
        torch.optim.SGD(model.parameters(), lr=0.1),
        eps=0.3,
        epochs=2,
        validation=arrays(8, seed=1),
        progress=False,
    )
    assert json.loads(json.dumps(history.to_dict())) == history.to_dict()
    assert set(history.rows[0]) == {
        "epoch",
        "lr",
        "lam",
        "loss",
        "clean_accuracy",
        "adversarial_accuracy",
        "adversarial_examples",
        "seconds",
        "eps_scale",
        "val_clean_accuracy",
        "val_adversarial_accuracy",
    }


# Seeds


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_seeded_gives_the_same_draws_and_the_callers_states_back():
    """All three generators, also after an error."""
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    found = []
    for _ in range(2):
        with pytest.raises(RuntimeError, match="inside"), seeded(7) as seed:
            found.append([seed, *draws()])
            raise RuntimeError("inside")
    assert found[0] == found[1] and found[0][0] == 7
    assert draws() == expected


def test_without_a_seed_the_callers_is_honoured():
    """torch.manual_seed decides, and the streams go on."""
    torch.manual_seed(4)
    with seeded(None) as first:
        pass
    torch.manual_seed(4)
    with seeded(None) as second:
        pass
    with seeded(None) as third:
        pass
    assert first == second != third


def test_parts_of_a_seed_are_apart():
    """Named parts do not move each other."""
    assert derived(0, "a") == derived(0, "a")
    assert len({derived(0, "a"), derived(0, "b"), derived(1, "a")}) == 3


@pytest.mark.parametrize(
    "options, match",
    [
        ({"epochs": 0}, "epochs must be"),
        ({"batch_size": 1.5}, "batch_size must be"),
        ({"seed": -1}, "seed must be"),
        ({"callbacks": [1]}, "Callback objects"),
    ],
)
def test_a_run_that_cannot_work(options, match):
    """Refused when it is made."""
    with pytest.raises(ConfigurationError, match=match):
        Run(**options)
