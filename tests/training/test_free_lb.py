"""FreeLB and TAVAT: gradients averaged along an ascent, against slow loops of the papers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artplus import fit
from artplus.attacks import APGD, PGD, fgm
from artplus.errors import ConfigurationError
from artplus.losses import Objective, Terms
from artplus.model import LossModel
from artplus.spaces import EmbeddingSpace, InputSpace, LatentSpace
from artplus.tasks import Classification
from artplus.training import make_method
from artplus.training.callbacks import Callback, Checkpoint
from artplus.training.data import Batch
from artplus.training.state import State
from artplus.training.steps import AWP, TAVAT, Free, FreeLB, standard
from tests.toys import arrays, net, same, weights

X, Y = (torch.from_numpy(v) for v in arrays(24))


class Words(nn.Module):
    """A classifier of sentences, with dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 6)
        self.drop = nn.Dropout(dropout)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.body(self.drop(self.embed(input_ids)))
        mask = attention_mask[..., None]
        return self.head((states * mask).sum(1) / mask.sum(1))


def sentences(n: int = 8, tokens: int = 5) -> tuple[dict[str, Tensor], Tensor]:
    """Token ids of different lengths, padded with zeros; the class is the first id modulo 3."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, 12, (n, tokens), generator=generator)
    mask = (torch.arange(tokens) < tokens - torch.arange(n)[:, None] % 3).long()
    return {"input_ids": ids * mask, "attention_mask": mask}, ids[:, 0] % 3


def nothing() -> None:
    """No callback looks at the gradients."""


def state_of(model: nn.Module, method: Any, **options: Any) -> State:
    """A run that has not begun."""
    model.train()
    return State(
        model=LossModel(model, Classification(classes=3)),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        method=method,
        epochs=1,
        batches_per_epoch=None,
        generator=torch.Generator().manual_seed(0),
        **options,
    )


def on_text(loss: str = "at", eps: float = 0.5, **options: Any) -> Any:
    return make_method(loss, eps=eps, norm=2, space=EmbeddingSpace(), **options)


def grads(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters()]


def noise(mask: Tensor, width: int, size: float, generator: torch.Generator) -> Tensor:
    """FreeLB's start by the authors' formula."""
    draw = torch.rand(*mask.shape, width, generator=generator) * 2 - 1
    lengths = mask.sum(1).float() * width
    return draw * mask[..., None] * (size / lengths.sqrt()).view(-1, 1, 1)


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_the_gradient_is_that_of_the_papers_loop(bounded: bool, micro_batch: int | None) -> None:
    """By sentence and by step, with the weights' gradient added up by hand."""
    eps, step, start, passes = 0.3, 0.25, 0.28, 4
    model, (x, y) = Words(), sentences()
    twin = copy.deepcopy(model)
    state = state_of(model, on_text(eps=eps), micro_batch=micro_batch)
    FreeLB(passes, step_size=step, start=start, bounded=bounded)(state, Batch(x, y), nothing)

    mask = x["attention_mask"]
    delta = noise(mask, 6, start, torch.Generator().manual_seed(0))
    sums = [torch.zeros_like(p) for p in twin.parameters()]
    lengths = []
    for _ in range(passes):
        lengths.append(delta.flatten(1).norm(dim=1))
        delta.requires_grad_(True)
        states = twin.body(twin.embed(x["input_ids"]) + delta) * mask[..., None]
        logits = twin.head(states.sum(1) / mask[..., None].sum(1))
        found = torch.autograd.grad(F.cross_entropy(logits, y), [delta, *twin.parameters()])
        sums = [s + g / passes for s, g in zip(sums, found[1:], strict=True)]
        with torch.no_grad():
            delta = delta.detach().clone()
            for i in range(len(delta)):  # one sentence at a time
                delta[i] += step * found[0][i] / found[0][i].norm()
                if bounded and delta[i].norm() > eps:
                    delta[i] *= eps / delta[i].norm()
    assert (lengths[-1] > eps + 0.05).all() is not bounded or not bounded
    assert bounded == bool((lengths[-1] <= eps + 1e-6).all())
    for got, expected in zip(grads(model), sums, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_one_pass_from_the_clean_point_is_plain_training() -> None:
    """K = 1 and no start: bit for bit the ordinary step at radius zero, dropout included."""
    results = []
    for step, eps in ((FreeLB(1, start=0.0), 0.5), (standard, 0.0)):
        torch.manual_seed(5)
        model, (x, y) = Words(dropout=0.4), sentences()
        step(state_of(model, on_text(eps=eps)), Batch(x, y), nothing)
        results.append(weights(model))
    assert same(*results)


def test_two_passes_from_the_clean_point_are_half_of_a_mix_with_fgm() -> None:
    """(∇L(x) + ∇L(x')) / 2, with x' one step of FGM away."""
    (x, y), start = sentences(), Words()
    first, second = copy.deepcopy(start), copy.deepcopy(start)
    FreeLB(2, step_size=0.4, start=0.0)(state_of(first, on_text(eps=0.4)), Batch(x, y), nothing)
    method = make_method("mix", attack=fgm(0.4, norm=2), space=EmbeddingSpace())
    standard(state_of(second, method), Batch(x, y), nothing)
    for half, whole in zip(grads(first), grads(second), strict=True):
        torch.testing.assert_close(2 * half, whole)


def test_all_passes_draw_the_same_dropout_masks() -> None:
    """With a step of length zero K passes are one, however much dropout there is."""
    (x, y), results = sentences(), []
    for passes in (1, 4):
        torch.manual_seed(5)
        model = Words(dropout=0.5)
        FreeLB(passes, step_size=0.0)(state_of(model, on_text()), Batch(x, y), nothing)
        results.append((grads(model), torch.get_rng_state()))
    for one, four in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(one, four)
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("step", [FreeLB(3), TAVAT(3), Free(2)])
def test_padding_and_special_tokens_are_never_touched(step: Any) -> None:
    """What the model is given is zero there, in every pass."""
    (x, y), seen = sentences(), []
    x["special_tokens_mask"] = F.pad(torch.ones(len(y), 1).long(), (0, 4))

    class Watching(EmbeddingSpace):
        def insert(self, inputs: Any, z: Tensor) -> Any:
            seen.append(z.detach())
            return super().insert(inputs, z)

    method = make_method("at", eps=0.5, norm=2, space=Watching())
    state = state_of(Words(), method)
    for _ in range(2):
        step(state, Batch(x, y), nothing)
    free = (x["attention_mask"] - x["special_tokens_mask"])[..., None].bool().expand_as(seen[0])
    assert len(seen) >= 4
    for z in seen:
        assert bool((z[~free] == 0).all())
    assert bool((seen[-1][free] != 0).all())
    assert all(bool((z.flatten(1).norm(dim=1) <= 0.5 + 1e-5).all()) for z in seen)


@pytest.mark.parametrize("step", [FreeLB(3), TAVAT(3), Free(3)])
def test_a_gradient_of_zero_leaves_no_nan(step: Any) -> None:
    """The first example's loss is flat: it keeps its perturbation, the others move."""
    (x, y), seen = sentences(), []

    def terms(ctx: Any) -> Terms:
        seen.append(ctx.x_adv.delta.detach())
        losses = F.cross_entropy(ctx.model(ctx.x_adv), ctx.y, reduction="none")
        return Terms(scaled=torch.cat([losses[:1] * 0, losses[1:]]))

    model, flat = Words(), Objective("flat", terms, has_fixed_term=False)
    state = state_of(model, make_method(flat, eps=0.5, norm=2, space=EmbeddingSpace()))
    step(state, Batch(x, y), nothing)
    assert all(bool(value.isfinite().all()) for value in (*weights(model).values(), *seen))
    assert bool((seen[-1][1:] != seen[0][1:]).flatten(1).any(1).all())
    if not isinstance(step, TAVAT):  # whose token part is rescaled all the same
        assert torch.equal(seen[-1][0], seen[0][0])


def test_an_infinite_gradient_moves_nothing() -> None:
    """One example's slope overflows, as in fp16: it keeps its perturbation, the others climb."""
    (x, y), seen = sentences(), []

    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Tensor) -> Tensor:
            return z.clone()

        @staticmethod
        def backward(ctx: Any, slope: Tensor) -> Tensor:
            slope = slope.clone()
            slope[0] = torch.inf
            slope[1, 0, 0] = torch.nan
            return slope

    class Watching(EmbeddingSpace):
        def insert(self, inputs: Any, z: Tensor) -> Any:
            seen.append(z.detach())
            return super().insert(inputs, Overflow.apply(z))

    model = Words()
    state = state_of(model, make_method("at", eps=0.5, norm=2, space=Watching()))
    FreeLB(3)(state, Batch(x, y), nothing)
    assert torch.equal(seen[0][:2], seen[2][:2])
    assert bool((seen[0][2:] != seen[2][2:]).flatten(1).any(1).all())
    assert all(bool(value.isfinite().all()) for value in weights(model).values())


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_training_counts_its_adversarial_examples(precision: Any) -> None:
    """K for each example in the history; one with the ordinary step, none at λ = 0."""
    (x, y) = sentences(16)
    figures = {}
    for name, options in {
        "freelb": {"step": FreeLB(3), "loss": "at"},
        "free": {"step": Free(2), "loss": "at"},
        "plain": {"loss": "mix"},
        "share": {"loss": "mix", "attack_share": 0.5},
        "zero": {"loss": "mix", "lam": 0.0},
        "freelb at zero": {"step": FreeLB(3), "loss": "mix", "lam": 0.0},
    }.items():
        model = Words()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        history = fit(model, (x, y), optimizer, eps=0.2, norm=2, space=EmbeddingSpace(), epochs=1,
                      batch_size=8, precision=precision, progress=False, **options)  # fmt: skip
        figures[name] = history["adversarial_examples"][0]
    assert figures == {
        "freelb": 24.0,
        "free": 16.0,
        "plain": 8.0,
        "share": 4.0,
        "zero": 0.0,
        "freelb at zero": 0.0,
    }


def test_a_step_costs_k_passes() -> None:
    """No pass beyond the K that have a gradient, but the clean one every ten steps."""
    counts = {"forward": 0}
    model, (x, y) = Words(), sentences(80)
    model.register_forward_hook(lambda *_: counts.update(forward=counts["forward"] + 1))
    seen: list[int] = []

    class Count(Callback):
        def on_step_begin(self, state: State) -> None:
            seen.append(counts["forward"])

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(model, (x, y), optimizer, loss="at", eps=0.2, norm=2, space=EmbeddingSpace(), epochs=1,
        step=FreeLB(3), batch_size=8, callbacks=[Count()], progress=False)  # fmt: skip
    assert [b - a for a, b in zip(seen, seen[1:], strict=False)] == [4] + [3] * 8


def test_hooks_see_one_move_a_batch() -> None:
    """Callbacks see the mean gradient once; BatchNorm counts a batch once."""
    seen = []

    class Look(Callback):
        def on_gradients(self, state: State) -> None:
            seen.append(state.step)

    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(model, (X, Y), optimizer, loss="at", eps=0.04, norm=2, step=FreeLB(4), batch_size=8,
        epochs=1, bounds=(0.0, 1.0), callbacks=[Look()], progress=False)  # fmt: skip
    assert seen == [0, 1, 2]
    assert int(model[1].num_batches_tracked) == 3


@pytest.mark.parametrize("step", [FreeLB(2), TAVAT(2), Free(2)])
def test_batches_may_be_padded_to_different_lengths(step: Any) -> None:
    """As a collator pads them, one batch by itself."""
    (x, y), model = sentences(12), Words()
    short = {name: column[8:, :4] for name, column in x.items()}
    whole = {name: column[:8] for name, column in x.items()}
    loader = [(whole, y[:8]), (short, y[8:])]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = fit(model, loader, optimizer, loss="at", eps=0.2, norm=2, space=EmbeddingSpace(),
                  epochs=3, step=step, seed=0, progress=False)  # fmt: skip
    assert history["loss"][-1] < history["loss"][0]
    assert history["adversarial_examples"] == [12.0] * 3


@pytest.mark.parametrize("step", [FreeLB(3), TAVAT(2)])
def test_resumed_is_uninterrupted(step: Any, tmp_path: Any) -> None:
    """To the bit, from every checkpoint, with dropout; TAVAT's table is in it."""
    (x, y), start = sentences(24), Words(dropout=0.3)

    def once(*callbacks: Callback, resume: Any = None) -> dict[str, Tensor]:
        model = copy.deepcopy(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        fit(model, (x, y), optimizer, loss="at", eps=0.4, norm=2, space=EmbeddingSpace(), epochs=2,
            batch_size=8, seed=1, step=step, callbacks=callbacks, resume=resume,
            progress=False)  # fmt: skip
        return weights(model)

    reference = once(Checkpoint(tmp_path, every_steps=1, keep=99))
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert len(paths) == 6
    for path in paths:
        assert same(once(resume=path), reference), path.name


def test_tavat_is_the_authors_loop() -> None:
    """Sentence and token parts, the table read and written, over two batches, token by token."""
    eps, step, start, passes = 0.6, 0.2, 0.5, 3
    model = Words()
    twin = copy.deepcopy(model)
    state = state_of(model, on_text(eps=eps))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    x, y = sentences()
    generator = torch.Generator().manual_seed(0)
    table = None
    for part in (slice(0, 4), slice(4, 8)):
        columns = {name: column[part] for name, column in x.items()}
        TAVAT(passes, step_size=step, start=start)(state, Batch(columns, y[part]), nothing)

        mask, ids = columns["attention_mask"], columns["input_ids"]
        if table is None:
            table = (torch.rand(12, 6, generator=generator) * 2 - 1) * start / 6**0.5
        sentence = noise(mask, 6, start, generator)
        token = table[ids] * mask[..., None]
        token = token / token.norm()

        def shortened(sentence: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
            length = (sentence + token).flatten(1).norm(dim=1).view(-1, 1, 1)
            factor = (eps / length).clamp(max=1)
            return sentence * factor, token * factor

        sentence, token = shortened(sentence, token)
        sums = [torch.zeros_like(p) for p in twin.parameters()]
        for k in range(passes):
            delta = (sentence + token).requires_grad_(True)
            states = twin.body(twin.embed(ids) + delta) * mask[..., None]
            logits = twin.head(states.sum(1) / mask[..., None].sum(1))
            loss = F.cross_entropy(logits, y[part])
            found = torch.autograd.grad(loss, [delta, *twin.parameters()])
            sums = [s + g / passes for s, g in zip(sums, found[1:], strict=True)]
            if k == passes - 1:
                break
            slope = found[0]
            sentence = sentence + step * slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1)
            token = token + step * slope / slope.norm(dim=-1, keepdim=True).clamp_min(1e-8)
            lengths = token.norm(dim=-1, keepdim=True)
            token = token * (lengths / lengths.amax(1, keepdim=True))
            sentence, token = shortened(sentence, token)
        for i in range(len(ids)):
            for t in range(ids.shape[1]):
                table[ids[i, t]] += token[i, t]
        for parameter, gradient in zip(twin.parameters(), sums, strict=True):
            parameter.grad = gradient
        optimizer.step()
    torch.testing.assert_close(state.memory["tavat"], table, rtol=1e-4, atol=1e-6)
    for got, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("step", "options", "match"),
    [
        (FreeLB(), {"attack": APGD(eps=0.1, norm=2)}, "FreeLB needs a radius and no attack"),
        (FreeLB(), {"attack_share": 0.5}, "FreeLB carries its own perturbation"),
        (TAVAT(), {"space": EmbeddingSpace(per="token")}, "one radius a sentence"),
        (TAVAT(), {"space": LatentSpace(["body"])}, "TAVAT keeps a perturbation for each word"),
        (TAVAT(), {"norm": torch.inf}, "give norm=2"),
    ],
    ids=["apgd", "share", "token", "latent", "norm"],
)
def test_wrong_use_is_refused(step: Any, options: dict[str, Any], match: str) -> None:
    """With the reason, before the weights move."""
    settings = {"eps": 0.2, "norm": 2, "space": EmbeddingSpace(), **options}
    if "attack" in options:
        del settings["eps"], settings["norm"]
    model, (x, y) = Words(), sentences()
    before = weights(model)
    with pytest.raises(ConfigurationError, match=match):
        step(state_of(model, make_method("at", **settings)), Batch(x, y), nothing)
    assert same(before, weights(model))


@pytest.mark.parametrize("inner", [FreeLB(), TAVAT()])
def test_awp_around_several_passes_is_refused(inner: Any) -> None:
    """At construction: it would clear what earlier passes have accumulated."""
    with pytest.raises(ConfigurationError, match="would lose that of its earlier passes"):
        AWP(inner=inner)
    state = state_of(Words(), on_text())
    state.descend = lambda *_: None
    x, y = sentences()
    with pytest.raises(ConfigurationError, match="the step around it .AWP. would clear"):
        inner(state, Batch(x, y), nothing)


@pytest.mark.parametrize("options", [{"steps": 0}, {"step_size": -1.0}, {"start": float("nan")}])
@pytest.mark.parametrize("kind", [FreeLB, TAVAT])
def test_settings_are_checked(kind: Any, options: dict[str, Any]) -> None:
    """When it is made."""
    with pytest.raises(ConfigurationError, match="must be"):
        kind(**options)


@pytest.mark.parametrize("space", [InputSpace(0.0, 1.0), LatentSpace(["0"])])
def test_free_lb_works_in_any_space(space: Any) -> None:
    """Inputs within their range, and hidden states."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = fit(model, (X, Y), optimizer, loss="at", attack=PGD(eps=0.1, norm=2), space=space,
                  step=FreeLB(3), batch_size=8, epochs=4, seed=0, progress=False)  # fmt: skip
    assert history["loss"][-1] < history["loss"][0]
