"""The checkpoint file: whole or not there, read only where sound; and whose run it is."""

from __future__ import annotations

import copy
import errno
import functools
import hashlib
import io
import multiprocessing
import os
import pickle
import random
import re
import shutil
import stat
import struct
import warnings
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from art.attacks.evasion import AutoProjectedGradientDescent, ProjectedGradientDescent
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from artplus import AdversarialTrainerPlus, atomic, fingerprint, fit
from artplus.attacks import PGD
from artplus.errors import ArtplusWarning, CheckpointError, ConfigurationError
from artplus.folder_lock import FolderLock
from artplus.losses import Objective, Terms
from artplus.seeding import set_streams, streams
from artplus.training import Resume, checkpoint
from artplus.training.callbacks import (
    EMA,
    Callback,
    Checkpoint,
    EarlyStopping,
    LearningRate,
)
from tests.benchmarks.writers import writers
from tests.toys import arrays, classifier, net, same, weights

X, Y = (torch.from_numpy(v) for v in arrays(24))
PAYLOAD = {
    "weights": OrderedDict(a=torch.rand(3, 2), b=torch.arange(4)),
    "plain": [1, 2.5, "text", None, True, (3, 2**32 - 1), b"raw", {4: "four"}],
    "milestones": Counter([1, 2, 2]),
}


def run(folder=None, *, model=None, resume=None, callbacks=(), data=(X, Y), **options):
    """Two epochs of three steps, saved if there is a folder."""
    model = net() if model is None else model
    optimizer = options.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.1)
    saver = [] if folder is None else [Checkpoint(folder, **options.pop("saving", {}))]
    settings = {"loss": "mix", "eps": 0.02, "epochs": 2, "batch_size": 8, "seed": 0}
    settings["bounds"] = (0.0, 1.0)
    fit(model, data, optimizer, callbacks=[*callbacks, *saver], resume=resume, progress=False,
        **settings | options)  # fmt: skip
    return model


# The file


def test_what_is_written_is_read(tmp_path):
    """Tensors and plain data come back equal, numpy's numbers as Python's, from the named file."""
    odd = {"number": np.float64(1.5), "count": np.int64(3), "flag": np.bool_(True)}
    path = checkpoint.write(tmp_path, 7, PAYLOAD | odd)
    assert path == tmp_path / "step-000000007.ckpt"
    found = checkpoint.read(path)
    assert torch.equal(found["weights"]["a"], PAYLOAD["weights"]["a"])
    assert found["plain"] == PAYLOAD["plain"] and found["milestones"] == PAYLOAD["milestones"]
    assert [type(found[k]) for k in odd] == [float, int, bool]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "value, where",
    [
        ({"a": [1, print]}, r"checkpoint\['a'\]\[1\] is a builtin_function_or_method"),
        ({"a": nn.Linear(1, 1)}, r"checkpoint\['a'\] is a Linear"),
        ({"a": {1, 2}}, "is a set"),
        ({"a": np.zeros(2)}, "is a ndarray"),
    ],
)
def test_what_is_not_plain_is_refused_by_its_place(tmp_path, value, where):
    """No pickle of code is ever written."""
    with pytest.raises(CheckpointError, match=where):
        checkpoint.write(tmp_path, 1, value)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The bytes of a sound checkpoint."""
    return checkpoint.write(tmp_path_factory.mktemp("sound"), 1, PAYLOAD).read_bytes()


@given(data=st.data())
def test_any_flipped_byte_is_noticed(sound, tmp_path, data):
    """Wherever it lies: in the magic, the version, the payload or the digest."""
    place = data.draw(st.integers(0, len(sound) - 1))
    flip = data.draw(st.integers(1, 255))
    path = tmp_path / "flipped.ckpt"
    path.write_bytes(sound[:place] + bytes([sound[place] ^ flip]) + sound[place + 1 :])
    with pytest.raises(CheckpointError, match="flipped.ckpt"):
        checkpoint.read(path)


@pytest.mark.parametrize("place", range(checkpoint.HEADER.size))
def test_every_byte_of_the_header_counts(sound, tmp_path, place):
    """Too few for chance to find them all."""
    path = tmp_path / "flipped.ckpt"
    path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
    with pytest.raises(CheckpointError, match="no artplus checkpoint|format version"):
        checkpoint.read(path)


@given(data=st.data())
def test_any_cut_and_any_addition_is_noticed(sound, tmp_path, data):
    """A file that ends early, as after a power cut without fsync, or goes on."""
    path = tmp_path / "cut.ckpt"
    path.write_bytes(sound[: data.draw(st.integers(0, len(sound) - 1))])
    with pytest.raises(CheckpointError, match="cut.ckpt is (damaged|no artplus checkpoint)"):
        checkpoint.read(path)
    path.write_bytes(sound + data.draw(st.binary(min_size=1, max_size=40)))
    with pytest.raises(CheckpointError, match="cut.ckpt is damaged"):
        checkpoint.read(path)


def sealed(body: bytes, version: int = checkpoint.VERSION) -> bytes:
    """What a forger would write who knows the format: any body, with a digest that fits."""
    head = checkpoint.HEADER.pack(checkpoint.MAGIC, version) + body
    return head + hashlib.sha256(head).digest()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_is_never_run(tmp_path):
    """A forged payload with a fitting digest is refused before anything in it is called."""
    ran = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(ran),)

    body = io.BytesIO()
    torch.save({"model": Bomb()}, body)
    path = tmp_path / "forged.ckpt"
    for content in (body.getvalue(), pickle.dumps(Bomb()), b"", b"noise" * 50):
        path.write_bytes(sealed(content))
        with pytest.raises(CheckpointError, match="holds more than tensors and plain data"):
            checkpoint.read(path)
    assert not ran.exists()
    body = io.BytesIO()
    torch.save([1, 2], body)
    path.write_bytes(sealed(body.getvalue()))
    with pytest.raises(CheckpointError, match="must hold a dict, got list"):
        checkpoint.read(path)


@pytest.mark.parametrize("version, which", [(checkpoint.VERSION + 1, "newer"), (0, "older")])
def test_other_versions_name_themselves(sound, tmp_path, version, which):
    """Also where the digest of the other format cannot be found."""
    path = tmp_path / "other.ckpt"
    path.write_bytes(checkpoint.MAGIC + struct.pack("<I", version) + sound[16:])
    wanted = f"has format version {version}, expected 2. Continue it with the {which} artplus"
    with pytest.raises(CheckpointError, match=wanted):
        checkpoint.read(path)


def test_foreign_files_are_told_from_damaged_ones(tmp_path):
    """Weights that torch.save wrote are no checkpoint, nor is a folder or nothing."""
    path = tmp_path / "weights.pt"
    torch.save(net().state_dict(), path)
    with pytest.raises(CheckpointError, match="no artplus checkpoint.*model.load_state_dict"):
        run(resume=path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.read(tmp_path)
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        run(resume=tmp_path / "absent.ckpt")


# The disk


class Full:
    """A file on a disk that has room for so many bytes."""

    def __init__(self, file, room, number=errno.ENOSPC):
        self._file, self._room, self._number = file, room, number

    def write(self, data):
        data = bytes(data)
        self._room -= len(data)
        if self._room < 0:
            self._file.write(data[: self._room])
            raise OSError(self._number, os.strerror(self._number))
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()


def fill(monkeypatch, room, after=0):
    """From the write ``after`` on, there is room for ``room`` bytes each."""
    opened = []

    def opening(path, mode):
        file = open(path, mode)
        opened.append(path)
        return Full(file, room) if len(opened) > after else file

    monkeypatch.setattr(atomic, "open", opening, raising=False)


@pytest.mark.parametrize("room", [0, 5, 16, 300, 1200, "all but one"])
def test_a_full_disk_loses_nothing_and_leaves_no_litter(tmp_path, monkeypatch, sound, room):
    """At whatever byte it fills, within the digest too: the disk's error, the old file."""
    old = checkpoint.write(tmp_path, 1, PAYLOAD)
    before = old.read_bytes()
    fill(monkeypatch, len(before) - 1 if room == "all but one" else room)
    for step in (1, 2):
        with pytest.raises(OSError, match="No space left"):
            checkpoint.write(tmp_path, step, PAYLOAD)
        assert list(tmp_path.iterdir()) == [old] and old.read_bytes() == before


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_at_the_end_loses_nothing_either(tmp_path, monkeypatch, call):
    """Some file systems say only at fsync, or at the rename, that there is no room."""
    old = checkpoint.write(tmp_path, 1, PAYLOAD)
    before = old.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(tmp_path, 1, {"other": 1})
    assert list(tmp_path.iterdir()) == [old] and old.read_bytes() == before


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    """File to the disk, rename, folder to the disk: in this order, or a power cut may undo it."""
    calls = []
    fsync, rename = os.fsync, os.replace

    def synced(handle):
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def renamed(a, b):
        size = os.stat(a).st_size
        calls.append("rename")
        rename(a, b)
        assert os.stat(b).st_size == size > 100

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    checkpoint.write(tmp_path, 1, PAYLOAD)
    assert calls == ["file", "rename", "folder"]


def test_training_goes_on_while_the_disk_is_full(tmp_path, monkeypatch):
    """A warning names what is left; the run ends as it would, and can go on from what is left."""
    start = net()
    reference = run(model=copy.deepcopy(start))
    fill(monkeypatch, 300, after=1)
    with pytest.warns(ArtplusWarning, match="of step 6 was not written .*There is step-000000003"):
        got = run(tmp_path, model=copy.deepcopy(start))
    assert same(weights(got), weights(reference))
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000003.ckpt"]
    assert same(weights(run(resume=tmp_path, model=copy.deepcopy(start))), weights(reference))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_really_full_device_is_reported(tmp_path, monkeypatch):
    """Not our imitation of one: the kernel's."""
    monkeypatch.setattr(atomic, "open", lambda path, mode: open("/dev/full", "wb"), raising=False)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(tmp_path, 1, {"a": torch.rand(100_000)})
    assert not list(tmp_path.iterdir())


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    """Neither at the temporary name, were it foreseen, nor at the checkpoint's own."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda n: "0" * 8)
    (folder / ".step-000000001.ckpt.00000000.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError):
        checkpoint.write(folder, 1, PAYLOAD)
    (folder / "step-000000002.ckpt").symlink_to(victim)
    checkpoint.write(folder, 2, PAYLOAD)
    assert victim.read_text() == "precious"
    (folder / ".lock").symlink_to(victim)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        FolderLock(folder)
    assert victim.read_text() == "precious"


# The folder


def test_a_folder_that_was_taken_away_is_made_again(tmp_path):
    """The run goes on and saves what comes."""
    folder = tmp_path / "run"

    class Take(Callback):
        watches = True

        def on_epoch_begin(self, state):
            if state.epoch == 1:
                shutil.rmtree(folder)

    run(folder, callbacks=[Take()])
    assert list(checkpoint.listed(folder)) == [6]


def test_a_second_run_in_the_folder_is_refused_while_the_first_is_at_work(tmp_path):
    """Whoever it is; and the folder is free again at the end, also after an error."""

    class Second(Callback):
        watches = True

        def on_epoch_end(self, state):
            run(tmp_path, resume=Resume(tmp_path, or_start=True))

    with pytest.raises(ConfigurationError, match="being written to by this process"):
        run(tmp_path, callbacks=[Second()])
    assert not (tmp_path / ".lock").exists()
    run(tmp_path)


def hold(folder, ready, go):
    """Lock the folder in a process of its own."""
    lock = FolderLock(folder)
    ready.set()
    go.wait(30)
    lock.release()


def test_another_process_that_holds_the_folder_is_named(tmp_path):
    """A lock goes with its process, however that ends."""
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready, go))
    process.start()
    assert ready.wait(30)
    with pytest.raises(ConfigurationError, match=f"process {process.pid} on .* since"):
        run(tmp_path)
    process.kill()
    process.join()
    assert (tmp_path / ".lock").exists()  # left by the kill, and held by nobody
    run(tmp_path)


def test_two_writers_at_once_damage_nothing(tmp_path):
    """Both start together with the same call: the second is refused, or finds the work done."""
    for ran, refused, sound in writers(tmp_path, pairs=2):
        assert ran >= 1 and ran + refused == 2 and sound


def test_a_folder_that_cannot_be_written_to_is_refused_before_any_step(tmp_path):
    """Even root cannot make a file in /proc."""
    with pytest.raises(ConfigurationError, match="/proc/self cannot be written to"):
        run("/proc/self")


def test_the_last_n_are_kept(tmp_path):
    """By steps, at the pace asked for; the last epoch's always."""
    saving = {"every_steps": 2, "keep": 3}
    run(tmp_path / "a", saving=saving, epochs=3)
    assert list(checkpoint.listed(tmp_path / "a")) == [6, 8, 9]
    run(tmp_path / "b", saving={"every_epochs": 2, "keep": 9}, epochs=5)
    assert list(checkpoint.listed(tmp_path / "b")) == [6, 12, 15]


def test_a_run_that_stops_early_saves_its_end(tmp_path):
    """The last epoch is the last one there is, not the last one planned."""

    class Stop(Callback):
        def on_epoch_end(self, state):
            if state.epoch == 2:
                state.stop = "enough"

    run(tmp_path, callbacks=[Stop()], saving={"every_epochs": 4}, epochs=9)
    assert list(checkpoint.listed(tmp_path)) == [6]


def test_other_files_are_left_alone_and_litter_is_swept(tmp_path):
    """What a kill left of a write goes; the user's own files stay."""
    mine = [tmp_path / name for name in ("notes.txt", "step-1.ckpt.bak", "my-step-2.ckpt")]
    for path in mine:
        path.write_text("mine")
    litter = tmp_path / ".step-000000003.ckpt.0123abcd.tmp"
    litter.write_text("half")
    run(tmp_path, saving={"keep": 1})
    assert set(tmp_path.iterdir()) == {*mine, tmp_path / "step-000000006.ckpt"}


def test_a_folder_of_another_run_is_not_written_to(tmp_path):
    """Two runs in one folder would prune each other; the way on is named."""
    run(tmp_path / "a")
    with pytest.raises(ConfigurationError, match="already holds checkpoints; continue their run"):
        run(tmp_path / "a")
    first = tmp_path / "a" / "step-000000003.ckpt"
    run(tmp_path / "b", resume=first)  # on from one folder, into another
    with pytest.raises(ConfigurationError, match="already holds checkpoints"):
        run(tmp_path / "b", resume=first)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        run(tmp_path / "file")


def test_a_damaged_newest_names_the_one_before(tmp_path):
    """Which is used if asked; what it then writes replaces the damaged one."""
    start = net()
    reference = run(tmp_path, model=copy.deepcopy(start), saving={"every_steps": 1})
    newest = tmp_path / "step-000000006.ckpt"
    newest.write_bytes(newest.read_bytes()[:-100])
    before = re.escape(str(tmp_path / "step-000000005.ckpt"))
    with pytest.raises(CheckpointError, match=f"damaged.*pass resume='{before}', or Resume"):
        run(resume=tmp_path, model=copy.deepcopy(start))
    asked = Resume(tmp_path, skip_damaged=True)
    got = run(tmp_path, resume=asked, model=copy.deepcopy(start), saving={"every_steps": 1})
    assert same(weights(got), weights(reference))
    checkpoint.read(newest)
    for path in checkpoint.listed(tmp_path).values():
        path.write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match="no artplus checkpoint"):
        run(resume=asked)


def test_what_lies_ahead_of_a_resumed_run_goes_when_it_has_written_its_own(tmp_path):
    """Else the abandoned one would be the newest."""
    start = net()
    run(tmp_path, model=copy.deepcopy(start), saving={"every_steps": 1, "keep": 9}, epochs=3)
    first = tmp_path / "step-000000001.ckpt"
    again = {"every_steps": 2, "keep": 9}

    class Stop(Callback):
        watches = True

        def on_pause(self, state):
            if state.step == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, resume=first, saving=again, epochs=3, callbacks=[Stop()])
    assert list(checkpoint.listed(tmp_path)) == [1, 2, 3]


@pytest.mark.parametrize("bad", [3, True, ["a"]])
def test_resume_is_a_path(bad):
    """Anything else says what it must be."""
    with pytest.raises(ConfigurationError, match="resume must be a checkpoint, a folder"):
        run(resume=bad)


@pytest.mark.parametrize("bad", [{"every_epochs": 0}, {"every_steps": 0}, {"keep": 0}])
def test_paces_are_counts(tmp_path, bad):
    """Nothing and half a step are refused."""
    with pytest.raises(ConfigurationError, match=f"{next(iter(bad))} must be a whole number >= 1"):
        Checkpoint(tmp_path, **bad)


def test_one_checkpoint_a_run(tmp_path):
    """Two would fight over signals."""
    with pytest.raises(ConfigurationError, match="more than one Checkpoint"):
        run(tmp_path / "a", callbacks=[Checkpoint(tmp_path / "b")])


def test_what_cannot_be_saved_says_so_before_training(tmp_path):
    """A callback that remembers an object is found at the beginning, not after the first epoch."""

    class Bad(Callback):
        steps = 0

        def on_step_begin(self, state):
            self.steps += 1

        def state_dict(self):
            return {"me": self}

    bad = Bad()
    with pytest.raises(CheckpointError, match=r"\['me'\] is a Bad"):
        run(tmp_path, callbacks=[bad])
    assert bad.steps == 0


# Whose run it is


def relu():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    "change, difference",
    [
        ({"model": lambda: net(classes=4)}, r"model.3.weight: \(3, 8\) float32 in the checkpoint, "
                                            r"\(4, 8\) float32 now"),
        ({"model": relu}, "layer 1: BatchNorm1d.* in the checkpoint, ReLU"),
        ({"model": lambda: net().double()}, "model.0.weight: .*float32 in .*float64 now"),
        ({"optimizer": torch.optim.Adam}, "optimizer: SGD in the checkpoint, Adam now"),
        ({"optimizer": functools.partial(torch.optim.SGD, lr=0.2)},
         "optimizer.group 0.lr: 0.1 in the checkpoint, 0.2 now"),
        ({"loss": "trades"}, "method.objective.name: mix in the checkpoint, trades now"),
        ({"lam": 2.0}, "method.objective.lam.0: 1 in the checkpoint, 2 now"),
        ({"lam": lambda t: 1 + t}, "method.objective.lam.1: 1 in the checkpoint, 1.25 now"),
        ({"eps": 0.03}, "method.attack.eps: 0.02 in the checkpoint, 0.03 now"),
        ({"eps": None, "attack": PGD(eps=0.02, steps=3)}, "method.attack.steps: 10 .* 3 now"),
        ({"norm": 2}, "method.attack.norm"),
        ({"bounds": (-1, 1)}, "method.space.low: 0 in the checkpoint, -1 now"),
        ({"label_smoothing": 0.1}, "method.label_smoothing: 0 in the checkpoint, 0.1 now"),
        ({"class_weight": torch.ones(3)}, "method.class_weight: None"),
        ({"epochs": 3}, "plan.epochs: 2 in the checkpoint, 3 now"),
        ({"batch_size": 6}, "plan.batch_size: 8 in the checkpoint, 6 now"),
        ({"seed": 1}, "plan.seed: 0 in the checkpoint, 1 now"),
        ({"data": (X[:20], Y[:20])}, "data.examples: 24 in the checkpoint, 20 now"),
        ({"data": (X, Y.flip(0))}, "data.labels"),
        ({"data": (1 - X, Y)}, "data.inputs"),
        ({"data": (torch.cat([X[:12], 1 - X[12:13], X[13:]]), Y)}, "data.inputs"),
        ({"validation": (1 - X[:8], Y[:8])}, "validation data.inputs: nothing in the checkpoint"),
        ({"data": list(zip(X.split(8), Y.split(8), strict=True))}, "data: arrays .* loader now"),
        ({"callbacks": [EMA()]}, "callbacks: NonFinite, StuckAtChance in the checkpoint, EMA,"),
    ],
)  # fmt: skip
def test_another_run_is_refused_by_what_differs(tmp_path, change, difference):
    """Before anything is touched: the model keeps the weights it came with."""
    run(tmp_path)
    change = dict(change)
    model = change.pop("model", net)()
    if model.parameters().__next__().dtype == torch.float64:
        change["data"] = (X.double(), Y)
    if "optimizer" in change:
        change["optimizer"] = change["optimizer"](model.parameters())
    before = weights(model)
    with pytest.raises(CheckpointError, match=f"of another run: .*{difference}"):
        run(resume=tmp_path, model=model, **change)
    assert same(weights(model), before)


class Rows(torch.utils.data.Dataset):
    """Rows of a data set of the user's own, with noise drawn from the global stream."""

    def __init__(self, x, generator=None):
        self.x, self.generator = x, generator

    def __len__(self):
        return len(self.x)

    def __getitem__(self, k):
        return self.x[k] + 0.01 * torch.rand(6, generator=self.generator), int(Y[k])


@pytest.mark.parametrize("form", ["tensors", "own rows", "list", "validation"])
def test_another_loader_of_the_same_length_is_refused(tmp_path, form):
    """By its tensors, or by the first, the middle and the last row of what it reads from."""

    def data(x):
        if form == "list":
            return list(zip(x.split(8), Y.split(8), strict=True))
        rows = TensorDataset(x, Y) if form == "tensors" else Rows(x)
        return DataLoader(rows, 8, shuffle=True)

    def options(x):
        return {"bounds": None, "validation": data(x)} if form == "validation" else {
            "bounds": None, "data": data(x)}  # fmt: skip

    start = net()
    run(tmp_path / "a", model=copy.deepcopy(start), **options(X))
    run(resume=tmp_path / "a", model=copy.deepcopy(start), **options(X))
    with pytest.raises(CheckpointError, match="of another run: .*data.rows"):
        run(resume=tmp_path / "a", model=copy.deepcopy(start), **options(1 - X))


def test_rows_that_differ_each_time_are_no_other_data(tmp_path):
    """A generator of the data set's own is not of the run."""
    start = net()
    rows = Rows(X, torch.Generator())
    run(tmp_path, data=DataLoader(rows, 8), model=copy.deepcopy(start), bounds=None)
    run(resume=tmp_path, data=DataLoader(rows, 8), model=copy.deepcopy(start), bounds=None)


@pytest.mark.parametrize(
    "first, then, difference",
    [
        (EMA(0.9), EMA(0.99), "EMA.decay: 0.9 in the checkpoint, 0.99 now"),
        (EarlyStopping(3, monitor="loss"), EarlyStopping(4, monitor="loss"), "patience: 3"),
    ],
)
def test_a_callbacks_settings_are_part_of_the_run(tmp_path, first, then, difference):
    """An average with another decay is another average."""
    run(tmp_path, callbacks=[first])
    with pytest.raises(CheckpointError, match=difference):
        run(resume=tmp_path, callbacks=[then])


@pytest.mark.parametrize(
    "then, difference",
    [
        (lambda o: torch.optim.lr_scheduler.StepLR(o, 2), "StepLR with .'step_size': 1."),
        (lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.1), "ExponentialLR with"),
    ],
)
def test_a_scheduler_is_part_of_the_run(tmp_path, then, difference):
    """Its kind and what it was told; what it moves, as the learning rate, it brings along."""

    def go(make, resume=None, folder=None):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = LearningRate(make(optimizer))
        run(folder, model=model, optimizer=optimizer, callbacks=[scheduler], resume=resume)
        return optimizer.param_groups[0]["lr"]

    def one(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, 1)

    rate = go(one, folder=tmp_path)
    assert go(one, resume=tmp_path) == rate == pytest.approx(0.001)
    with pytest.raises(CheckpointError, match=difference):
        go(then, resume=tmp_path)


@pytest.mark.parametrize(
    "kind, first, then, difference",
    [
        (ProjectedGradientDescent, {"max_iter": 3}, {"max_iter": 4}, "method.attack.steps: 3"),
        (AutoProjectedGradientDescent, {"nb_random_init": 1, "loss_type": "cross_entropy"},
         {"nb_random_init": 2, "loss_type": "cross_entropy"}, "(restarts|nb_random_init)"),
    ],
)  # fmt: skip
def test_settings_of_art_attacks_are_part_of_the_run(tmp_path, kind, first, then, difference):
    """Whether the attack was translated or runs through generate."""

    def go(options, *callbacks, resume=None):
        estimator = classifier()
        attack = kind(estimator, eps=0.02, eps_step=0.01, verbose=False, **options)
        trainer = AdversarialTrainerPlus(
            estimator, attack, inner="attack", seed=0, verbose=False, callbacks=callbacks
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(X.numpy(), Y.numpy(), batch_size=12, nb_epochs=1, resume=resume)

    go(first, Checkpoint(tmp_path))
    go(first, resume=tmp_path)
    with pytest.raises(CheckpointError, match=difference):
        go(then, resume=tmp_path)


def margin_of(margin, unset=False):
    """A loss whose number hides in a closure."""
    if unset:
        del margin

    def terms(ctx):
        model, x, x_adv, y = ctx.model, ctx.x, ctx.x_adv, ctx.y
        clean, adversarial = model.pair(x, x_adv)
        return Terms(fixed=model.loss(clean, y), scaled=margin * model.loss(adversarial, y))

    return terms


def scaled(ctx, *, by):
    model, x, x_adv, y = ctx.model, ctx.x, ctx.x_adv, ctx.y
    clean, adversarial = model.pair(x, x_adv)
    return Terms(fixed=model.loss(clean, y), scaled=by * model.loss(adversarial, y))


@pytest.mark.parametrize(
    "first, then, difference",
    [
        (margin_of(1.0), margin_of(2.5), "terms.margin: 1 in the checkpoint, 2.5 now"),
        (
            functools.partial(scaled, by=1.0),
            functools.partial(scaled, by=0.5),
            "terms.by: 1 .* 0.5",
        ),
        (
            margin_of(1.0),
            functools.partial(scaled, by=1.0),
            "terms: .*margin_of.*functools.partial",
        ),
        (
            margin_of(torch.ones(24)[:1]),
            margin_of(torch.zeros(1)),
            r"terms.margin: \(1,\) float32 ",
        ),
    ],
)
def test_numbers_inside_a_loss_are_part_of_the_run(tmp_path, first, then, difference):
    """Closures and partials are looked into, tensors are known by their values."""
    run(tmp_path, loss=Objective("own", first))
    run(resume=tmp_path, loss=Objective("own", first))
    with pytest.raises(CheckpointError, match=difference):
        run(resume=tmp_path, loss=Objective("own", then))


def test_addresses_empty_cells_and_endless_parts_make_no_difference(tmp_path):
    """What differs between two runs of one program is not what the program is."""

    class Odd(nn.ReLU):
        def extra_repr(self):
            return repr(object())

    loop = [0.02]
    loop.append(loop)
    eps = torch.full((6,), 0.02)

    def go(**options):
        model = nn.Sequential(nn.Linear(6, 3), Odd())
        run(model=model, eps=eps, loss=Objective("own", margin_of(1.0)), **options)

    go(folder=tmp_path)
    go(resume=tmp_path)
    found = {}
    fingerprint.describe({"loop": loop, "cell": margin_of(1.0, unset=True)}, "here", found)
    assert found["here.loop.0"] == "0.02" and found["here.cell.margin"] == "None"


def test_parameters_that_change_nothing_are_not_part_of_the_run():
    """An ART attack's own batch size and its progress bar."""
    attacks = [
        ProjectedGradientDescent(classifier(), eps=0.1, eps_step=0.1, batch_size=n, verbose=n > 9)
        for n in (8, 16)
    ]
    found = [{}, {}]
    for attack, into in zip(attacks, found, strict=True):
        fingerprint.describe(attack, "attack", into)
    assert found[0] == found[1] and found[0]["attack.eps"] == "0.1"


def test_what_only_watches_may_come_and_go(tmp_path):
    """A logger added to a resumed run does not make it another one."""

    class Logger(Callback):
        watches = True

    run(tmp_path)
    run(resume=tmp_path, callbacks=[Logger()])


def test_a_payload_of_another_program_is_refused(tmp_path):
    """Sound as a file, but without what a run consists of."""
    with pytest.raises(CheckpointError, match="does not say what run it is of"):
        run(resume=checkpoint.write(tmp_path, 1, PAYLOAD))
    run(tmp_path / "a")
    saved = checkpoint.read(checkpoint.listed(tmp_path / "a")[6])
    for part in ("model", "optimizer", "state", "callbacks", "own"):
        less = {k: v for k, v in saved.items() if k != part}
        with pytest.raises(CheckpointError, match=f"does not fit the run .KeyError: '{part}'"):
            run(resume=checkpoint.write(tmp_path, 2, less))


# Streams


def test_random_streams_are_put_back():
    """torch, numpy with its spare normal, and Python: all go on where they were."""
    np.random.normal()  # leaves a second one waiting
    random.gauss(0, 1)
    saved = checkpoint.plain(streams())

    def draw():
        return torch.rand(3).tolist(), np.random.normal(size=3).tolist(), random.gauss(0, 1)

    first = draw()
    assert draw() != first
    set_streams(saved)
    assert draw() == first
