"""Perturbations of embeddings and hidden states: exactness, masks, radii, and hooks that go."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import artplus
from artplus.attacks import FMN, PGD, Relative, Square
from artplus.errors import ConfigurationError, DataError
from artplus.evaluation.named import Threat
from artplus.evaluation.suites import list_suites, make_suite
from artplus.model import LossModel
from artplus.spaces import EmbeddingSpace, InputSpace, LatentSpace, Perturbed, attached, run
from artplus.training import random_flip
from artplus.training.callbacks import Augment, Checkpoint, WarmStart
from tests.spaces.models import TOKENS, WIDTH, Words, fit, hooks, labelled, sentences, weights
from tests.spaces.models import words as make

SPACES = {
    "embedding": EmbeddingSpace(),
    "embedding per token": EmbeddingSpace(per="token"),
    "embedding, relative": EmbeddingSpace(relative=True),
    "one layer": LatentSpace([0]),
    "a layer per token, relative": LatentSpace(["layers.1"], per="token", relative=True),
    "two layers": LatentSpace([0, 1]),
    "two layers per token": LatentSpace([0, -1], per="token"),
}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def noise(model, space, inputs, scale=0.3):
    z = space.lift(LossModel(model), inputs)
    return scale * torch.randn(z.shape, generator=torch.Generator().manual_seed(3))


def test_an_embedding_is_perturbed_as_inputs_embeds_are():
    """The hook against the model's own argument: outputs and gradients to the last bit."""
    model, inputs, space = make(), sentences(), EmbeddingSpace()
    delta = noise(model, space, inputs).requires_grad_()
    hooked = run(model, space.insert(inputs, delta))
    rest = {name: value for name, value in inputs.items() if name != "ids"}
    direct = model(inputs_embeds=model.embed(inputs["ids"]) + delta, **rest)
    assert torch.equal(hooked, direct)
    for a, b in zip(
        torch.autograd.grad(hooked.sum(), [delta, *model.parameters()]),
        torch.autograd.grad(direct.sum(), [delta, *model.parameters()]),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_two_layers_are_perturbed_each_by_its_own():
    """Against the sum written out by hand."""
    model, inputs, space = make(), sentences(), LatentSpace([0, 1])
    delta = noise(model, space, inputs)
    assert delta.shape == (8, 2, TOKENS, WIDTH)
    states = model.embed(inputs["ids"])
    for k, layer in enumerate(model.layers):
        states = torch.tanh(layer(states) + delta[:, k])
    kept = inputs["attention_mask"].unsqueeze(-1).float()
    expected = model.head((states * kept).sum(1) / kept.sum(1))
    assert torch.equal(run(model, space.insert(inputs, delta)), expected)


@every_space
def test_zero_changes_nothing(space):
    """What lift gives is the clean point."""
    model, inputs = make(), sentences()
    z = space.lift(LossModel(model), inputs)
    assert torch.equal(run(model, space.insert(inputs, z)), run(model, inputs))
    assert torch.equal(space.extract(space.insert(inputs, z + 1)), z + 1)


@every_space
@pytest.mark.parametrize("norm", [2, torch.inf])
def test_radius_and_padding_are_kept(space, norm):
    """Of every example or token; padded tokens are not touched at all."""
    model, inputs, eps = LossModel(make()), sentences(), 0.7
    labels = labelled()["labels"]
    delta = PGD(eps=eps, norm=norm, steps=5)(model, inputs, labels, space=space).delta
    unit = 1.0
    if space.relative:
        unit = space.unit(model) if isinstance(space, EmbeddingSpace) else mean_row(model, space)
    rows = delta.flatten(0, -2) if space.per == "token" else delta.flatten(1)
    assert (rows.norm(norm, dim=-1) <= eps * unit * (1 + 1e-5)).all()
    largest = rows.norm(norm, dim=-1).amax()
    assert largest > 0.9 * eps * unit
    padded = (inputs["attention_mask"] == 0)[:, :, None].expand(8, TOKENS, WIDTH)
    if delta.ndim == 4:
        padded = padded.unsqueeze(1).expand(delta.shape)
    assert padded.any() and (delta[padded] == 0).all() and (delta[~padded] != 0).any()


def mean_row(model, space):
    """The mean norm of a layer's rows, by a hook of the test's own."""
    (site,), found = space.sites(model.module), []
    handle = site.register_forward_hook(
        lambda m, a, out: found.append(out.detach().norm(dim=-1).mean())
    )
    model(sentences())
    handle.remove()
    return float(found[0])


@given(st.integers(1, 5), st.integers(1, 7), st.floats(0.01, 3), st.integers(0, 999))
def test_a_radius_per_token_is_one_ball_a_token(n, tokens, eps, seed):
    """Projection, steps and norms of (n, tokens, width) are those of n·tokens examples."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, tokens, WIDTH, generator=generator)
    ball, rows = EmbeddingSpace(per="token").geometry(2), EmbeddingSpace().geometry(2)
    origin, flat = torch.zeros_like(z), z.reshape(-1, WIDTH)
    region, whole = EmbeddingSpace().region(z.new_zeros(n, tokens).long(), z), InputSpace()
    found = ball.retraction(origin, eps, region)(z)
    expected = rows.retraction(torch.zeros_like(flat), eps, whole)(flat)
    torch.testing.assert_close(found.reshape(-1, WIDTH), expected)


def test_a_token_counts_as_much_as_its_own_radius_says():
    """Per token, each moves as far as alone; per example they share one radius."""
    model, labels = LossModel(make()), labelled()["labels"]
    one = PGD(eps=0.5, norm=2, steps=8)
    shared = one(model, sentences(), labels, space=EmbeddingSpace()).delta
    own = one(model, sentences(), labels, space=EmbeddingSpace(per="token")).delta
    kept = sentences()["attention_mask"] == 1
    torch.testing.assert_close(own.norm(dim=-1)[kept], torch.full((int(kept.sum()),), 0.5))
    torch.testing.assert_close(shared.flatten(1).norm(dim=1), torch.full((8,), 0.5))


@pytest.mark.parametrize("column", ["special_tokens_mask", "perturbation_mask"])
def test_masks_of_columns(column):
    """Special tokens and what a mask leaves out stay; the model is not given these columns."""
    model, inputs = LossModel(make()), sentences()
    inputs[column] = torch.zeros(8, TOKENS, dtype=torch.long)
    inputs[column][:, 0] = 1
    first = column == "perturbation_mask"  # one marks what may change, the other what may not
    delta = PGD(eps=1, norm=2, steps=3)(
        model, inputs, labelled()["labels"], space=EmbeddingSpace()
    ).delta
    assert (delta[:, 0].norm(dim=-1) > 0).all() == first
    assert (delta[:, 1:].flatten(1).norm(dim=1) > 0).all() != first


def test_special_tokens_by_their_ids():
    """Wherever they stand."""
    model, inputs = LossModel(make()), sentences()
    inputs["ids"][:, 1] = 7
    space = EmbeddingSpace(special_tokens=[7])
    delta = PGD(eps=1, norm=2, steps=3)(model, inputs, labelled()["labels"], space=space).delta
    assert (delta[inputs["ids"] == 7] == 0).all() and (delta[:, 0] != 0).any()


def test_a_relative_radius_is_a_multiple_of_the_rows():
    """Embeddings twice as large allow perturbations twice as large."""
    model, large = make(), make()
    with torch.no_grad():
        large.embed.weight.mul_(2)
    space = EmbeddingSpace(relative=True)
    assert space.unit(LossModel(model)) == pytest.approx(
        float(model.embed.weight.detach().norm(dim=1).mean())
    )
    assert space.unit(LossModel(large)) == pytest.approx(2 * space.unit(LossModel(model)))


def test_states_in_half_precision_get_a_float32_perturbation():
    """Bf16 states: the sum is taken in float32 and then rounded once."""
    model, inputs, space = make().bfloat16(), sentences(), EmbeddingSpace()
    delta = noise(model, space, inputs)
    assert delta.dtype == torch.float32
    with attached(model, space):
        found = run(model, space.insert(inputs, delta))
    embeds = (model.embed(inputs["ids"]).float() + delta).bfloat16()
    expected = model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"])
    assert torch.equal(found, expected)


@every_space
def test_hooks_are_gone_afterwards(space):
    """After an attack, training, an evaluation and a failure within."""
    model = make()
    PGD(eps=0.1, norm=2, steps=1)(LossModel(model), sentences(), labelled()["labels"], space=space)
    fit(model, space=space, validation=labelled(seed=1))
    artplus.evaluate(
        model, labelled(), eps=0.1, norm=2, space=space, attacks=["fgsm"], checks=False,
        progress=False,
    )  # fmt: skip
    with pytest.raises(RuntimeError), attached(model, space), attached(model, space):
        assert hooks(model) > 0
        raise RuntimeError
    assert hooks(model) == 0 and not hasattr(model, "_artplus_hooks")
    copy.deepcopy(model)


@pytest.mark.parametrize("loss", ["mix", "trades"])
@every_space
def test_training_resumes_bit_for_bit(space, loss, tmp_path):
    """On from the checkpoint of the first of three epochs."""
    model, other = make(), make()
    fit(model, space=space, loss=loss, epochs=3)
    fit(other, space=space, loss=loss, epochs=3, callbacks=[Checkpoint(tmp_path)])
    first = sorted(tmp_path.iterdir())[0]
    resumed = make()
    fit(resumed, space=space, loss=loss, epochs=3, resume=first)
    assert torch.equal(weights(model), weights(other))
    assert torch.equal(weights(model), weights(resumed))
    assert not torch.equal(weights(model), weights(make()))


def test_radius_zero_is_plain_training():
    """Its second term is zero, so training is that of λ=0."""
    plain, still = make(), make()
    fit(plain, loss="trades", lam=0.0, space=EmbeddingSpace())
    fit(still, loss="trades", space=EmbeddingSpace(), eps=1e-12)
    torch.testing.assert_close(weights(plain), weights(still), atol=1e-6, rtol=0)


def test_training_in_a_space_defends_there():
    """The training examples themselves under the attack they were trained on."""
    data = labelled(32)
    attack = {"eps": 1.0, "norm": 2, "space": EmbeddingSpace()}
    kept = {}
    for lam in (0.0, 1.0):
        model = make()
        fit(model, data, loss="mix", lam=lam, epochs=60, **attack)
        report = artplus.evaluate(
            model, data, attacks=["pgd"], checks=False, progress=False, **attack
        )
        kept[lam] = report.robust_accuracy
    assert kept[1.0] > kept[0.0]


def test_a_compiled_model_is_perturbed_too():
    """Graphs hold the hooks: the same weights as without, to rounding."""
    for space in (EmbeddingSpace(), LatentSpace([1])):
        plain, compiled = make(), make()
        fit(plain, space=space, epochs=1)
        fit(compiled, space=space, epochs=1, compile=True)
        torch.testing.assert_close(weights(plain), weights(compiled), atol=1e-5, rtol=1e-4)
        torch._dynamo.reset()


class Checkpointed(Words):
    """Recomputes its layers in the backward pass."""

    def forward(self, ids, attention_mask=None):
        states = self.embed(ids)
        for layer in self.layers:
            states = torch.utils.checkpoint.checkpoint(layer, states, use_reentrant=False)
        return self.head(states.sigmoid().mean(1))


class Nested(nn.Module):
    """A layer whose output goes on within the recomputed region."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, states):
        return self.inner(states).sigmoid().square()


def test_gradient_checkpointing_around_and_inside():
    """A perturbed output of a recomputed layer is fine; one within it would be lost, so refused."""
    torch.manual_seed(0)
    model, inputs = Checkpointed(), {"ids": sentences()["ids"]}
    space = LatentSpace(["layers.0"])
    delta = noise(model, space, inputs)
    run(model, space.insert(inputs, delta)).sum().backward()
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    states = model.layers[1](model.layers[0](model.embed(inputs["ids"])) + delta)
    model.head(states.sigmoid().mean(1)).sum().backward()
    for a, b in zip(found, (p.grad for p in model.parameters()), strict=True):
        torch.testing.assert_close(a, b)
    model.layers[0] = Nested()
    space = LatentSpace(["layers.0.inner"])
    with attached(model, space), pytest.raises(ConfigurationError, match="gradient checkpointing"):
        run(model, space.insert(inputs, delta)).sum().backward()


class Tied(nn.Module):
    """The embedding is the output layer too."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, WIDTH)
        self.head = nn.Linear(WIDTH, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.embed(ids))


def test_tied_weights_are_used_unperturbed():
    """The output layer multiplies by the matrix as it is."""
    torch.manual_seed(0)
    model, ids, space = Tied(), sentences()["ids"], EmbeddingSpace()
    delta = noise(model, space, ids)
    expected = (model.embed(ids) + delta) @ model.embed.weight.T
    torch.testing.assert_close(run(model, space.insert(ids, delta)), expected)


class Twice(Words):
    """Its first layer runs twice and its second never."""

    def forward(self, ids, attention_mask=None):
        return self.head(self.layers[0](self.layers[0](self.embed(ids))).mean(1))


class TwoTables(Words):
    def __init__(self):
        super().__init__()
        self.positions = nn.Embedding(TOKENS, WIDTH)


REFUSED = {
    "a layer that runs twice": (Twice, LatentSpace([0]), "runs more than once"),
    "a layer that never runs": (Twice, LatentSpace([1]), "does not run"),
    "no such layer": (Words, LatentSpace(["layers.7"]), "no module called 'layers.7'"),
    "a number too large": (Words, LatentSpace([2]), "has 2"),
    "layers of other shapes": (Words, LatentSpace(["embed", "head"]), "one shape"),
    "rows of an output without tokens": (Words, LatentSpace(["head"], per="token"), "tokens"),
    "two embeddings": (TwoTables, EmbeddingSpace(), "has 2 embeddings"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "space", "match"), REFUSED.values(), ids=REFUSED)
def test_sites_that_cannot_be_perturbed(kind, space, match):
    """Before any step, by the attack and by training; nothing is left on the model."""
    model = kind()
    before = weights(model)
    with pytest.raises(ConfigurationError, match=match):
        PGD(eps=0.1, norm=2, steps=1)(
            LossModel(model), sentences(), labelled()["labels"], space=space
        )
    with pytest.raises(ConfigurationError, match=match):
        fit(model, space=space)
    assert torch.equal(before, weights(model)) and hooks(model) == 0


def test_models_without_an_embedding_are_told_what_to_use():
    with pytest.raises(ConfigurationError, match="no nn.Embedding.*InputSpace.*LatentSpace"):
        EmbeddingSpace().sites(nn.Linear(2, 2))
    with pytest.raises(DataError, match="token ids"):
        EmbeddingSpace().lift(LossModel(make()), torch.rand(2, 3))


@pytest.mark.parametrize("per", ["word", None])
def test_granularity_is_one_of_two(per):
    for kind in (EmbeddingSpace, lambda per: LatentSpace([0], per=per)):
        with pytest.raises(ConfigurationError, match="'example'.*'token'"):
            kind(per=per)
    with pytest.raises(ConfigurationError, match="at least one layer"):
        LatentSpace([])


@pytest.mark.parametrize("column", ["attention_mask", "special_tokens_mask", "perturbation_mask"])
def test_masks_of_another_shape_are_refused(column):
    inputs = sentences() | {column: torch.ones(8, TOKENS + 1, dtype=torch.long)}
    space = EmbeddingSpace()
    with pytest.raises(ConfigurationError, match=rf"{column} must be \(8, 6\)"):
        space.region(inputs, torch.zeros(8, TOKENS, WIDTH))


OPTIONS = {
    "a share of the input's norm": ({"attack": PGD(eps=Relative(0.1), norm=2)}, "starts at zero"),
    "L1 per token": (
        {"attack": PGD(eps=1.0, norm=1), "space": EmbeddingSpace(per="token")}, "L1|norm"),
    "perturbations kept by example": ({"callbacks": [WarmStart(None)]}, "WarmStart"),
    "augmented images": ({"callbacks": [Augment(random_flip)]}, "Augment"),
    "bounds": ({"bounds": (0, 1)}, "leave out bounds="),
    "normalization": ({"normalization": (0.5, 0.5)}, "leave out normalization="),
}  # fmt: skip


@pytest.mark.parametrize(("options", "match"), OPTIONS.values(), ids=OPTIONS)
def test_options_that_do_not_fit_are_refused(options, match):
    """Before the first step, so the weights are as they were."""
    model = make()
    options = {"space": EmbeddingSpace()} | options
    if "attack" in options:
        options |= {"eps": None, "norm": options["attack"].norm}
    before = weights(model)
    with pytest.raises(ConfigurationError, match=match):
        fit(model, **options)
    assert torch.equal(before, weights(model))


@pytest.mark.parametrize("attack", [Square(eps=1.0), FMN(eps=1.0, norm=2)])
def test_attacks_of_images_name_what_to_use(attack):
    model, labels = LossModel(make()), labelled()["labels"]
    with pytest.raises(ConfigurationError, match="PGD"):
        attack(model, sentences(), labels, space=EmbeddingSpace(per="token"))


def test_a_perturbed_batch_is_a_tree():
    """Rows of it are rows of its inputs and of its perturbation."""
    from artplus.tree import size, take

    model, inputs, space = make(), sentences(), EmbeddingSpace()
    batch = space.insert(inputs, noise(model, space, inputs))
    rows = torch.tensor([5, 1])
    part = take(batch, rows)
    assert isinstance(part, Perturbed) and size(part) == 2
    assert torch.equal(run(model, part), run(model, batch)[rows])


@every_space
@pytest.mark.parametrize("norm", [2, torch.inf])
def test_suites_hold_what_is_defined_here(space, norm):
    """No attack of a suite is broken for being in it; by name it is refused at once."""
    threat = Threat(0.1, norm, 3, per=space.per, hidden=True)
    model, inputs, labels = LossModel(make()), sentences(), labelled()["labels"]
    for name in list_suites():
        for attack in make_suite(name, threat).values():
            shorter = {"steps": 2} if hasattr(attack, "steps") else {}
            replace(attack, **shorter)(model, inputs, labels, space=space)
    for name in ("square", *(["fab_t", "fmn"] if space.per == "token" else [])):
        with pytest.raises(ConfigurationError, match="use 'apgd' or 'pgd'"):
            artplus.evaluate(model, labelled(), eps=0.1, norm=norm, space=space, attacks=[name])
