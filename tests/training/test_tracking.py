"""Trackers: what they are told, at which step, once, and without a wait for the device."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch

from artplus import distributed, fit
from artplus.errors import ArtplusWarning, ConfigurationError
from artplus.training.callbacks import (
    Callback,
    Checkpoint,
    GradientClipping,
    MLflow,
    TensorBoard,
    Tracker,
)
from artplus.training.callbacks.tracking import settings
from artplus.training.state import Meter
from tests.toys import arrays, net

X, Y = (torch.from_numpy(v) for v in arrays(24))


class Kept(Tracker):
    """Keeps what it is told."""

    def __init__(self, **options):
        super().__init__(**options)
        self.told, self.figures = [], {}

    def connect(self):
        self.told.append("connect")

    def begin(self, settings, done):
        self.settings = settings
        self.told.append(f"begin {done}")

    def log(self, figures, step):
        for name, value in figures.items():
            self.figures.setdefault(name, {})[step] = value

    def end(self, state, weights, *, finished):
        self.weights_seen = weights
        self.told.append("finished" if finished else "failed")


class On(Callback):
    """Calls a function at one event."""

    watches = True

    def __init__(self, event, what):
        setattr(self, event, what)


def run(*callbacks, model=None, epochs=3, **options):
    torch.manual_seed(0)
    model = model or net()
    optimizer = options.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.1)
    common = {"loss": "trades", "eps": 0.02, "batch_size": 8, "seed": 0, "progress": False}
    common["bounds"] = (0.0, 1.0)
    return fit(model, (X, Y), optimizer, callbacks=callbacks, epochs=epochs, **common | options)


def stop_at(step):
    """A break-down after a step."""

    def fail(state):
        if state.step == step:
            raise InterruptedError("the power went")

    return On("on_step_end", fail)


# What is told


def test_figures_of_a_step_are_those_of_its_batch_and_rows_stand_at_their_step():
    """The loss at every n-th step is the batch's own, beside its rate; rows are the history's."""
    own, seen = Kept(every_steps=2), {}

    def follow(state):
        before = seen.get("sum", 0.0) if state.step % 3 != 1 else 0.0
        now = state.meter.read()["loss"] * 8 * ((state.step - 1) % 3 + 1)
        seen[state.step], seen["sum"] = (now - before) / 8, now

    history = run(own, On("on_step_end", follow))
    assert own.told == ["connect", "begin 0", "finished"]
    assert list(own.figures["step/loss"]) == [2, 4, 6, 8]
    for step, loss in own.figures["step/loss"].items():
        assert loss == pytest.approx(seen[step], rel=1e-4)
    assert set(own.figures["step/lr"].values()) == {0.1}
    assert {"step/clean_accuracy", "step/adversarial_accuracy"} <= set(own.figures)
    for name in ("loss", "epoch", "seconds", "lam"):
        assert list(own.figures[f"epoch/{name}"].items()) == [
            (3 * (i + 1), row[name]) for i, row in enumerate(history)
        ]


def test_the_rate_of_a_step_is_the_one_it_moved_by():
    """A scheduler that moves the rate after the step does not change what is told of it."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    halves = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    own = Kept(every_steps=1)
    run(own, model=model, optimizer=optimizer, scheduler=halves, scheduler_interval="batch",
        epochs=1)  # fmt: skip
    assert list(own.figures["step/lr"].values()) == pytest.approx([0.1, 0.05, 0.025])


def test_columns_written_by_later_callbacks_are_in_the_row():
    """A row is told when it is whole, whatever the order of the callbacks."""
    own = Kept()
    late = On("on_epoch_end", lambda state: state.row.update(extra=7.0, word="no number"))
    run(own, late, epochs=1)
    assert own.figures["epoch/extra"] == {3: 7.0} and "epoch/word" not in own.figures


def test_settings_say_how_it_was_trained():
    """Method, λ, radius, attack, optimizer, engine: as texts."""
    own = Kept()
    run(own, epochs=1, lam=4.0, micro_batch=4, label_smoothing=0.1)
    assert own.settings | {
        "method": "trades", "lam": "4", "eps": "0.02", "norm": "inf", "engine": "torch",
        "attack": "artplus.attacks.pgd.PGD", "attack.steps": "10", "micro_batch": "4",
        "label_smoothing": "0.1", "optimizer": "SGD", "lr": "0.1", "processes": "1",
        "precision": "fp32", "epochs": "1", "batches_per_epoch": "3", "device": "cpu",
    } == own.settings  # fmt: skip
    assert all(isinstance(value, str) for value in own.settings.values())
    run(own, epochs=1, loss="input_gradient", eps=None)
    assert own.settings["method"] == "input_gradient" and "eps" not in own.settings


def test_a_figure_of_a_step_reads_nothing_from_the_device(monkeypatch):
    """Between rows the meter is never read: what a step gives is handed on as it is."""
    reads = []
    monkeypatch.setattr(Meter, "read", lambda self: reads.append(1) or {})
    own, counts = Kept(every_steps=1), []
    run(own, On("on_step_end", lambda state: counts.append(len(reads))), epochs=1)
    assert counts == [0, 0, 0] and len(own.figures["step/loss"]) == 3


def test_training_is_the_same_with_and_without():
    """A tracker watches: not a bit of the weights depends on it."""
    a, b = net(), net()
    b.load_state_dict(a.state_dict())
    run(model=a)
    run(Kept(every_steps=1), model=b)
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.mark.parametrize("every", [0, 1.5, True])
def test_steps_between_figures_are_a_count(every):
    """Nothing but whole numbers from one."""
    with pytest.raises(ConfigurationError, match="every_steps must be a whole number >= 1"):
        TensorBoard("never-made", every_steps=every)


# Breaking, resuming, several processes


def test_a_tracker_that_breaks_is_left_alone():
    """One warning, no lost training; what never began is an error."""

    class Broken(Kept):
        def log(self, figures, step):
            raise OSError("no space left on device")

    own = Broken(every_steps=1)
    with pytest.warns(
        ArtplusWarning, match="Broken failed .* training goes on: OSError: no"
    ) as got:
        history = run(own)
    assert len(history) == 3
    assert sum("left alone" in str(w.message) for w in got) == 1
    assert own.told == ["connect", "begin 0"]

    class Unreachable(Kept):
        def begin(self, settings, done):
            raise ConfigurationError("there is no server")

    with pytest.raises(ConfigurationError, match="no server"):
        run(Unreachable())


def test_an_error_ends_it_as_failed_and_weights_come_only_if_wanted():
    """``finished`` is false after an error; final weights are those handed out."""
    own = Kept()
    own.weights = True
    with pytest.raises(InterruptedError):
        run(own, stop_at(5))
    assert own.told[-1] == "failed" and own.weights_seen is None
    model = net()
    run(own, GradientClipping(1.0), model=model)
    assert own.told[-1] == "finished"
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in own.weights_seen.items())
    own.weights = False
    run(own)
    assert own.weights_seen is None


def test_a_resumed_run_continues_the_curves(tmp_path):
    """It begins after the checkpoint's steps, and both parts together are the whole run's."""
    whole, one, two = Kept(every_steps=1), Kept(every_steps=1), Kept(every_steps=1)
    run(whole)
    with pytest.raises(InterruptedError):
        run(one, Checkpoint(tmp_path, every_steps=1), stop_at(5))
    run(two, Checkpoint(tmp_path), resume=tmp_path)
    assert two.told == ["connect", "begin 4", "finished"]
    joined = one.figures["step/loss"] | two.figures["step/loss"]
    assert list(joined) == list(whole.figures["step/loss"])
    assert joined == pytest.approx(whole.figures["step/loss"])
    assert list(two.figures["epoch/loss"]) == [6, 9]
    again = Kept()
    run(again, Checkpoint(tmp_path), resume=tmp_path)  # nothing is left to be done
    assert again.told == ["connect"]


def test_only_the_first_process_writes(monkeypatch):
    """Another one connects, so that what is missing is missed everywhere, and is silent."""
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    own = Kept(every_steps=1)
    run(own)
    assert own.told == ["connect"] and own.figures == {}


# TensorBoard


def events(folder):
    """All that TensorBoard would show."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    found = accumulator(str(folder), {"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def curve(folder, name):
    return [(event.step, event.value) for event in events(folder).Scalars(name)]


def test_tensorboard_shows_curves_settings_and_notes(tmp_path):
    """Steps, rows, the table of settings, hyper-parameters and notes are in the event files."""
    pytest.importorskip("tensorboard")
    said = On("on_fit_begin", lambda state: state.history.notes.append("a word"))
    history = run(TensorBoard(tmp_path / "logs", every_steps=3), said)
    found = events(tmp_path / "logs")
    steps, values = zip(*curve(tmp_path / "logs", "epoch/loss"), strict=True)
    assert steps == (3, 6, 9) and values == pytest.approx(history["loss"])
    assert [step for step, _ in curve(tmp_path / "logs", "step/loss")] == [3, 6, 9]
    assert found.Scalars("final/loss")[0].value == pytest.approx(history["loss"][-1])
    texts = {name: found.Tensors(name)[0].tensor_proto.string_val[0].decode()
             for name in found.Tags()["tensors"]}  # fmt: skip
    assert "| eps | 0.02 |" in texts["settings/text_summary"]
    assert texts["notes/text_summary"] == "- a word"
    assert "_hparams_/session_start_info" in str(found.SummaryMetadata) or any(
        name.startswith("_hparams_") for name in found.summary_metadata
    )


def test_tensorboard_hides_what_a_resumed_run_writes_again(tmp_path):
    """Each step once, whatever was written after the checkpoint; a new run hides the old one."""
    pytest.importorskip("tensorboard")
    logs, saved = tmp_path / "logs", tmp_path / "saved"
    with pytest.raises(InterruptedError):
        run(TensorBoard(logs, every_steps=1), Checkpoint(saved), stop_at(5))
    assert [step for step, _ in curve(logs, "step/loss")] == [1, 2, 3, 4, 5]
    run(TensorBoard(logs, every_steps=1), Checkpoint(saved), resume=saved)
    assert [step for step, _ in curve(logs, "step/loss")] == list(range(1, 10))
    assert [step for step, _ in curve(logs, "epoch/loss")] == [3, 6, 9]
    run(TensorBoard(logs, every_steps=1), epochs=1)
    assert [step for step, _ in curve(logs, "step/loss")] == [1, 2, 3]


def test_a_folder_that_cannot_be_made_is_refused_before_training(tmp_path):
    """A file stands in its place."""
    pytest.importorskip("tensorboard")
    (tmp_path / "logs").touch()
    with pytest.raises(ConfigurationError, match="logs cannot be written"):
        run(TensorBoard(tmp_path / "logs"))


# MLflow


@pytest.fixture
def client(tmp_path, monkeypatch):
    """MLflow in a folder."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "runs").as_uri()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield mlflow.MlflowClient(tracking_uri=uri), uri


def runs(client, name="artplus"):
    return client.search_runs([client.get_experiment_by_name(name).experiment_id])


def test_mlflow_holds_settings_curves_notes_and_weights(client):
    """One finished run with all that is told; weights only if asked for."""
    client, uri = client
    model = net()
    said = On("on_fit_begin", lambda state: state.history.notes.append("a word"))
    tracker = MLflow("digits", name="first", uri=uri, tags={"data": "v2"}, weights=True,
                     every_steps=3)  # fmt: skip
    history = run(tracker, said, model=model)
    (found,) = runs(client, "digits")
    assert found.info.run_id == tracker.run_id and found.info.status == "FINISHED"
    assert found.info.run_name == "first" and found.data.tags["data"] == "v2"
    assert found.data.params["method"] == "trades" and found.data.params["eps"] == "0.02"
    rows = client.get_metric_history(tracker.run_id, "epoch/loss")
    assert [m.step for m in rows] == [3, 6, 9]
    assert [m.value for m in rows] == pytest.approx(history["loss"])
    assert [m.step for m in client.get_metric_history(tracker.run_id, "step/loss")] == [3, 6, 9]
    kept = torch.load(client.download_artifacts(tracker.run_id, "weights.pt"))
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())
    with open(client.download_artifacts(tracker.run_id, "notes.txt")) as notes:
        assert notes.read() == "a word\n"
    run(MLflow("digits", uri=uri), epochs=1)
    latest = runs(client, "digits")[0]
    assert [file.path for file in client.list_artifacts(latest.info.run_id)] == []


def test_mlflow_goes_on_with_the_run_of_the_checkpoint(client, tmp_path):
    """A run that failed is finished by the resumed one; there are not two."""
    client, uri = client
    with pytest.raises(InterruptedError):
        run(MLflow(uri=uri, every_steps=1), Checkpoint(tmp_path / "c"), stop_at(5))
    (found,) = runs(client)
    assert found.info.status == "FAILED"
    run(MLflow(uri=uri, every_steps=1), Checkpoint(tmp_path / "c"), resume=tmp_path / "c")
    (found,) = runs(client)
    assert found.info.status == "FINISHED"
    steps = [m.step for m in client.get_metric_history(found.info.run_id, "step/loss")]
    assert set(steps) == set(range(1, 10))
    assert [m.step for m in client.get_metric_history(found.info.run_id, "epoch/loss")] == [3, 6, 9]


def test_mlflow_added_to_a_resumed_run_begins_a_run_there(client, tmp_path):
    """The checkpoint knows of none."""
    client, uri = client
    with pytest.raises(InterruptedError):
        run(Checkpoint(tmp_path / "c"), stop_at(5))
    run(MLflow(uri=uri), Checkpoint(tmp_path / "c"), resume=tmp_path / "c")
    (found,) = runs(client)
    rows = client.get_metric_history(found.info.run_id, "epoch/loss")
    assert [m.step for m in rows] == [6, 9]


def test_mlflow_out_of_reach_is_an_error_before_training(tmp_path, monkeypatch):
    """Not a traceback of its own, and not after an hour."""
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    (tmp_path / "runs").touch()
    with pytest.raises(ConfigurationError, match="MLflow could not begin a run"):
        run(MLflow(uri=(tmp_path / "runs").as_uri()))


@pytest.mark.parametrize(
    ("tracker", "library", "match"),
    [
        (TensorBoard("never-made"), "tensorboard", "TensorBoard needs tensorboard"),
        (MLflow(), "mlflow", "MLflow needs mlflow-skinny or mlflow"),
    ],
    ids=["tensorboard", "mlflow"],
)
def test_a_missing_library_is_named_with_its_extra(tracker, library, match, monkeypatch):
    """Before training, and only when the callback is used."""
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigurationError, match=rf"{match}: pip install 'artplus\[tracking\]'"):
        run(tracker)


def test_settings_of_a_state_need_no_tracker():
    """They are a plain function of the state."""
    found = {}
    run(On("on_fit_begin", lambda state: found.update(settings(state))), epochs=1)
    assert found["model"] == "Sequential" and int(found["parameters"]) > 0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_nobody_waits_for_a_step():
    """Torch's own watch over synchronisations is silent while a step is told, and figures come."""

    class Watched(Kept):
        def on_step_begin(self, state):
            self._silently(super().on_step_begin, state)

        def on_step_end(self, state):
            self._silently(super().on_step_end, state)

        def _silently(self, work, state):
            torch.cuda.set_sync_debug_mode("error")
            try:
                work(state)
            finally:
                torch.cuda.set_sync_debug_mode("default")

    own, same_figures = Watched(every_steps=1), {}

    def follow(state):
        if state.step % 3 == 1:  # the epoch's first batch is all that the meter holds
            same_figures[state.step] = state.meter.read()["loss"]

    model = net().cuda()
    run(own, On("on_step_end", follow), model=model)
    assert list(own.figures["step/loss"]) == list(range(1, 10))
    assert {s: own.figures["step/loss"][s] for s in same_figures} == pytest.approx(same_figures)
    with pytest.raises(RuntimeError, match="synchroniz"):  # the watch can see one
        torch.cuda.set_sync_debug_mode("error")
        try:
            torch.ones(1, device="cuda").item()
        finally:
            torch.cuda.set_sync_debug_mode("default")
