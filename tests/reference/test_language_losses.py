"""Objectives of language models against slow twins: one row, one sequence at a time."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import artplus
from artplus.attacks import PGD
from artplus.errors import ConfigurationError
from artplus.losses import Context, make_loss
from artplus.losses._preference import leaky
from artplus.losses._reference import reference
from artplus.model import LossModel
from artplus.spaces import EmbeddingSpace, LatentSpace
from artplus.tasks import Preference
from artplus.training import make_method
from artplus.training.callbacks import Callback, Checkpoint
from artplus.tree import take
from tests.tasks.preferences import (
    adapted,
    batch,
    columns,
    llama,
    log_probabilities,
    rows,
    trainable,
)
from tests.toys import same, weights

peft = pytest.importorskip("peft")
pytest.importorskip("transformers")

TOKEN = EmbeddingSpace(per="token")
ATTACK = PGD(eps=0.2, norm=2, steps=2, random_start=False)
ATTACKED = ["cat", "capo", "lat"]
ALL = [*ATTACKED, "rerouting"]


def context(model, data, space=TOKEN, *, eps=0.2, progress=0.5):
    """A context whose rows with a rejected answer carry a random perturbation of their prompts."""
    x, y = columns(data)
    model = LossModel(model, Preference())
    z = space.lift(model, x)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(3)) * eps
    z = space.region(x, z).restrict(noise) * y["rejected"].view(-1, *(1,) * (z.ndim - 1))
    return Context(model, x, space.insert(x, z), y, space=space, progress=progress)


def likelihoods(model, row, answer, delta):
    """Log-probabilities of the answer's tokens, and of all that is not that token."""
    log_p = log_probabilities(model, row["prompt"], answer, delta).double()
    own = log_p.gather(1, torch.tensor(answer)[:, None])[:, 0]
    return own, torch.log1p(-own.exp())


def twin(model, ctx, row_terms):
    """``row_terms(rejected, chosen)`` of each row to be avoided, zero for the others."""
    values = []
    for k, row in enumerate(rows()):
        if "rejected" not in row:
            values.append(torch.zeros((), dtype=torch.float64))
            continue
        delta = ctx.x_adv.delta[k, : len(row["prompt"])]
        values.append(
            row_terms(
                likelihoods(model, row, row["rejected"], delta),
                likelihoods(model, row, row["chosen"], delta),
                row, delta,
            )
        )  # fmt: skip
    return torch.stack(values)


def assert_terms(terms, scaled, model):
    """Values, and the gradient of the scaled term."""
    torch.testing.assert_close(terms.scaled.double(), scaled, rtol=1e-4, atol=1e-5)
    ours = torch.autograd.grad(terms.scaled.sum(), trainable(model), retain_graph=True)
    theirs = torch.autograd.grad(scaled.sum(), trainable(model))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


# The formulas


def test_cat_is_the_papers():
    """Away and toward with the same perturbation of the prompt; answers of other lengths."""
    model = adapted().eval()
    ctx = context(model, batch())

    def one(rejected, chosen, row, delta):
        return 0.5 * rejected[0].mean() - 0.5 * chosen[0].mean()

    assert_terms(make_loss("cat").terms(ctx), twin(model, ctx, one), model)


def test_cat_cuts_off():
    """Losses beyond the cut-offs count a thousandth; at the corner they count in full."""
    losses = torch.tensor([-5.1, -5.0, -4.9, 0.4], requires_grad=True)
    cut = leaky(losses, -5.0, 0.001)
    torch.testing.assert_close(cut, torch.tensor([-5.0051, -5.0, -4.9, 0.4]))
    (slopes,) = torch.autograd.grad(cut.sum(), losses)
    torch.testing.assert_close(slopes, torch.tensor([0.001, 1.0, 1.0, 1.0]))
    model = adapted().eval()
    ctx = context(model, batch())

    def one(rejected, chosen, row, delta):
        away, toward = rejected[0].mean(), -chosen[0].mean()
        away = -2.5 + 0.01 * away if away < -2.5 else away
        return 2 * away + 3 * (3.5 + 0.01 * toward if toward < 3.5 else toward)

    options = {"away": 2, "toward": 3, "away_cutoff": -2.5, "toward_cutoff": 3.5, "slope": 0.01}
    assert_terms(make_loss("cat", **options).terms(ctx), twin(model, ctx, one), model)


def test_capo_is_ipo_with_the_adapters_off():
    """The reference is the model without adapters, at the same perturbation."""
    base = llama().eval()
    model = adapted(copy.deepcopy(base)).eval()
    ctx = context(model, batch())

    def one(rejected, chosen, row, delta):
        with torch.no_grad():
            rejected_before = likelihoods(base, row, row["rejected"], delta)[0].mean()
            chosen_before = likelihoods(base, row, row["chosen"], delta)[0].mean()
        ratios = chosen[0].mean() - chosen_before - (rejected[0].mean() - rejected_before)
        return (ratios - 1 / (2 * 0.1)) ** 2

    assert_terms(make_loss("capo", beta=0.1).terms(ctx), twin(model, ctx, one), model)


def test_lat_is_the_papers():
    """Toward, and away as log(1 - p), zero where a token is unlikely enough."""
    model = adapted().eval()
    ctx = context(model, batch())

    def one(rejected, chosen, row, delta):
        likely = rejected[0] >= -5
        return -0.5 * chosen[0].mean() - 0.5 * (rejected[1] * likely).mean()

    assert_terms(make_loss("lat").terms(ctx), twin(model, ctx, one), model)


def test_the_attack_of_lat_has_the_answers_exchanged():
    """It seeks the rejected answer, and leaves the chosen one."""
    model = adapted().eval()
    ctx = context(model, batch())

    def one(rejected, chosen, row, delta):
        return 0.5 * rejected[0].mean() + 0.5 * (chosen[1] * (chosen[0] >= -5)).mean()

    bad = ctx.y["rejected"].nonzero()[:, 0]
    inner = make_loss("lat").inner(ctx.model, take(ctx.x, bad), take(ctx.y, bad))
    values = inner(take(ctx.x_adv, bad))
    torch.testing.assert_close(
        values.double(), twin(model, ctx, one)[bad].detach(), rtol=1e-4, atol=1e-5, check_dtype=True
    )


@pytest.mark.parametrize("name", ["cat", "capo"])
def test_the_attack_seeks_the_rejected_answer(name):
    """What it climbs is that answer's mean log-likelihood."""
    model = adapted().eval()
    ctx = context(model, batch())
    values = make_loss(name).inner(ctx.model, ctx.x, ctx.y)(ctx.x_adv)
    expected = twin(model, ctx, lambda rejected, *_: rejected[0].mean())
    bad = ctx.y["rejected"]
    torch.testing.assert_close(values.double()[bad], expected[bad], rtol=1e-4, atol=1e-5)


def test_kl_keeps_utility_rows_where_they_were():
    """The divergence from the model with its adapters off, over the answer's tokens."""
    base = llama().eval()
    model = adapted(copy.deepcopy(base)).eval()
    ctx = context(model, batch())
    fixed = make_loss("lat", utility="kl").terms(ctx).fixed
    for k, row in enumerate(rows()):
        if "rejected" in row:
            continue
        p = log_probabilities(model, row["prompt"], row["chosen"]).double()
        q = log_probabilities(base, row["prompt"], row["chosen"]).double()
        gap = (p.exp() * (p - q)).sum(1).mean()
        assert fixed[k].item() == pytest.approx(gap.item(), rel=1e-3, abs=1e-6)


def test_rerouting_is_the_papers():
    """Cosines at the target layers, distances at all; the schedule follows the progress."""
    base = llama(layers=3).eval()
    model = adapted(copy.deepcopy(base)).eval()
    x, y = columns(batch())
    ctx = Context(LossModel(model, Preference()), x, x, y, progress=0.4)
    terms = make_loss("rerouting", alpha=4.0, layers=[0, 2]).terms(ctx)
    for k, row in enumerate(rows()):
        ids = torch.tensor([[*row["prompt"], *row.get("rejected", row["chosen"])]])
        with torch.no_grad():
            h, before = (m(ids, output_hidden_states=True).hidden_states for m in (model, base))
        # The last of Transformers' hidden states is normalised; the layer itself gives it before.
        with artplus.spaces.recording(model, [2]) as last, torch.no_grad():
            model(ids)
        with artplus.spaces.recording(base, [2]) as last_before, torch.no_grad():
            base(ids)
        h, before = [*h[1:-1], last[2]], [*before[1:-1], last_before[2]]
        cosine = [F.cosine_similarity(h[i], before[i], -1).relu().mean() for i in (0, 2)]
        distance = [(a - b).norm(dim=-1).mean() for a, b in zip(h, before, strict=True)]
        assert terms.scaled[k].item() == pytest.approx(4 * 0.8 * sum(cosine).item() / 2, rel=1e-4)
        assert terms.fixed[k].item() == pytest.approx(4 * 0.2 * sum(distance).item() / 3, rel=1e-4)


@pytest.mark.parametrize(("depth", "expected"), [(32, (9, 19)), (2, (0,)), (16, (4, 9))])
def test_rerouting_takes_the_authors_layers(depth, expected):
    """Scaled to the model's depth."""
    from artplus.losses.rerouting import _scaled_to

    assert _scaled_to(depth) == expected


# Identities


def test_latent_perturbations_go_to_both_answers():
    """With several layers as with one tensor: the chosen answer's pass feels them."""
    model, space = adapted().eval(), LatentSpace([0, 1], per="token")
    ctx, still = (context(model, batch(), space, eps=eps) for eps in (0.5, 0.0))
    for name in ATTACKED:
        terms, clean = make_loss(name).terms(ctx), make_loss(name).terms(still)
        moved = (terms.scaled - clean.scaled).abs() > 0
        assert torch.equal(moved, ctx.y["rejected"])
        torch.testing.assert_close(terms.fixed[~moved], clean.fixed[~moved])


def one_step(model, data, name, *, micro_batch=None, **options):
    """The weights after one step over all of the data."""
    optimizer = torch.optim.SGD(trainable(model), lr=0.5)
    attacked = {} if name == "rerouting" else {"attack": ATTACK, "space": TOKEN}
    artplus.fit(
        model, data, optimizer, loss=name, epochs=1, batch_size=8, seed=0, progress=False,
        micro_batch=micro_batch, **attacked | options,
    )  # fmt: skip
    return weights(model)


def assert_stepped(after, model):
    """``after`` is the model's weights after the step that its gradients make."""
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(after[name], p.detach() - 0.5 * p.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ATTACKED)
def test_without_lam_it_is_plain_training_on_utility_rows(name):
    """As a language model is trained on these rows alone."""
    ours = one_step(adapted(), batch(), name, lam=0.0)
    x, y = columns(take(batch(), torch.arange(1, 8, 2)))
    plain = adapted()
    plain.train()
    logits = plain(input_ids=x["input_ids"], attention_mask=x["attention_mask"]).logits
    F.cross_entropy(logits[:, :-1].flatten(0, 1), y["labels"][:, 1:].flatten()).backward()
    assert_stepped(ours, plain)


@pytest.mark.parametrize("name", ATTACKED)
def test_without_lam_dropout_is_that_of_plain_training(name):
    """To the bit: the pass over chosen answers moves no random stream."""
    x, y = columns(batch(share=0))
    plain = {**x, "labels": y["labels"]}

    def run(data, **options):
        model = adapted(llama(dropout=0.2), dropout=0.2)
        optimizer = torch.optim.SGD(trainable(model), lr=0.5)
        artplus.fit(model, data, optimizer, epochs=2, batch_size=4, seed=0, progress=False,
                    attack=ATTACK, space=TOKEN, **options)  # fmt: skip
        return weights(model)

    assert same(run(batch(share=0), loss=name, lam=0.0), run(plain, loss="mix", lam=0.0))


@pytest.mark.parametrize("name", ALL)
def test_without_rows_to_avoid_it_is_the_fixed_term(name):
    """Whatever λ is: the row that is attacked to no end does not count."""
    data = batch(share=0)
    assert same(one_step(adapted(), data, name), one_step(adapted(), data, name, lam=0.0))


@pytest.mark.parametrize("name", ALL)
def test_with_rows_to_avoid_alone_there_is_no_fixed_term(name):
    """Twice λ is twice the step."""
    data = batch(share=1)
    start = weights(adapted())
    once, twice = (one_step(adapted(), data, name, lam=lam) for lam in (0.1, 0.2))
    moved = 0.0
    for k, s in start.items():
        torch.testing.assert_close(twice[k] - s, 2 * (once[k] - s), rtol=1e-2, atol=2e-6)
        moved += (once[k] - s).abs().sum().item()
    assert moved > 1e-4


@pytest.mark.parametrize("name", ALL)
def test_each_term_is_the_mean_over_its_own_rows(name):
    """A mixed batch's gradient is the sum of those of its two halves."""
    start = weights(adapted())
    mixed = one_step(adapted(), batch(), name)
    good, bad = (
        one_step(adapted(), take(batch(), torch.arange(first, 8, 2)), name) for first in (1, 0)
    )
    for k, s in start.items():
        torch.testing.assert_close(mixed[k], good[k] + bad[k] - s, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [2, 3, 5])
def test_parts_are_the_whole_batch(name, size):
    """Also where a part has no row to be avoided."""
    data = take(batch(), torch.tensor([0, 2, 4, 1, 3, 5, 7, 6]))
    whole, parts = (one_step(adapted(), data, name, micro_batch=m) for m in (None, size))
    for k in whole:
        torch.testing.assert_close(whole[k], parts[k], rtol=1e-4, atol=1e-5)


class Stop(Callback):
    """Leave in the middle, as a crash does."""

    watches = True

    def on_pause(self, state):
        if state.step == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ALL)
def test_a_resumed_run_is_the_uninterrupted_one(name, tmp_path):
    """To the bit, with dropout and random starts."""

    def run(*callbacks, **options):
        model = adapted(llama(dropout=0.1), dropout=0.1)
        optimizer = torch.optim.AdamW(trainable(model), lr=0.01)
        attack = PGD(eps=0.2, norm=2, steps=1)
        attacked = {} if name == "rerouting" else {"attack": attack, "space": TOKEN}
        artplus.fit(model, batch(8), optimizer, loss=name, epochs=3, batch_size=4, seed=0,
                    progress=False, callbacks=callbacks, **attacked, **options)  # fmt: skip
        return weights(model)

    whole = run()
    saving = Checkpoint(tmp_path, every_steps=1)
    with pytest.raises(KeyboardInterrupt):
        run(saving, Stop())
    assert same(run(Checkpoint(tmp_path, every_steps=1), resume=tmp_path), whole)


@pytest.mark.parametrize("name", ALL)
def test_ones_own_loop_gives_the_loss_of_fit(name):
    """Method.loss is the scalar whose gradient fit takes."""
    model, ours = adapted(), adapted()
    attacked = {} if name == "rerouting" else {"attack": ATTACK, "space": TOKEN}
    x, y = columns(batch())
    expected = one_step(model, batch(), name)
    ours.train()
    make_method(name, **attacked).loss(LossModel(ours, Preference()), x, y).backward()
    assert_stepped(expected, ours)


# The model before training


def test_the_reference_is_the_model_without_adapters():
    """Without dropout and gradients; every flag is put back, also after an exception."""
    base = llama().eval()
    model = adapted(copy.deepcopy(base), dropout=0.5)
    model.train()
    frozen = next(p for p in model.parameters() if p.requires_grad)
    frozen.requires_grad_(False)
    flags = [(p.requires_grad) for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    x = columns(batch())[0]
    task = Preference()
    wrapped = nn.ModuleDict({"module": model})
    for outer in (model, wrapped):
        loss_model = LossModel(outer, task, forward=LossModel(model, task).outputs)
        with reference(loss_model, None, "capo") as before:
            out = before(x)
        assert not out.requires_grad and torch.equal(out, LossModel(base, task)(x))
    with pytest.raises(KeyError), reference(LossModel(model, task), None, "capo"):
        raise KeyError
    assert [p.requires_grad for p in model.parameters()] == flags
    assert [m.training for m in model.modules()] == modes
    assert not torch.equal(LossModel(model, task)(x), LossModel(base, task)(x))


@pytest.mark.parametrize("options", [{"loss": "capo"}, {"loss": "rerouting"}, {"loss": "lat-kl"}],
                         ids=lambda o: o["loss"])  # fmt: skip
def test_a_model_without_adapters_needs_a_frozen_copy(options):
    """Refused with the remedy, which then works and gives what adapters give."""
    name, _, kl = options["loss"].partition("-")
    extra = {"utility": "kl"} if kl else {}
    plain, attacked = llama(), {} if name == "rerouting" else {"attack": ATTACK, "space": TOKEN}
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    run = {"epochs": 1, "batch_size": 8, "progress": False, **attacked}
    with pytest.raises(ConfigurationError, match=r"reference=copy.deepcopy\(model\)"):
        artplus.fit(plain, batch(), optimizer, loss=make_loss(name, **extra), **run)
    model = adapted(copy.deepcopy(plain)).eval()
    ctx = context(model, batch())
    off = make_loss(name, **extra).terms(ctx)
    second = make_loss(name, reference=plain.train(), **extra).terms(ctx)
    torch.testing.assert_close(off.scaled, second.scaled)
    torch.testing.assert_close(off.fixed, second.fixed)
    assert plain.training


@pytest.mark.parametrize("options", [
    {"name": "cat", "away": -1}, {"name": "cat", "slope": float("nan")},
    {"name": "capo", "beta": 0},
    {"name": "lat", "utility": "ce"}, {"name": "lat", "reference": nn.Identity()},
    {"name": "lat", "toward": -0.5}, {"name": "rerouting", "alpha": -1},
], ids=lambda o: " ".join(list(o)[1:] + [o["name"]]))  # fmt: skip
def test_senseless_options_are_refused(options):
    """At construction."""
    with pytest.raises(ConfigurationError):
        make_loss(options.pop("name"), **options)


def test_rerouting_is_refused_under_compile():
    """Its hooks would be ignored."""
    model = adapted()
    optimizer = torch.optim.SGD(trainable(model), lr=0.1)
    with pytest.raises(ConfigurationError, match="'rerouting' records hidden states"):
        artplus.fit(model, batch(), optimizer, loss="rerouting", compile=True, progress=False)
