"""What every registered objective promises, built in or not: rows come from the registry."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from artplus.criterion import criterion, mean
from artplus.errors import ConfigurationError, UnknownNameError
from artplus.functional import smooth_labels
from artplus.losses import Context, Objective, Terms, list_losses, make_loss, register_loss
from artplus.model import LossModel
from artplus.tasks import task_for

NAMES = list_losses()
ANY_TASK = [name for name in NAMES if not make_loss(name).task]
# Their fixed term is the plain loss on the clean batch, so λ = 0 is plain training.
PLAIN_AT_ZERO = [
    *("creat", "hinge", "input_gradient", "mix", "mse", "r3f", "smart", "trades", "vat"),
]
# The clean pass moves batch statistics, save where there is no clean pass.
MOVED_BY = {name: "x" for name in NAMES} | {"at": "x_adv"}

every_loss = pytest.mark.parametrize("name", ANY_TASK)
every_name = pytest.mark.parametrize("name", NAMES)
every_kind = pytest.mark.parametrize("kind", ["mlp", "cnn"])


@pytest.fixture
def attacked(toy_batch):
    """``attacked(kind)``: clean inputs, perturbed inputs and class numbers."""

    def draw(kind: str = "mlp", n: int = 7):
        x, y = toy_batch(kind, n)
        return x, x + 0.2 * torch.randn_like(x), y

    return draw


def evaluate(objective: Objective, model: LossModel, x, x_adv, y, *, lam=None, weights=None):
    """The scalar that training minimises."""
    lam = objective.weight(0.5) if lam is None else lam
    return mean(objective.terms(Context(model, x, x_adv, y)).total(lam), weights)


def grads(net: nn.Module) -> list[torch.Tensor]:
    """Copies of every parameter's gradient."""
    return [p.grad.clone() for p in net.parameters()]


@every_loss
@every_kind
def test_terms_are_one_finite_value_per_example(name, kind, device, tiny_net, attacked):
    """Each term is (batch,) and finite, on the device of the inputs."""
    net = tiny_net(kind, batch_norm=True, dropout=0.3).to(device)
    x, x_adv, y = (v.to(device) for v in attacked(kind))
    terms = make_loss(name).terms(Context(LossModel(net), x, x_adv, y))
    for term in (terms.scaled, terms.fixed):
        if term is not None:
            assert term.shape == (len(x),) and term.device.type == device.type
            assert bool(torch.isfinite(term).all())


@every_loss
def test_gradient_reaches_every_weight(name, tiny_net, attacked):
    """No parameter is cut off from the loss."""
    net = tiny_net(smooth=True)
    x, x_adv, y = attacked()
    evaluate(make_loss(name), LossModel(net), x, x_adv, y).backward()
    assert all(bool(g.abs().sum() > 0) for g in grads(net))


@every_loss
def test_an_example_keeps_its_value_wherever_it_stands(name, tiny_net, attacked):
    """Shuffling the batch shuffles the terms and changes nothing else."""
    model = LossModel(tiny_net().eval())
    x, x_adv, y = attacked()
    order = torch.randperm(len(x))
    objective = make_loss(name)
    straight = objective.terms(Context(model, x, x_adv, y)).total(0.7)
    shuffled = objective.terms(Context(model, x[order], x_adv[order], y[order])).total(0.7)
    torch.testing.assert_close(shuffled, straight[order])


@every_loss
def test_terms_change_nothing_they_were_given(name, tiny_net, attacked):
    """Inputs, labels, weights, gradients, flags and modes are as before."""
    net = tiny_net(batch_norm=True, dropout=0.3)
    net[1].eval()  # a layer that the user froze
    net[0].weight.requires_grad_(False)
    net[-1].weight.grad = torch.full_like(net[-1].weight, 3.0)
    x, x_adv, y = attacked()
    before = [v.clone() for v in (x, x_adv, y)]
    weights = copy.deepcopy(list(net.parameters()))
    modes = [m.training for m in net.modules()]
    make_loss(name).terms(Context(LossModel(net), x, x_adv, y))
    assert all(torch.equal(a, b) for a, b in zip(before, (x, x_adv, y), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))
    assert [m.training for m in net.modules()] == modes
    assert not (x.requires_grad or x_adv.requires_grad or x.grad is not None)
    assert [p.requires_grad for p in net.parameters()] == [p.requires_grad for p in weights]
    assert torch.equal(net[-1].weight.grad, torch.full_like(net[-1].weight, 3.0))
    assert net[0].bias.grad is None


@every_loss
def test_a_seed_repeats_the_terms(name, tiny_net, attacked):
    """With one seed, dropout included, the value comes out the same to the last bit."""
    net = tiny_net(dropout=0.5)
    x, x_adv, y = attacked()
    values = []
    for _ in range(2):
        torch.manual_seed(3)
        values.append(evaluate(make_loss(name), LossModel(net), x, x_adv, y))
    assert torch.equal(*values)


@every_loss
def test_lam_multiplies_the_scaled_term_alone(name, tiny_net, attacked):
    """total(2λ) - total(λ) is λ times the scaled term."""
    terms = make_loss(name).terms(Context(LossModel(tiny_net()), *attacked()))
    for lam in (0.25, 1.0, 3.0):
        gained = terms.total(2 * lam) - terms.total(lam)
        torch.testing.assert_close(gained, lam * terms.scaled, rtol=1e-4, atol=1e-5)


@every_name
def test_a_schedule_gives_lam_for_the_progress(name):
    """λ may be a function of the fraction of training done; a number is the same throughout."""
    objective = make_loss(name, lam=lambda progress: 2 + progress)
    assert [objective.weight(p) for p in (0.0, 0.5, 1.0)] == [2.0, 2.5, 3.0]
    assert {make_loss(name, lam=4).weight(p) for p in (0.0, 1.0)} == {4.0}


@every_name
def test_lam_comes_from_the_factory_or_from_the_call(name):
    """``make_loss(name, lam=...)`` and the factory's own argument mean the same."""
    from artplus.losses._base import losses

    assert make_loss(name, lam=0.3).weight(0) == losses.get(name)(lam=0.3).weight(0) == 0.3
    assert make_loss(make_loss(name), lam=0.3).weight(0) == 0.3
    assert make_loss(name).name == name


@every_name
@pytest.mark.parametrize("lam", [-0.1, float("nan"), float("inf"), "1", None, True, [1]])
def test_a_senseless_lam_is_refused(name, lam):
    """A negative, infinite or missing weight is an error, at construction."""
    from artplus.losses._base import losses

    with pytest.raises(ConfigurationError, match="lam must be a finite number >= 0"):
        losses.get(name)(lam=lam)


@every_name
def test_a_senseless_schedule_is_refused_when_it_errs(name):
    """A schedule that turns negative is named with the progress at which it did."""
    objective = make_loss(name, lam=lambda progress: 1 - 2 * progress)
    assert objective.weight(0.25) == 0.5
    with pytest.raises(ConfigurationError, match=r"lam schedule at progress 0.750 must be .*>= 0"):
        objective.weight(0.75)


@every_loss
def test_one_hot_rows_are_class_numbers(name, tiny_net, attacked):
    """Labels as one-hot rows give the value of labels as class numbers."""
    model = LossModel(tiny_net().eval())
    x, x_adv, y = attacked()
    objective = make_loss(name)
    rows = nn.functional.one_hot(y, 4).float()
    torch.testing.assert_close(
        evaluate(objective, model, x, x_adv, rows), evaluate(objective, model, x, x_adv, y)
    )


@every_loss
def test_label_smoothing_works_and_is_felt(name, tiny_net, attacked):
    """Smoothed rows give a finite gradient, and another loss than the hard labels."""
    net = tiny_net()
    x, x_adv, y = attacked()
    objective = make_loss(name)
    soft = evaluate(objective, LossModel(net), x, x_adv, smooth_labels(y, 4, 0.2))
    soft.backward()
    assert all(bool(torch.isfinite(g).all()) for g in grads(net))
    hard = evaluate(objective, LossModel(net), x, x_adv, y)
    assert abs(float(soft.detach() - hard.detach())) > 1e-4


@every_loss
def test_class_weights_weigh_whole_examples(name, tiny_net, attacked):
    """A class of weight zero drops out of every term; equal weights change nothing."""
    x, x_adv, y = attacked(n=12)
    y[:3] = 0
    net = tiny_net().eval()
    objective = make_loss(name)

    def loss(weight: list[float], keep=slice(None)):
        each = criterion(nn.CrossEntropyLoss(weight=torch.tensor(weight)))
        return evaluate(
            objective,
            LossModel(net, task_for(each)),
            x[keep],
            x_adv[keep],
            y[keep],
            weights=each.weights(y[keep]),
        )

    plain = evaluate(objective, LossModel(net), x, x_adv, y)
    torch.testing.assert_close(loss([2.0, 2.0, 2.0, 2.0]), plain)
    without = loss([1.0, 1.0, 1.0, 1.0], keep=y != 0)
    torch.testing.assert_close(loss([0.0, 1.0, 1.0, 1.0]), without)


@every_loss
@every_kind
def test_batch_statistics_follow_one_pass_only(name, kind, tiny_net, attacked):
    """Running statistics move once, with the batch that the docstring names."""
    net = tiny_net(kind, batch_norm=True)
    x, x_adv, y = attacked(kind)
    twin = copy.deepcopy(net)
    twin(x if MOVED_BY[name] == "x" else x_adv)
    evaluate(make_loss(name), LossModel(net), x, x_adv, y).backward()
    for (key, got), expected in zip(net.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(got, expected), key


@every_loss
def test_the_attacked_pass_uses_its_own_batch_statistics(name, tiny_net, attacked):
    """In train mode the attacked batch is normalised by itself, not by running averages."""
    net = tiny_net(batch_norm=True)
    net[1].running_mean.fill_(50.0)  # would ruin the predictions if it were used
    x, x_adv, y = attacked()
    terms = make_loss(name).terms(Context(LossModel(net), x, x_adv, y))
    if terms.adversarial is None:
        pytest.skip("no attacked pass")
    torch.testing.assert_close(terms.adversarial, copy.deepcopy(net).train()(x_adv))


@pytest.mark.parametrize("name", PLAIN_AT_ZERO)
@every_kind
def test_lam_zero_is_plain_training_to_the_last_bit(name, kind, device, tiny_net, attacked):
    """At λ = 0: the same gradients, buffers and random stream as cross-entropy alone."""
    net = tiny_net(kind, batch_norm=True, dropout=0.4).to(device)
    twin = copy.deepcopy(net)
    x, x_adv, y = (v.to(device) for v in attacked(kind))
    objective = make_loss(name, lam=0.0)
    torch.manual_seed(1)
    evaluate(objective, LossModel(net), x, x_adv, y).backward()
    drawn = torch.rand(3), torch.rand(3, device=device)
    torch.manual_seed(1)
    nn.functional.cross_entropy(twin(x), y).backward()
    assert torch.equal(drawn[0], torch.rand(3))
    assert torch.equal(drawn[1], torch.rand(3, device=device))
    assert all(torch.equal(a, b) for a, b in zip(grads(net), grads(twin), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), twin.buffers(), strict=True))


def test_lam_zero_keeps_an_overflowing_term_out():
    """Zero times infinity would be NaN: at λ = 0 the scaled term is left out, not multiplied."""
    terms = Terms(fixed=torch.tensor([1.0]), scaled=torch.tensor([torch.inf]))
    assert terms.total(0.0).tolist() == [1.0]
    assert Terms(scaled=torch.tensor([2.0])).total(0.0).tolist() == [0.0]


@every_loss
def test_two_passes_share_one_dropout_mask(name, tiny_net, attacked):
    """At x' = x both passes predict the same, dropout or not."""
    net = tiny_net(dropout=0.5)
    x, _, y = attacked()
    terms = make_loss(name).terms(Context(LossModel(net), x, x, y))
    if terms.clean is None or terms.adversarial is None:
        pytest.skip("one pass only")
    assert torch.equal(terms.clean, terms.adversarial)


@every_loss
def test_extreme_logits_stay_finite(name, tiny_net, attacked):
    """Confidence beyond float32's exponent gives large numbers, not NaN, in loss and gradient."""
    net = tiny_net()
    with torch.no_grad():
        net[-1].weight *= 1e4
    x, x_adv, y = attacked()
    loss = evaluate(make_loss(name), LossModel(net), x, x_adv, y)
    loss.backward()
    assert bool(torch.isfinite(loss)) and all(bool(torch.isfinite(g).all()) for g in grads(net))


@every_loss
def test_inner_loss_is_per_example_and_has_a_slope(name, tiny_net, attacked):
    """What the attack climbs is (batch,), and moves the attacked input alone."""
    objective = make_loss(name)
    if objective.inner is None:
        pytest.skip("the attack climbs the model's own loss")
    net = tiny_net(smooth=True).eval()
    x, x_adv, y = attacked()
    climb = objective.inner(LossModel(net), x, y)
    x_adv.requires_grad_(True)
    values = climb(x_adv)
    assert values.shape == (len(x),)
    (slope,) = torch.autograd.grad(values.sum(), x_adv)
    assert bool((slope.flatten(1).abs().sum(1) > 0).all())


@pytest.mark.parametrize("name", ["trades", "mse"])
def test_a_flat_start_has_its_noise(name, tiny_net, attacked):
    """Where the inner loss has no slope at x, the objective says how far off to start."""
    objective = make_loss(name)
    net = tiny_net(smooth=True).eval()
    x, _, y = attacked()
    z = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(objective.inner(LossModel(net), x, y)(z).sum(), z)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-6)
    assert objective.start_noise == 0.001


@pytest.mark.parametrize("kappa", [-1.0, float("nan"), "2"])
def test_hinge_refuses_a_senseless_margin(kappa):
    """The margin wanted is a finite number >= 0."""
    with pytest.raises(ConfigurationError, match="kappa must be a finite number >= 0"):
        make_loss("hinge", kappa=kappa)


def test_input_gradient_refuses_other_norms():
    """Only the norms with a dual among the attacks' norms are offered."""
    with pytest.raises(ConfigurationError, match="norm must be 1, 2 or inf, got 3"):
        make_loss("input_gradient", norm=3)


def test_unknown_name_lists_the_known_and_the_nearest():
    """A typing error is answered with the name meant and all names there are."""
    with pytest.raises(UnknownNameError, match="unknown loss 'tradez'. Did you mean 'trades'") as e:
        make_loss("tradez")
    assert all(name in str(e.value) for name in NAMES)


def test_make_loss_names_what_it_cannot_use():
    """Options unknown to the factory, beside an objective, or no loss at all are errors."""
    with pytest.raises(ConfigurationError, match="loss 'trades': .*unexpected keyword.*'beta'"):
        make_loss("trades", beta=6.0)
    with pytest.raises(ConfigurationError, match="kappa: options go with a loss's name"):
        make_loss(make_loss("hinge"), kappa=1.0)
    with pytest.raises(ConfigurationError, match="loss must be one of at, .* got 5"):
        make_loss(5)


def test_make_loss_keeps_an_objective_as_it_is():
    """A ready objective passes through; λ replaces a copy's."""
    objective = make_loss("mix")
    assert make_loss(objective) is objective
    assert make_loss(objective, lam=3).weight(0) == 3 and objective.weight(0) == 1


def test_a_registered_loss_is_found_by_its_name(tiny_net, attacked):
    """A user's factory joins the list and works like a built-in."""

    @register_loss("twice_clean")
    def twice_clean(*, lam: float = 2.0) -> Objective:
        def terms(ctx):
            model, x, y = ctx.model, ctx.x, ctx.y
            return Terms(scaled=model.loss(model(x), y))

        return Objective("twice_clean", terms, lam=lam)

    assert "twice_clean" in list_losses()
    net = tiny_net()
    x, x_adv, y = attacked()
    got = evaluate(make_loss("twice_clean"), LossModel(net), x, x_adv, y)
    torch.testing.assert_close(got, 2 * nn.functional.cross_entropy(net(x), y))


@pytest.mark.parametrize("shape", [(), (3, 2)])
def test_terms_that_are_not_per_example_are_refused(shape):
    """A user's loss that averages, or forgets to, is told so before it broadcasts."""
    with pytest.raises(ConfigurationError, match=r"terms must be \(batch,\), one value per"):
        Terms(scaled=torch.zeros(shape))
    with pytest.raises(ConfigurationError, match=r"got \(2,\) beside \(3,\)"):
        Terms(scaled=torch.zeros(3), fixed=torch.zeros(2))
