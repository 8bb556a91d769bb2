"""The methods for text against slow twins from their papers and their authors' code."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import artplus
from artplus.attacks import PGD, Noise, PowerIteration, SMARTAttack
from artplus.attacks._problem import Problem, make_problem
from artplus.errors import ConfigurationError
from artplus.losses import creat, make_loss, r3f, smart, vat
from artplus.model import LossModel
from artplus.spaces import EmbeddingSpace
from artplus.spaces.hidden_space import HiddenSpace
from artplus.trainers import list_trainers, make_recipe, trainers
from artplus.training import make_method
from artplus.training.callbacks import Callback, Checkpoint, Teacher
from artplus.training.steps import FreeLB
from tests.toys import same, weights

SPACE = EmbeddingSpace()
RECIPES = [n for n in list_trainers() if trainers.get(n).__module__.endswith(".text")]


class Words(nn.Module):
    """A classifier of sentences whose embeddings may be moved by hand."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed, self.drop = nn.Embedding(12, 6), nn.Dropout(dropout)
        self.body, self.head = nn.Sequential(nn.Linear(6, 8), nn.Tanh()), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, delta: Any = 0.0) -> Tensor:
        states = self.body(self.drop(self.embed(input_ids) + delta))
        return self.head((states * attention_mask[..., None]).sum(1))


def sentences(n: int = 8, tokens: int = 5) -> tuple[dict[str, Tensor], Tensor]:
    """Token ids of different lengths, padded with zeros; the class is the first id modulo 3."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, 12, (n, tokens), generator=generator)
    mask = (torch.arange(tokens) < tokens - torch.arange(n)[:, None] % 3).long()
    return {"input_ids": ids * mask, "attention_mask": mask}, ids[:, 0] % 3


X, Y = sentences()
MASK = X["attention_mask"][..., None]


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def slope(values: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(values.sum(), at)[0]


def unit(z: Tensor) -> Tensor:
    return z / z.flatten(1).norm(dim=1).view(-1, 1, 1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of logits, written out."""
    p, q = p.softmax(1), q.softmax(1)
    return (p * (p / q).log()).sum(1)


def gradient(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def ours(method: Any, model: nn.Module, y: Tensor = Y) -> list[Tensor]:
    """The gradient of the method on the sentences."""
    return gradient(model, method.loss(model, X, y, generator=seed()))


def agree(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


# VAT


@pytest.mark.parametrize("unlabelled", [0, 3])
@pytest.mark.parametrize("steps", [1, 2])
def test_vat_is_the_papers(steps: int, unlabelled: int) -> None:
    """d0, one gradient a small step away, r of length ε, KL from a prediction held constant."""
    eps, xi, lam, model = 0.5, 0.1, 1.7, Words()
    y = Y.clone()
    y[:unlabelled] = -100
    method = make_method(vat(lam=lam), attack=PowerIteration(eps=eps, xi=xi, steps=steps),
                         space=SPACE)  # fmt: skip
    d = unit(torch.randn(*MASK.shape[:2], 6, generator=seed()) * MASK)
    clean = model(**X)
    for _ in range(steps):
        z = (xi * d).requires_grad_(True)
        d = unit(slope(kl(clean.detach(), model(**X, delta=z)), z) * MASK)
    supervised = F.cross_entropy(clean[unlabelled:], y[unlabelled:])
    virtual = kl(clean.detach(), model(**X, delta=eps * d)).mean()
    agree(ours(method, model, y), gradient(model, supervised + lam * virtual))


def test_vat_differs_from_trades_by_the_gradient_of_the_reference() -> None:
    """The same value on the same examples, but another gradient."""
    model, attack = Words(), PGD(eps=0.5, norm=2, steps=2)
    both = [make_method(make_loss(name, lam=2.0), attack=attack, space=SPACE) for name in
            ("vat", "trades")]  # fmt: skip
    values = [method.loss(model, X, Y, generator=seed()) for method in both]
    assert torch.equal(*values)
    first, second = (gradient(model, value) for value in values)
    assert not torch.allclose(first[0], second[0], rtol=1e-2)


def test_power_iteration_finds_the_direction_of_largest_curvature() -> None:
    """Of a linear softmax model: the first eigenvector of W' (diag p - p p') W."""
    torch.manual_seed(0)
    net = nn.Linear(5, 4).double()
    x, y = torch.randn(3, 5).double(), torch.zeros(3, dtype=torch.long)
    attack = PowerIteration(eps=1.0, xi=1e-3, steps=300)
    moved = attack(LossModel(net), x, y, inner=vat().inner, generator=seed()) - x
    p = net(x).softmax(1).detach()
    for k in range(3):
        curvature = net.weight.T @ (p[k].diag() - torch.outer(p[k], p[k])) @ net.weight
        first = torch.linalg.eigh(curvature.detach()).eigenvectors[:, -1]
        assert abs(float(moved[k] @ first)) > 0.999


def test_a_flat_prediction_is_left_alone() -> None:
    """No direction, no NaN."""
    net = nn.Linear(4, 3)
    nn.init.zeros_(net.weight)
    x = torch.rand(2, 4)
    x_adv = PowerIteration(eps=1.0)(LossModel(net), x, torch.tensor([0, 1]), inner=vat().inner)
    assert torch.equal(x_adv, x)


# SMART


def test_smart_is_the_papers() -> None:
    """Noise, plain gradient steps, projection in L∞; the divergence both ways."""
    eps, sigma, step, lam, model = 0.02, 0.01, 0.5, 3.0, Words()
    attack = SMARTAttack(eps=eps, step_size=step, noise=sigma, steps=3)
    method = make_method(smart(lam=lam), attack=attack, space=SPACE)
    clean, hold = model(**X), model(**X).detach()
    delta = (sigma * torch.randn(*MASK.shape[:2], 6, generator=seed()) * MASK).clamp(-eps, eps)
    for _ in range(3):
        delta.requires_grad_(True)
        moved = model(**X, delta=delta)
        both = kl(hold, moved) + kl(moved, hold)
        delta = (delta.detach() + step * slope(both, delta)).clamp(-eps, eps)
    moved = model(**X, delta=delta)
    loss = F.cross_entropy(clean, Y) + lam * (kl(clean, moved) + kl(moved, clean)).mean()
    agree(ours(method, model), gradient(model, loss))


def log_odds(p: Tensor) -> Tensor:
    return -(1.0 / (p + 1e-6) - 1 + 1e-6).detach().log()


def test_the_authors_variant_is_that_of_their_code() -> None:
    """No projection, tokens divided by their largest entry, log-odds and references held."""
    sigma, step, model = 1e-5, 1e-3, Words()
    attack = SMARTAttack(eps=1.0, step_size=step, noise=sigma, variant="mt-dnn")
    method = make_method(smart(lam=2.0, variant="mt-dnn"), attack=attack, space=SPACE)
    clean = model(**X)
    noise = sigma * torch.randn(*MASK.shape[:2], 6, generator=seed()) * MASK
    noise.requires_grad_(True)
    p, q = model(**X, delta=noise).softmax(1), clean.softmax(1)
    grad = slope((p * (log_odds(p) - log_odds(q)) * 2).sum(1), noise)
    delta = noise.detach() + step * grad
    delta = delta / (delta.abs().amax(-1, keepdim=True) + 1e-6)
    moved = model(**X, delta=delta)
    halves = F.kl_div(moved.log_softmax(1), clean.detach().softmax(1), reduction="batchmean")
    halves = halves + F.kl_div(clean.log_softmax(1), moved.detach().softmax(1),
                               reduction="batchmean")  # fmt: skip
    agree(ours(method, model), gradient(model, F.cross_entropy(clean, Y) + 2.0 * halves))


def test_the_authors_variant_moves_every_token_by_the_whole_radius() -> None:
    """However small noise and step are; the paper's stays within its radius of 1e-5."""
    model, inner = LossModel(Words()), smart().inner
    for attack, largest in (
        (SMARTAttack(eps=1e-5), 1e-5),
        (SMARTAttack(eps=1.0, variant="mt-dnn"), 1.0),
    ):
        delta = attack(model, X, Y, space=SPACE, inner=inner, generator=seed()).delta
        sizes = delta.abs().amax(-1)[MASK[..., 0].bool()]
        assert bool((sizes <= largest * (1 + 1e-6)).all()) and float(sizes.max()) > largest * 0.6
        if largest == 1:
            assert float(sizes.min()) > 0.8


class Sgd(torch.optim.SGD):
    """Plain gradient descent."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), lr=0.2)


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_the_proximal_term_compares_with_averaged_weights(micro_batch: int | None) -> None:
    """A second network by hand, whose weights follow by 0.6, and 0.9 after half of training."""
    model = Words()
    twin, teacher = copy.deepcopy(model), copy.deepcopy(model)
    objective = smart(lam=0.0, mu=3.0)
    artplus.fit(model, (X, Y), Sgd(model), loss=objective, eps=0.1, space=SPACE, epochs=6,
                batch_size=8, callbacks=[Teacher(0.9, early_decay=0.6, early=0.5)],
                micro_batch=micro_batch, progress=False)  # fmt: skip
    optimizer = Sgd(twin)
    for step in range(6):
        mine, other = twin(**X), teacher(**X).detach()
        loss = F.cross_entropy(mine, Y) + 3.0 * (kl(mine, other) + kl(other, mine)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay = 0.6 if (step + 1) / 6 < 0.5 else 0.9
        with torch.no_grad():
            for average, weight in zip(teacher.parameters(), twin.parameters(), strict=True):
                average.mul_(decay).add_((1 - decay) * weight)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_teacher_is_resumed_to_the_bit(tmp_path: Any) -> None:
    """From every step, with dropout; only trainable weights are in the checkpoint."""
    start = Words(dropout=0.3)
    start.embed.weight.requires_grad_(False)

    def once(*callbacks: Callback, resume: Any = None) -> dict[str, Tensor]:
        model = copy.deepcopy(start)
        recipe = make_recipe("smart", eps=0.1, mu=3.0).options()
        recipe["callbacks"] = (Teacher(0.8, early_decay=0.5), *callbacks)
        artplus.fit(model, (X, Y), Sgd(model), **recipe, epochs=2, batch_size=4, seed=1,
                    resume=resume, progress=False)  # fmt: skip
        return weights(model)

    teacher = Teacher()
    once(teacher)
    assert "embed.weight" not in teacher.state_dict()["weights"]
    reference = once(Checkpoint(tmp_path, every_steps=1, keep=9))
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert len(paths) == 4
    for path in paths:
        assert same(once(resume=path), reference), path.name


def test_the_model_keeps_its_weights_and_flags_beside_a_teacher() -> None:
    """With μ = 0 the teacher changes nothing, dropout and random streams included."""
    start, ends = Words(dropout=0.3), []
    for callbacks in ([], [Teacher(0.5)]):
        model = copy.deepcopy(start)
        artplus.fit(model, (X, Y), Sgd(model), loss="smart", eps=0.1, space=SPACE, epochs=2,
                    batch_size=4, seed=1, callbacks=callbacks, progress=False)  # fmt: skip
        ends.append(weights(model))
    assert same(*ends)


def test_a_proximal_term_without_a_teacher_is_refused() -> None:
    """Before the weights move, with the remedy."""
    model = Words()
    before = weights(model)
    with pytest.raises(ConfigurationError, match=r"there is none: give callbacks=\[Teacher\(\)\]"):
        artplus.fit(model, (X, Y), Sgd(model), loss=smart(mu=1.0), eps=0.1, space=SPACE,
                    progress=False)  # fmt: skip
    assert same(before, weights(model))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: smart(variant="code"), "variant must be 'paper' or 'mt-dnn'"),
        (lambda: smart(variant="mt-dnn", mu=1.0), "has no proximal term"),
        (lambda: smart(mu=-1.0), "mu must be"),
        (lambda: SMARTAttack(eps=1.0, variant="code"), "variant must be"),
        (lambda: SMARTAttack(eps=1.0, norm=2, variant="mt-dnn"), "which is L-infinity"),
        (lambda: SMARTAttack(eps=1.0, step_size=-1.0), "step_size must be"),
        (lambda: PowerIteration(eps=1.0, steps=0), "steps must be"),
        (lambda: PowerIteration(eps=1.0, xi=-0.1), "must be a finite number"),
        (lambda: Noise(eps=1.0, distribution="cauchy"), "distribution must be"),
        (lambda: Noise(eps=-1.0), "eps must be"),
        (lambda: Teacher(1.0), r"decay must be a number in \[0, 1\)"),
        (lambda: creat(temperature=-1.0), "temperature must be"),
    ],
    ids=range(12),
)
def test_settings_are_checked(make: Any, match: str) -> None:
    """When they are made."""
    with pytest.raises(ConfigurationError, match=match):
        make()


# R3F and NEFTune


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_r3f_is_the_papers(distribution: Any) -> None:
    """The divergence both ways between x and x plus noise."""
    eps, model = 0.05, Words()
    attack = Noise(eps=eps, distribution=distribution)
    method = make_method(r3f(lam=0.7), attack=attack, space=SPACE)
    shape = (*MASK.shape[:2], 6)
    if distribution == "uniform":
        noise = (torch.rand(shape, generator=seed()) * 2 - 1) * eps * MASK
    else:
        noise = (torch.randn(shape, generator=seed()) * eps * MASK).clamp(-eps, eps)
    clean, noised = model(**X), model(**X, delta=noise)
    loss = F.cross_entropy(clean, Y) + 0.7 * (kl(clean, noised) + kl(noised, clean)).mean()
    agree(ours(method, model), gradient(model, loss))


def problem(space: Any, norm: float) -> Problem:
    return make_problem(LossModel(Words()), X, Y, eps=5.0, norm=norm, space=space)


def test_neftune_divides_by_the_length_of_each_sentence() -> None:
    """α / sqrt(L H) with its own L, not the padded one; padding gets none."""
    delta = Noise(eps=5.0, norm=2)(LossModel(Words()), X, Y, space=SPACE, generator=seed()).delta
    for k, length in enumerate(X["attention_mask"].sum(1).tolist()):
        bound = 5.0 / (length * 6) ** 0.5
        assert float(delta[k].abs().max()) <= bound * (1 + 1e-6)
        assert float(delta[k].abs().max()) > 0.8 * bound
        assert not delta[k, length:].any()


@pytest.mark.parametrize("per", ["example", "token"])
@pytest.mark.parametrize("norm", [torch.inf, 2])
def test_noise_fills_the_largest_box_inside_the_ball(per: Any, norm: float) -> None:
    """Its corners are at the radius, whatever the norm and granularity."""
    space = EmbeddingSpace(per=per)
    ball = problem(space, norm).ball
    attack = Noise(eps=5.0, norm=norm)
    delta = attack(LossModel(Words()), X, Y, space=space, generator=seed()).delta
    moved = MASK.bool().expand_as(delta)
    entries = 6 if per == "token" else (MASK.sum(1, keepdim=True) * 6).float()
    half = torch.as_tensor(5.0 if norm == torch.inf else 5.0 / entries**0.5).expand_as(delta)
    assert bool((delta.abs() <= half * (1 + 1e-6))[moved].all())
    corner = torch.where(moved, half, 0.0)
    torch.testing.assert_close(ball.length(corner), torch.full((8,), 5.0))
    assert not delta[~moved].any()


def test_noise_makes_no_pass() -> None:
    """Neither forward nor backward."""

    def never(x: Any) -> Any:
        raise AssertionError("a pass")

    net = nn.Linear(4, 3)
    Noise(eps=0.1)(LossModel(net, forward=never), torch.rand(2, 4), torch.tensor([0, 1]))


# CreAT


def test_creat_climbs_the_loss_and_turns_the_first_token_away() -> None:
    """One step of the authors' inner update, with the state of the first token after a layer."""
    eps, tau, model = 0.3, 2.0, Words()
    attack = PGD(eps=eps, norm=2, steps=1, step_size=eps, random_start=True)
    method = make_method(creat(temperature=tau, layer="body"), attack=attack, space=SPACE)

    ball = problem(SPACE, 2).ball
    zero = torch.zeros(*MASK.shape[:2], 6)
    delta = (ball.random(zero, eps, seed()) * MASK).requires_grad_(True)
    h0 = model.body(model.embed(X["input_ids"])).detach()[:, 0]
    h = model.body(model.embed(X["input_ids"]) + delta)[:, 0]
    loss = F.cross_entropy(model(**X, delta=delta), Y, reduction="none")
    inner = loss - tau * (h * h0).sum(1) / (h.norm(dim=1) * h0.norm(dim=1))
    moved = delta.detach() + eps * unit(slope(inner, delta))
    factor = (eps / moved.flatten(1).norm(dim=1)).clamp(max=1).view(-1, 1, 1)
    total = F.cross_entropy(model(**X), Y) + F.cross_entropy(model(**X, delta=moved * factor), Y)
    agree(ours(method, model), gradient(model, total))


# Recipes


def bert(**options: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=24, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, num_labels=3, **options,
    )  # fmt: skip
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model


def with_lora(model: nn.Module) -> nn.Module:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=16,
                             target_modules=["query", "value"])  # fmt: skip
    adapted: nn.Module = peft.get_peft_model(model, config)
    return adapted


def reviews(n: int = 16) -> tuple[dict[str, Tensor], Tensor]:
    """Sentences of 5 to 8 tokens between a [CLS] (1) and a [SEP] (2); the class is a word's."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 24, (n, 8), generator=generator)
    lengths = 5 + torch.arange(n) % 4
    ids[:, 0] = 1
    ids[torch.arange(n), lengths - 1] = 2
    mask = (torch.arange(8) < lengths[:, None]).long()
    special = ((ids < 3) & (mask == 1)).long()
    columns = {"input_ids": ids * mask, "attention_mask": mask, "special_tokens_mask": special}
    return columns, ids[:, 1] % 3


def under_attack(model: nn.Module, recipe: Any, x: Any, y: Tensor) -> float:
    """The mean loss at what the recipe's attack makes."""
    model.eval()
    wrapped = LossModel(model)
    x_adv = recipe.attack(
        wrapped, x, y, space=recipe.space, inner=recipe.objective.inner, generator=seed()
    )
    with torch.no_grad():
        return float(wrapped.loss(wrapped(x_adv), y).mean())


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_lowers_the_loss_under_its_attack(
    name: str, adapted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a small BERT, in few steps; padding and special tokens are never touched."""
    model, (x, y) = bert(), reviews()
    model = with_lora(model) if adapted else model
    recipe, seen, insert = make_recipe(name), [], HiddenSpace.insert

    def watched(self: Any, inputs: Any, z: Tensor) -> Any:
        seen.append((inputs["attention_mask"], inputs["special_tokens_mask"], z.detach()))
        return insert(self, inputs, z)

    before = under_attack(model, recipe, x, y)
    monkeypatch.setattr(HiddenSpace, "insert", watched)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    history = artplus.fit(model, (x, y), optimizer, **recipe.options(), epochs=3, batch_size=8,
                          seed=0, progress=False)  # fmt: skip
    monkeypatch.undo()
    assert under_attack(model, recipe, x, y) < before
    assert history["adversarial_examples"][0] >= 8
    assert any(bool(z.any()) for _, _, z in seen)
    for mask, special, z in seen:
        assert not z[mask == 0].any(), "padding"
        assert not z[special == 1].any(), "special tokens"


def test_recipes_go_to_fit_as_options() -> None:
    """Whatever a recipe has, and nothing else."""
    assert make_recipe("freelb", eps=0.3).options()["step"] == FreeLB(3, 0.3 / 6)
    options = make_recipe("input_gradient").options()
    assert "attack" not in options and "space" not in options
    assert make_recipe("smart", variant="mt-dnn").callbacks == ()
    assert isinstance(make_recipe("smart").callbacks[0], Teacher)


def test_free_lb_plus_plus_goes_as_far_as_it_says() -> None:
    """Its default radius of validation never binds: with it as a bound nothing changes."""
    recipe, ends = make_recipe("freelb_pp"), []
    assert isinstance(recipe.step, FreeLB) and not recipe.step.bounded
    for step in (recipe.step, replace(recipe.step, bounded=True)):
        torch.manual_seed(0)
        model = Words()
        artplus.fit(model, (X, Y), Sgd(model), **recipe.options() | {"step": step}, epochs=2,
                    batch_size=4, seed=1, progress=False)  # fmt: skip
        ends.append(weights(model))
    assert same(*ends)
