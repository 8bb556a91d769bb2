"""Arithmetic: lower precision, layout, compilation, and the trial that chooses among them."""

from __future__ import annotations

import copy
from dataclasses import replace
from importlib import import_module
from itertools import chain, repeat

import pytest
import torch
from torch import nn

from artplus import fit, make_method
from artplus.attacks import PGD, Microbatched
from artplus.errors import ConfigurationError
from artplus.model import LossModel
from artplus.spaces import InputSpace
from artplus.training import autotune, checkpoint
from artplus.training.callbacks import Callback, Checkpoint
from artplus.training.data import Batch
from artplus.training.engines import Engine, as_engine
from artplus.training.numerics import (
    GRADIENT_SCALE,
    Copied,
    Numerics,
    Whole,
    compiled,
    gradients_scaled,
    low_precision,
)
from tests.toys import arrays, cnn, net, same, weights

X, Y = (torch.from_numpy(v) for v in arrays(24))
IMAGES = tuple(torch.from_numpy(v) for v in arrays(16, (1, 8, 8)))
CPU = torch.device("cpu")


def trained(model, *callbacks, data=(X, Y), lr=0.1, **options):
    """A few steps of ``fit``."""
    settings = {"loss": "trades", "eps": 0.04, "batch_size": 8, "epochs": 2, "seed": 1}
    settings["bounds"] = (0.0, 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    history = fit(model, data, optimizer, callbacks=callbacks, progress=False, **settings | options)
    return history


# Lower precision


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_trains_and_is_judged_in_full(precision):
    """The network computes in it; weights, losses, perturbations and the judge are fp32."""
    model, seen = net(), {"train": set(), "attack": set(), "judge": set()}
    where = ["train"]
    model[0].register_forward_hook(lambda m, _, out: seen[where[0]].add((out.dtype, m.training)))

    class Watched(PGD):
        def __call__(self, model, x, y, **options):
            where[0] = "attack"
            x_adv = super().__call__(model, x, y, **options)
            assert x_adv.dtype == torch.float32 == model(x).dtype
            where[0] = "train"
            return x_adv

    class Look(Callback):
        def on_step_end(self, state):
            where[0] = "train"
            losses = state.meter.read()
            assert losses["loss"] > 0

        def on_epoch_end(self, state):
            where[0] = "judge"
            with state.candidate() as judged, torch.no_grad():
                judged(X)
            where[0] = "train"

    before = weights(model)
    trained(model, Look(), attack=Watched(eps=0.04, steps=2), eps=None, precision=precision)
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert {dtype for dtype, _ in seen["attack"]} == {low}
    assert {dtype for dtype, training in seen["train"] if training} == {low}
    assert {dtype for dtype, _ in seen["judge"]} == {torch.float32}
    after = weights(model)
    assert not same(before, after)
    assert all(v.dtype == before[k].dtype and v.isfinite().all() for k, v in after.items())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_gives_nearly_the_same_weights(precision):
    """Two epochs end near where fp32 ends, much nearer than where they began."""
    start = net()
    full, low = copy.deepcopy(start), copy.deepcopy(start)
    trained(full)
    trained(low, precision=precision)
    way = {k: v - weights(start)[k] for k, v in weights(full).items() if v.is_floating_point()}
    gap = {k: v - weights(full)[k] for k, v in weights(low).items() if v.is_floating_point()}
    assert not same(weights(full), weights(low))
    assert sum(v.norm() for v in gap.values()) < 0.1 * sum(v.norm() for v in way.values())


def test_fp32_is_the_function_itself():
    """Nothing is wrapped where nothing is to be done."""
    module = net()
    assert low_precision(module, Numerics(), CPU) is module


def test_a_scaled_gradient_is_the_gradient():
    """A power of two in, the same out: bit for bit in fp32."""
    module = net().eval()
    slopes = []
    for forward in (module, gradients_scaled(module)):
        x = X.clone().requires_grad_(True)
        loss = nn.functional.cross_entropy(forward(x), Y)
        slopes.append(torch.autograd.grad(loss, x)[0])
    assert torch.equal(*slopes)
    assert GRADIENT_SCALE == 2.0 ** round(torch.tensor(GRADIENT_SCALE).log2().item())


def test_scaling_saves_gradients_that_fp16_loses():
    """A loss of 1e-8 has no gradient in fp16 by itself."""
    module = nn.Linear(6, 3)
    numerics = Numerics(precision="fp16")
    exact = low = None
    for scale in (False, True):
        forward = low_precision(module, numerics, CPU)
        forward = gradients_scaled(forward) if scale else forward
        x = X.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad((forward(x) * 1e-8).sum(), x)
        exact, low = (slope, low) if scale else (exact, slope)
    expected = (1e-8 * module.weight.sum(0)).expand_as(X)
    assert not bool(low.any())
    torch.testing.assert_close(exact, expected, rtol=1e-2, atol=1e-10)


def test_fp16_climbs_through_the_scale_and_its_scaler_is_resumed(tmp_path):
    """The scale of the weights' gradients is part of a checkpoint."""
    start = net(dropout=0.2)

    def once(*callbacks, resume=None):
        model = copy.deepcopy(start)
        trained(model, *callbacks, precision="fp16", resume=resume)
        return weights(model)

    reference = once(Checkpoint(tmp_path, every_steps=1, keep=9))
    saved = checkpoint.read(checkpoint.listed(tmp_path)[3])
    assert saved["engine"]["scale"] > 1
    for path in checkpoint.listed(tmp_path).values():
        assert same(once(resume=path), reference)


def test_channels_last_is_undone_and_changes_rounding_only():
    """The layout of weights and batches inside, the old one afterwards."""
    start = cnn()
    results, layouts = [], set()

    class Look(Callback):
        def on_step_end(self, state):
            weight = state.model.module[0].weight
            layouts.add(weight.is_contiguous(memory_format=torch.channels_last))

    for last in (False, True):
        model = copy.deepcopy(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        engine = Engine(channels_last=last)
        fit(model, (IMAGES[0].repeat(1, 1, 1, 1), IMAGES[1]), optimizer, eps=0.04, epochs=1, seed=0,
            batch_size=8, engine=engine, progress=False,
            callbacks=[Look()] if last else [])  # fmt: skip
        assert model[0].weight.is_contiguous()
        results.append(weights(model))
    assert layouts == {True}
    for key, value in results[0].items():
        torch.testing.assert_close(results[1][key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"precision": "int8"}, {"channels_last": "yes"}, {"compile": "maybe"}]
)
def test_settings_of_the_arithmetic_are_checked(options):
    """Where they are made, by their names."""
    with pytest.raises(ConfigurationError, match=f"{next(iter(options))} must be"):
        Numerics(**options)


def test_settings_in_words():
    """For notes and logs."""
    assert str(Numerics()) == "fp32"
    whole = Numerics(precision="bf16", channels_last=True, compile=True)
    assert str(whole) == "bf16, channels last, compiled"
    assert str(Numerics(compile="reduce-overhead")) == "fp32, compiled (reduce-overhead)"
    assert not Numerics(precision="auto").decided and not Numerics(compile="auto").decided


# The trial


def looked_at(model):
    """All of a model that a trial might disturb."""
    return {
        "weights": weights(model),
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "flags": [m.training for m in model.modules()],
        "tracked": [getattr(m, "track_running_stats", None) for m in model.modules()],
        "stream": torch.get_rng_state(),
        "layout": [p.is_contiguous() for p in model.parameters()],
    }


def unchanged(a, b) -> bool:
    grads = zip(a["grads"], b["grads"], strict=True)
    return (
        same(a["weights"], b["weights"])
        and all((g is None and h is None) or torch.equal(g, h) for g, h in grads)
        and torch.equal(a["stream"], b["stream"])
        and all(a[k] == b[k] for k in ("flags", "tracked", "layout"))
    )


@pytest.mark.parametrize("graded", [False, True])
def test_a_trial_leaves_everything_as_it_was(graded):
    """Weights, gradients, buffers, flags, layout and random streams."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Flatten(),
                          nn.Linear(144, 3))  # fmt: skip
    model[1].eval()
    if graded:
        nn.functional.cross_entropy(model(IMAGES[0]), IMAGES[1]).backward()
    before = looked_at(model)
    engine = Engine(precision="auto")
    note = autotune.choose_precision(
        engine, LossModel(model), make_method("at", eps=0.1), Batch(*IMAGES), steps=10
    )
    assert unchanged(before, looked_at(model))
    assert engine.numerics.decided and not engine.prepared
    assert note.startswith("arithmetic: ") and note.count("fp32") >= 2 and note.count("bf16") >= 2
    assert "channels last" in note


def refuse(*args, **options):
    raise AssertionError("nothing is to be measured here")


def test_settled_settings_need_no_trial(monkeypatch):
    """And what was asked for beside stays."""
    monkeypatch.setattr(import_module("artplus.training.fit"), "choose_precision", refuse)
    engine = Engine(precision="bf16")
    assert not trained(net(), engine=engine).notes
    assert engine.numerics == Numerics(precision="bf16")


def test_the_choice_is_noted_and_kept_by_a_resumed_run(tmp_path, monkeypatch):
    """A second trial might choose otherwise, so there is none."""
    start = net(dropout=0.2)
    chosen = Numerics(precision="bf16", channels_last=False)

    def choose(engine, model, method, batch, *, steps):
        engine.numerics = chosen
        return "arithmetic: chosen"

    monkeypatch.setattr(import_module("artplus.training.fit"), "choose_precision", choose)

    def once(*callbacks, resume=None):
        model = copy.deepcopy(start)
        history = trained(model, *callbacks, precision="auto", resume=resume)
        return weights(model), history.notes

    reference = once(Checkpoint(tmp_path, every_steps=1, keep=9))
    assert reference[1] == ["arithmetic: chosen"]

    monkeypatch.setattr(import_module("artplus.training.fit"), "choose_precision", refuse)
    for path in checkpoint.listed(tmp_path).values():
        assert checkpoint.read(path)["numerics"]["precision"] == "bf16"
        found = once(resume=path)
        assert same(found[0], reference[0]) and found[1] == reference[1]


def test_an_automatic_precision_trains():
    """The whole way, whatever this machine likes best."""
    model = cnn()
    history = trained(model, data=IMAGES, precision="auto", epochs=1)
    assert history.notes[0].startswith("arithmetic: ")


@pytest.mark.parametrize(
    "slope, loss, match",
    [
        (lambda s: s, lambda v: v * 1.05, "loss differs by 5"),
        (lambda s: s.flip(0), lambda v: v, "align by"),
        (lambda s: s * torch.nan, lambda v: v, "align by nan"),
        (lambda s: s, lambda v: v * torch.nan, "loss differs by nan"),
        (lambda s: s * 3, lambda v: v * 1.01, ""),
    ],
)
def test_a_precision_whose_results_differ_is_not_admitted(slope, loss, match):
    """By the mean loss and the direction of the input gradients; NaN is a difference."""
    torch.manual_seed(0)
    value, direction = torch.tensor(2.0), torch.randn(8, 6)
    reason = autotune._reason((value, direction), (loss(value), slope(direction)))
    assert match in reason and bool(reason) == bool(match)


def test_the_fastest_must_beat_the_first_by_more_than_noise():
    """And be admitted."""
    plain, low = Numerics(), Numerics(precision="bf16")
    first = autotune.Measurement(plain, 1.0)
    assert autotune._fastest([first, autotune.Measurement(low, 0.97)]) is first
    faster = autotune.Measurement(low, 0.5)
    assert autotune._fastest([first, faster]) is faster
    assert autotune._fastest([first, replace(faster, reason="loss differs by 9%")]) is first


def test_candidates_keep_what_was_asked_for():
    """The layout is tried for images alone, unless it was given."""
    auto, images = Numerics(precision="auto"), Batch(*IMAGES)
    four = autotune._candidates(auto, images)
    assert [(n.precision, n.channels_last) for n in four] == [
        ("fp32", False), ("fp32", True), ("bf16", False), ("bf16", True),
    ]  # fmt: skip
    assert [n.channels_last for n in autotune._candidates(auto, Batch(X, Y))] == [False, False]
    given = autotune._candidates(replace(auto, channels_last=True), images)
    assert [n.channels_last for n in given] == [True, True]
    assert autotune._candidates(Numerics(precision="bf16"), images) == [Numerics(precision="bf16")]


def test_gradients_of_the_attack_are_counted():
    """Steps of the attack in turn, of what it is made of, or a guess."""

    def count(attack):
        return autotune._attack(make_method("at", attack=attack)).gradients

    assert count(PGD(eps=0.1, steps=7)) == 7
    assert count(Microbatched(PGD(eps=0.1, steps=3), 4)) == 3
    assert autotune._attack(make_method("input_gradient")).gradients == 0


def test_a_failed_compilation_is_survived(monkeypatch):
    """Training can do without it, and the note says what failed."""
    model, engine, step = net(), Engine(compile="auto"), autotune._step

    def fail(model, batch, numerics, *args):
        if numerics.compile:
            raise RuntimeError("no compiler\nand a page more")
        return step(model, batch, numerics, *args)[0], 0.1

    monkeypatch.setattr(autotune, "_step", fail)
    before = looked_at(model)
    method = make_method("at", eps=0.1)
    note = autotune.choose_precision(engine, LossModel(model), method, Batch(X, Y), steps=10_000)
    assert unchanged(before, looked_at(model))
    assert engine.numerics == Numerics()
    assert note.endswith("; fp32, compiled (failed: RuntimeError: no compiler)")


def test_a_precision_that_this_machine_lacks_is_left_out(monkeypatch):
    """Asked to choose, training takes what works and says what does not; fp32's own error shows."""

    def refuse_bf16(engine, device):
        if engine.numerics.precision in lacks:
            raise ConfigurationError("this GPU has no bf16; use another precision")

    monkeypatch.setattr(Engine, "_refuse_half", refuse_bf16)
    lacks, model = ("bf16",), net()
    history = trained(model, precision="auto")
    (note,) = history.notes
    assert note.startswith("arithmetic: fp32, by")
    assert note.endswith("; bf16 (failed: ConfigurationError: this GPU has no bf16)")
    lacks = ("fp32", "bf16")
    with pytest.raises(ConfigurationError, match="no bf16; use another"):
        trained(model, precision="auto")


def test_a_candidate_that_fails_late_is_out(monkeypatch):
    """Also if it was the fastest until then."""
    calls = []

    def step(model, batch, numerics, *args):
        calls.append(numerics.precision)
        if numerics.precision == fails and calls.count(fails) == 3:
            raise torch.OutOfMemoryError("simulated")
        return (torch.tensor(1.0), X), 0.1 if numerics.precision == "bf16" else 1.0

    monkeypatch.setattr(autotune, "_step", step)
    fails, both = "bf16", [Numerics(), Numerics(precision="bf16")]
    trials = autotune._measure(LossModel(net()), Batch(X, Y), both, 1)
    assert autotune._fastest(trials).numerics == Numerics()
    assert str(trials[1]) == "bf16 (failed: OutOfMemoryError: simulated)"
    assert calls.count("bf16") == 3 and calls.count("fp32") == 1 + autotune.ROUNDS
    fails = "fp32"
    calls.clear()
    with pytest.raises(torch.OutOfMemoryError, match="^simulated$"):  # nothing to fall back on
        autotune._measure(LossModel(net()), Batch(X, Y), both, 1)


def test_half_precision_is_tried_on_gpus_alone(monkeypatch):
    """On processors fp16 is slower; layouts are tried with each precision."""

    monkeypatch.setattr(autotune, "device_of", lambda tree: torch.device("cuda"))
    found = autotune._candidates(Numerics(precision="auto"), Batch(*IMAGES))
    assert [(n.precision, n.channels_last) for n in found] == [
        (precision, last) for precision in ("fp32", "bf16", "fp16") for last in (False, True)
    ]


def test_a_trial_of_half_precision_scales_the_weights_gradients(monkeypatch):
    """As training will; without it they vanish here, and the trial would time something else."""
    seen = []
    backward, unscale = Engine.backward, Engine.unscale
    monkeypatch.setattr(Engine, "backward", lambda e, v: (seen.append("scale"), backward(e, v)))
    monkeypatch.setattr(Engine, "unscale", lambda e, o: (seen.append("back"), unscale(e, o)))
    model, half = net(), Numerics(precision="fp16")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    one = autotune._Attack(1, InputSpace())
    autotune._step(LossModel(model), Batch(X, Y), Numerics(), optimizer, one)
    full = [p.grad.clone() for p in model.parameters()]
    autotune._step(LossModel(model), Batch(X, Y), half, optimizer, one)
    assert seen == ["scale", "back"] * 2
    for parameter, slope in zip(model.parameters(), full, strict=True):
        torch.testing.assert_close(parameter.grad, slope, rtol=0.05, atol=1e-3)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_automatic_precision_on_a_gpu_tries_both_halves():
    """And trains with one of those that work there."""
    model, data = cnn().cuda(), tuple(v.cuda() for v in IMAGES)
    (note,) = trained(model, data=data, precision="auto", epochs=1).notes
    assert "; bf16" in note and "; fp16" in note
    assert all(v.isfinite().all() for v in weights(model).values())


@pytest.mark.parametrize("mode", [True, "reduce-overhead"])
def test_a_precision_that_is_chosen_keeps_the_compilation_asked_for(monkeypatch, mode):
    """Candidates are compared as they would be trained."""
    monkeypatch.setattr(
        autotune, "_measure", lambda m, b, found, g: [autotune.Measurement(n, 0.1) for n in found]
    )
    engine = Engine(precision="auto", compile=mode)
    method = make_method("at", eps=0.1)
    note = autotune.choose_precision(engine, LossModel(net()), method, Batch(X, Y), steps=10)
    assert engine.numerics == Numerics(channels_last=False, compile=mode)
    assert ("reduce-overhead" in note) is (mode == "reduce-overhead")


@pytest.mark.parametrize(
    "steps, seconds, took, taken",
    [
        (10, 0.01, 0, False),
        (None, 0.01, 0, False),
        (10_000, 0.01, 0, True),
        (10_000, 0.097, 0, False),
        (10_000, 0.01, 1e6, False),
    ],
)
def test_compilation_must_earn_its_time_back(monkeypatch, steps, seconds, took, taken):
    """Training long enough, a gain beyond noise, more saved than it took."""
    engine = Engine(compile="auto")
    clock = chain([0.0], repeat(float(took)))
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: next(clock))

    def measure(model, batch, candidates, gradients):
        return [autotune.Measurement(c, seconds if c.compile else 0.1) for c in candidates]

    monkeypatch.setattr(autotune, "_measure", measure)
    method = make_method("at", eps=0.1)
    autotune.choose_precision(engine, LossModel(net()), method, Batch(X, Y), steps=steps)
    assert engine.numerics.compile is taken


# Compilation


@pytest.mark.slow
@pytest.mark.parametrize("name", ["at", "trades"])
def test_a_compiled_run_is_the_plain_one_to_rounding(name):
    """Weights and figures; the flags of the parameters come back."""
    start = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    results = []
    for compiles in (False, True):
        model = copy.deepcopy(start)
        attack = PGD(eps=0.05, steps=2, step_size=0.01)
        history = trained(model, loss=name, attack=attack, eps=None, compile=compiles)
        assert all(p.requires_grad for p in model.parameters())
        results.append((weights(model), history.rows[-1]["loss"]))
    for key, value in results[0][0].items():
        torch.testing.assert_close(results[1][0][key], value, rtol=1e-3, atol=1e-4)
    assert results[1][1] == pytest.approx(results[0][1], rel=1e-3)


@pytest.mark.parametrize("mode", [True, "reduce-overhead"])
def test_second_derivatives_are_not_compiled(monkeypatch, mode):
    """Torch would say so in the middle of the first step."""
    model = net()
    model.register_forward_hook(lambda *_: refuse())
    for engine in ({"compile": mode}, {"engine": Engine(compile=mode)}):
        with pytest.raises(
            ConfigurationError, match="'input_gradient' takes .* leave out compile="
        ):
            trained(model, loss="input_gradient", eps=None, **engine)


def test_second_derivatives_are_never_tried_compiled(monkeypatch):
    """The trial takes first derivatives only, and would admit it."""
    tried, step = [], autotune._step

    def watch(model, batch, numerics, *args):
        tried.append(numerics)
        return step(model, batch, numerics, *args)[0], 60.0

    monkeypatch.setattr(autotune, "_step", watch)
    history = trained(net(), loss="input_gradient", eps=None, compile="auto")
    assert set(tried) == {Numerics()}
    assert history.notes[0].endswith("not tried, as loss 'input_gradient' takes second derivatives")


def test_replayed_predictions_are_copied():
    """A graph writes each prediction where the last one was; kept ones and gradients are unhurt."""

    class Replayed(nn.Module):
        def __init__(self):
            super().__init__()
            self.output = torch.zeros(24, 6)

        def forward(self, x):
            self.output.copy_(3 * x.detach())
            return _Bound.apply(x, self.output)

    class _Bound(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, output):
            return output.view_as(output)

        @staticmethod
        def backward(ctx, slope):
            return 3 * slope, None

    for wrap, kept in ((lambda module: module, False), (Copied, True)):
        module = wrap(Replayed())
        x = X.clone().requires_grad_(True)
        first = module(x)
        module(X + 1)
        assert torch.equal(first, 3 * X) is kept
        if kept:
            (slope,) = torch.autograd.grad(first.sum(), x)
            assert torch.equal(slope, torch.full_like(X, 3))


def test_only_replayed_graphs_are_copied(monkeypatch):
    """The mode goes to torch by its name."""
    asked = []

    def compile(module, mode):
        asked.append(mode)
        return module

    monkeypatch.setattr(torch, "compile", compile)
    whole = Whole(LossModel(net()))
    assert compiled(whole, Numerics(compile=False)) is whole
    assert compiled(whole, Numerics(compile=True)) is whole
    found = compiled(whole, Numerics(compile="reduce-overhead"))
    assert isinstance(found, Copied) and found.inside is whole
    assert asked == [None, "reduce-overhead"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_replayed_graphs_train_as_the_plain_run():
    """Attack and step through CUDA graphs, to rounding."""
    start = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).cuda()
    attack = PGD(eps=0.05, steps=3, step_size=0.01, random_start=False)
    results = []
    for mode in (False, "reduce-overhead"):
        model = copy.deepcopy(start)
        data = X.cuda(), Y.cuda()
        trained(model, data=data, attack=attack, eps=None, compile=mode, epochs=4)
        results.append(weights(model))
    for key, value in results[0].items():
        torch.testing.assert_close(results[1][key], value, rtol=1e-3, atol=1e-4)


# Engines by name


def test_an_engine_by_name_takes_settings_and_an_object_has_its_own():
    """Settings beside an engine that has its own would be ignored."""
    assert as_engine("torch", precision="bf16").requested.precision == "bf16"
    own = Engine(precision="bf16")
    assert as_engine(own) is own
    with pytest.raises(ConfigurationError, match="this one has its own settings"):
        as_engine(own, precision="fp16")
    with pytest.raises(ConfigurationError, match="engine must be one of"):
        as_engine("gpu")
