"""Analyses that help to understand a model, held against models of which everything is known."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from artplus.attacks import FAB, PGD
from artplus.errors import ConfigurationError
from artplus.evaluation import judge
from artplus.evaluation.analyses import (
    Embedding,
    LossSurface,
    Saliency,
    Setting,
    Spectrogram,
    Subject,
    Tokens,
    Vulnerable,
    embedding,
    make_analysis,
    saliency,
    spectrogram,
    surface,
    tokens,
    vulnerable,
)
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.section import Curves, Gallery, Matrix, Passages, Scatter, Section, Table
from artplus.model import LossModel
from artplus.spaces import InputSpace
from artplus.tasks import Classification


def linear(weight: Any, bias: Any = None) -> nn.Module:
    """Flattened inputs times ``weight``, plus ``bias``."""
    weight = torch.as_tensor(weight, dtype=torch.float32)
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros(len(weight)) if bias is None else torch.as_tensor(bias))
    return nn.Sequential(nn.Flatten(), layer)


def subject(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 0.1,
    norm: float = math.inf,
    space: InputSpace = InputSpace(),
    before: nn.Module | None = None,
    examples: int = 4,
    **options: Any,
) -> Subject:
    """What an analysis sees after PGD has been judged on ``module``."""
    classes = None if y.is_floating_point() else int(y.max()) + 1
    if classes is not None:
        with torch.no_grad():
            classes = module.eval()(x[:1]).shape[1]
    model = LossModel(module, Classification(classes=classes))
    attack = PGD(eps=eps, norm=norm, steps=5)
    report = judge(model, x, y, {"pgd": attack}, space=space, examples=examples, progress=False)
    data = EvaluationData(
        model=model, x=x, y=y, space=space, batch_size=4, device=torch.device("cpu"),
        classes=classes,
    )  # fmt: skip
    return Subject(
        data=data,
        attacks={"pgd": attack},
        report=report,
        before=None
        if before is None
        else LossModel(before.eval(), Classification(classes=classes)),
        **options,
    )


def block(section: Section, kind: type) -> Any:
    return next(one for one in section.blocks if isinstance(one, kind))


def blobs(n: int = 24, shape: tuple[int, ...] = (6,), classes: int = 3) -> tuple[Tensor, Tensor]:
    y = torch.arange(n) % classes
    size = math.prod(shape)
    x = 0.2 * torch.rand(n, size) + 0.7 * torch.eye(classes, size)[y]
    return x.reshape(n, *shape), y


# --- saliency -----------------------------------------------------------------------------------


def test_saliency_of_a_linear_model_is_its_weights() -> None:
    """The gradient of logit ``k`` is row ``k`` of the weights; of the loss, softmax less labels."""
    weight = torch.randn(3, 25)
    x, y = torch.rand(7, 1, 5, 5), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    seen = subject(linear(weight), x, y)
    found = saliency.gradients(seen.data, torch.arange(7))
    assert np.allclose(found.reshape(7, 25), weight[y].numpy(), atol=1e-6)
    losses = saliency.gradients(seen.data, torch.arange(7), "loss")
    p = (x.reshape(7, -1) @ weight.T).softmax(1) - nn.functional.one_hot(y, 3)
    assert np.allclose(losses.reshape(7, 25), (p @ weight).numpy(), atol=1e-5)


def test_saliency_figures_have_closed_forms() -> None:
    """An input along its weight row is aligned by 1, one across by 0; unit weights are sparse."""
    weight = torch.eye(2, 4)
    x = torch.tensor([[3.0, 0, 0, 0], [1.0, 0, 0, 0]])
    seen = subject(linear(weight), x, torch.tensor([0, 1]))
    figures = dict(Saliency()(seen).figures)
    assert figures["alignment"] == pytest.approx((1 + 0) / 2)
    assert figures["sparsity"] == pytest.approx(3 / 4)
    against = saliency.measures(np.array([[1.0, 2.0]]), np.array([[-2.0, -4.0]]))
    assert against[0] == pytest.approx([1, 1 / 6, 6])
    even = dict(Saliency()(subject(linear(torch.ones(2, 4)), x, torch.tensor([0, 1]))).figures)
    assert even["sparsity"] == pytest.approx(0) and even["alignment"] == pytest.approx(0.5)


def test_saliency_shows_both_models_on_one_scale() -> None:
    """Twice the weights are twice as far from grey; blocks name the two models."""
    weight = torch.linspace(-1, 1, 2 * 36).reshape(2, 36)
    x, y = torch.rand(6, 1, 6, 6), torch.arange(6) % 2
    seen = subject(linear(2 * weight), x, y, before=linear(weight), class_names=("cat", "dog"))
    section = Saliency(n=2)(seen)
    galleries = [one for one in section.blocks if isinstance(one, Gallery)]
    assert [len(gallery.rows) for gallery in galleries] == [2, 2]
    (_, before), (plain, after) = (gallery.rows[0] for gallery in galleries)
    assert [gallery.model for gallery in galleries] == ["before", ""]
    assert plain.title.split(", ")[1] in {"cat", "dog"} and plain.image.shape == (6, 6)
    inside = (after.image > 0.02) & (after.image < 0.98)
    assert np.allclose((after.image - 0.5)[inside], 2 * (before.image - 0.5)[inside], atol=1e-5)
    assert "alignment_before" in dict(section.figures) and "before hardening" in section.summary


def test_saliency_of_features_and_colours() -> None:
    """Rows of features become curves, colour images one map."""
    x, y = blobs()
    weight = torch.randn(3, 6)
    section = Saliency()(subject(linear(weight), x, y))
    curves = block(section, Curves)
    assert len(curves.series) == 1 and len(curves.series[0].y) == 6
    x, y = blobs(shape=(3, 5, 5))
    gallery = block(Saliency(n=1)(subject(linear(torch.randn(3, 75)), x, y)), Gallery)
    assert [p.image.shape for p in gallery.rows[0]] == [(5, 5, 3), (5, 5)]
    assert gallery.rows[0][1].title == "gradient"


def test_saliency_says_what_it_cannot_do() -> None:
    """Logits need classes, any needs gradients, options are checked."""
    x, y = blobs()
    seen = subject(linear(torch.randn(3, 6)), x, y)
    regression = EvaluationData(**{**vars(seen.data), "classes": None})
    with pytest.raises(ConfigurationError, match="of='loss' needs none"):
        Saliency().check(Setting(data=regression, attacks=seen.attacks))
    Saliency(of="loss").check(Setting(data=seen.data, attacks=seen.attacks))
    with pytest.raises(ConfigurationError, match="'logit' or 'loss', got 'x'"):
        Saliency(of="x")  # type: ignore[arg-type]


# --- loss surface -------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [math.inf, 2.0, 1.0])
def test_surface_of_a_linear_model_is_the_formula(norm: float) -> None:
    """Two classes: softplus of the margin, which falls along u by ``eps`` times the dual norm."""
    w, eps = torch.tensor([1.0, -2.0, 0.5, 3.0]), 0.3
    module = linear(torch.stack([-w / 2, w / 2]))
    x, y = torch.rand(3, 4), torch.tensor([1, 0, 1])
    seen = subject(module, x, y, eps=eps, norm=norm)
    offsets = np.linspace(-1, 1, 5)
    for position in range(3):
        found = surface.surface(seen.data, position, eps, norm, offsets, seed=0)
        sign = 1 if y[position] == 1 else -1
        margin = sign * float(x[position] @ w)
        dual = {math.inf: w.abs().sum(), 2.0: w.norm(), 1.0: (w @ w) / w.abs().sum()}[norm]
        want = np.logaddexp(0, -(margin - offsets * eps * float(dual)))
        assert np.allclose(found.losses[2], want, atol=1e-5)
        assert found.centre == pytest.approx(math.log1p(math.exp(-margin)), abs=1e-5)
        # Along v the margin moves linearly, so the rows are the same curve shifted.
        margins = -np.log(np.expm1(found.losses))
        assert np.allclose(np.diff(margins[:, 2]), np.diff(margins[:, 2])[0], atol=1e-3)


def test_surface_gap_is_zero_for_a_linear_loss() -> None:
    """A loss that is linear in the inputs has no gap; a curved one has."""

    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.sum(1), -x.sum(1)], 1)

    def first_logit(logits: Tensor, y: Tensor) -> Tensor:
        return -logits.gather(1, y[:, None]).squeeze(1)

    x, y = torch.rand(4, 6), torch.tensor([0, 1, 0, 1])
    seen = subject(Sum(), x, y)
    straight = EvaluationData(
        **{**vars(seen.data), "model": Straight(seen.data.model, first_logit)}
    )
    offsets = np.linspace(-1, 1, 3)
    assert surface.surface(straight, 0, 0.1, math.inf, offsets, seed=0).gap < 1e-6
    assert surface.surface(seen.data, 0, 0.5, math.inf, offsets, seed=0).gap > 1e-3


class Straight:
    """A model with another loss."""

    def __init__(self, model: LossModel, loss: Any) -> None:
        self.model, self.loss = model, loss

    def __call__(self, x: Tensor) -> Tensor:
        return self.model(x)


def test_surface_section_shares_one_scale() -> None:
    """Maps of before and after have one span over both; masked features do not move."""
    x, y = blobs(6)
    mask = torch.tensor([1.0, 1, 1, 0, 0, 0])
    seen = subject(
        linear(torch.randn(3, 6)), x, y, before=linear(3 * torch.randn(3, 6)),
        space=InputSpace(mask=mask),
    )  # fmt: skip
    section = LossSurface(n=2, points=4)(seen)
    maps = [one for one in section.blocks if isinstance(one, Matrix)]
    assert len(maps) == 4 and maps[0].span == maps[1].span
    values = np.array([maps[0].values, maps[1].values])
    assert values.shape == (2, 5, 5) and maps[0].span == (values.min(), values.max())
    assert {name for name, _ in section.figures} == {"linearity_gap", "linearity_gap_before"}
    for kind in (Table, Curves):
        assert [one.model for one in section.blocks if isinstance(one, kind)] == ["before", ""]
    assert len(block(section, Table).rows) == 2
    blocked = subject(linear(torch.randn(3, 6)), x, y, space=InputSpace(mask=0 * mask))
    flat = LossSurface(n=1, points=3)(blocked)
    assert dict(flat.figures)["linearity_gap"] == 0


# --- embedding ----------------------------------------------------------------------------------


def test_embedding_takes_what_the_last_layer_is_given() -> None:
    """Of a two-layer net the hidden units; hooks are gone afterwards."""
    x, y = blobs(12)
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    seen = subject(module, x, y)
    attack = PGD(eps=0.1, steps=3)
    found = embedding.features(seen.data, attack, torch.arange(12), seed=0)
    with torch.no_grad():
        assert np.allclose(found.clean, module[:2](x).numpy(), atol=1e-6)
        assert (found.before == module(x).argmax(1).numpy()).all()
    assert found.attacked.shape == (12, 5) and not np.allclose(found.attacked, found.clean)
    assert not module[2]._forward_pre_hooks


def test_embedding_figures_have_closed_forms() -> None:
    """Points at their class means are all between; equal means nothing; doubling is 100 %."""
    y = np.array([0, 0, 1, 1])
    values = np.array([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])
    assert embedding.between(values, y) == 1
    assert embedding.between(np.array([[1.0], [-1], [1], [-1]]), y) == 0
    assert embedding.between(np.array([[3.0], [1], [-1], [-3]]), y) == pytest.approx(16 / 20)
    assert embedding.between(np.ones((4, 2)), y) == 0
    twice = embedding.Features(values, 2 * values, y, y, y)
    assert embedding.shift(twice) == 1


def test_embedding_section() -> None:
    """A scatter for each model, every example clean once and attacked once, with labels."""
    x, y = blobs(12)
    nets = [nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)) for _ in range(2)]
    seen = subject(nets[0], x, y, eps=0.6, before=nets[1], class_names=("a", "b", "c"))
    section = Embedding(n=10, steps=3)(seen)
    scatters = [one for one in section.blocks if isinstance(one, Scatter)]
    assert len(scatters) == 2
    for one in scatters:
        assert sum(len(group.x) for group in one.groups) == 20
        assert one.groups[0].name == "clean" and one.groups[0].labels[1] == "example 1: b"
        assert all(" → " in label for group in one.groups[1:] for label in group.labels)
    narrow = nn.Sequential(nn.Linear(6, 1), nn.Linear(1, 3))
    assert isinstance(Embedding(n=6)(subject(narrow, x, y)).blocks[0], Scatter)
    with pytest.raises(ConfigurationError, match="this model has none"):
        embedding.last_linear(nn.Flatten())


# --- vulnerable ---------------------------------------------------------------------------------


def test_vulnerable_finds_the_distances_of_a_linear_model() -> None:
    """The nearest mistake is at margin over the dual norm, and examples are ranked by it."""
    w = torch.tensor([1.0, -2.0, 0.5])
    module = linear(torch.stack([-w / 2, w / 2]))
    x = torch.randn(10, 3)
    y = ((x @ w) > 0).long()
    seen = subject(module, x, y)
    gaps = vulnerable.margins(seen.data)
    assert np.allclose(gaps, np.tanh((x @ w).abs().numpy() / 2), atol=1e-5)
    section = Vulnerable(n=5, candidates=6)(seen)
    table = block(section, Table)
    order = (x @ w).abs().argsort()[:5].tolist()
    assert [row[0] for row in table.rows] == order
    want = ((x @ w).abs() / w.abs().sum())[order].tolist()
    assert [row[3] for row in table.rows] == pytest.approx(want, rel=0.02)
    assert all(row[3] >= exact * (1 - 1e-4) for row, exact in zip(table.rows, want, strict=True))
    pairs = section.blocks[-1]
    assert sum(row[2] for row in pairs.rows) == 6
    assert {row[:2] for row in pairs.rows} <= {("0", "1"), ("1", "0")}
    assert dict(section.figures)["nearest"] == pytest.approx(want[0], rel=0.02)


def test_vulnerable_shows_images_and_leaves_out_what_does_not_fall() -> None:
    """A row of three per fallen image; a constant model has no mistake to find."""
    x, y = blobs(12, (1, 5, 5))
    section = Vulnerable(n=3, candidates=5)(subject(linear(10 * torch.eye(3, 25)), x, y))
    gallery = block(section, Gallery)
    assert len(gallery.rows) == 3 and all(len(row) == 3 for row in gallery.rows)
    x, y = torch.rand(4, 6), torch.zeros(4).long()
    stubborn = subject(linear(torch.zeros(2, 6), [1.0, 0.0]), x, y)
    attack = FAB(eps=0.1, steps=2)
    falls = vulnerable.nearest(stubborn.data, torch.arange(4), np.ones(4), attack, 0)
    assert all(math.isinf(fall.distance) and fall.taken_for == 1 for fall in falls)
    assert Vulnerable()(stubborn).figures == ()
    wrong = subject(linear(torch.zeros(2, 6), [0.0, 1.0]), x, y)
    assert "right on no example" in Vulnerable()(wrong).summary


# --- tokens -------------------------------------------------------------------------------------

WORDS = ("pad", "good", "bad", "film", "the")


class Bag(nn.Module):
    """The mean or sum of embeddings, and a linear layer: influences are exact."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids.long()).sum(1))


def test_influences_of_a_linear_text_model_are_exact() -> None:
    """Each token's influence is its embedding times the weights; together the logit less bias."""
    model = Bag()
    ids = torch.tensor([[4, 1, 3, 2]])
    text = tokens.Text("t", ("the", "good", "film", "bad"), ids, 1)
    weights, predicted, target = tokens.influence(LossModel(model), text)
    with torch.no_grad():
        want = (model.embedding.weight[ids[0]] @ model.head.weight[1]).numpy()
        logits = model(ids)[0]
    assert np.allclose(weights, want, atol=1e-6)
    assert weights.sum() == pytest.approx(float((logits - model.head.bias)[1].detach()), abs=1e-5)
    assert (predicted, target) == (int(logits.argmax()), 1)
    assert model.embedding.weight.grad is None and not model.embedding._forward_hooks


def test_tokens_explain_texts_and_rows_of_ids() -> None:
    """Texts go through the tokenizer, rows are ids; weights are relative to the largest."""

    class Tokenizer:
        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [WORDS.index(word) for word in text.split()]}

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [WORDS[i] for i in ids]

    x = torch.tensor([[4.0, 1, 3], [4, 2, 3], [1, 1, 3], [2, 2, 3]])
    model = Bag().eval()
    data = EvaluationData(
        model=LossModel(model, Classification(classes=2)), x=x, y=torch.tensor([1, 0, 1, 0]),
        space=InputSpace(),
        batch_size=2, device=torch.device("cpu"), classes=2,
    )  # fmt: skip
    seen = Subject(
        data=data,
        attacks={},
        report=None,
        before=LossModel(Bag().eval(), Classification(classes=2)),
    )  # type: ignore[arg-type]
    analysis = Tokens(texts=["the good film", "bad film"], tokenizer=Tokenizer())
    analysis.check(seen)
    shown = [one for one in analysis(seen).blocks if isinstance(one, Passages)]
    assert [one.model for one in shown] == ["before", ""]
    for one in shown:
        assert [p.tokens for p in one.passages] == [("the", "good", "film"), ("bad", "film")]
        assert [p.title for p in one.passages] == ["Text 1", "Text 2"]
        assert all(max(map(abs, p.weights)) == pytest.approx(1) for p in one.passages)
    section = Tokens(n=2, words=WORDS)(seen)
    assert block(section, Passages).passages[0].tokens == ("the", "good", "film")
    assert {row[0] for row in block(section, Table).rows} == {"the", "good", "bad", "film"}
    assert Tokens(n=1, words=lambda i: f"w{i}")(seen).blocks[0].passages[0].tokens[0] == "w4"
    assert Tokens(n=1, tokenizer=list)(seen).blocks[0].passages[0].tokens[0] == "4"


def test_tokens_of_embeddings() -> None:
    """A model that takes embeddings is explained at its inputs."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, e: Tensor) -> Tensor:
            return self.head(e.sum(1))

    model, x = Head().eval(), torch.randn(4, 5, 3)
    seen = subject(model, x, torch.tensor([0, 1, 0, 1]))
    Tokens().check(seen)
    found = Tokens(n=1)(seen).blocks[0].passages[0]
    with torch.no_grad():
        want = (x[0] @ model.head.weight[0]).numpy()
    assert np.allclose(found.weights, want / np.abs(want).max(), atol=1e-5)
    assert found.tokens == ("0", "1", "2", "3", "4")


def test_tokens_say_what_they_cannot_do() -> None:
    """Texts need a tokenizer, models embeddings, layers a name that exists."""
    with pytest.raises(ConfigurationError, match="needs tokenizer="):
        Tokens(texts=["a"])
    with pytest.raises(ConfigurationError, match="texts is a list"):
        Tokens(texts="a text", tokenizer=list)
    x, y = blobs()
    with pytest.raises(ConfigurationError, match=r"there is no nn\.Embedding"):
        Tokens().check(subject(linear(torch.randn(3, 6)), x, y))
    with pytest.raises(ConfigurationError, match="it has embedding"):
        tokens.find(Bag(), "other")
    assert isinstance(tokens.find(Bag(), "embedding"), nn.Embedding)

    class Deaf(Bag):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(ids).detach()

    text = tokens.Text("t", ("a",), torch.tensor([[1]]), None)
    with pytest.raises(ConfigurationError, match="one embedding per token"):
        tokens.influence(LossModel(Deaf()), text)


# --- spectrogram --------------------------------------------------------------------------------


def test_power_of_a_sine_is_one_at_its_frequency() -> None:
    """A sine of amplitude one, eight periods a window, peaks at 1 in the eighth row."""
    t = torch.arange(1024, dtype=torch.float64)
    found = spectrogram.power(torch.sin(2 * math.pi * t * 8 / 64), 64)
    assert found.shape == (33, 193) and spectrogram.hop(1024, 64) == 5
    assert spectrogram.hop(16000, 64) == 16 and spectrogram.hop(64, 64) == 1
    assert (found.argmax(0) == 8).all() and torch.allclose(found[8], torch.ones(193).double())
    picture = spectrogram.decibels(found, float(found.max()))
    assert picture[32 - 8].min() == pytest.approx(1) and picture.min() == 0
    quiet = spectrogram.decibels(found / 100, float(found.max()))
    assert quiet[32 - 8].max() == pytest.approx(1 - 20 / spectrogram.FLOOR)


def test_loudness_in_decibels() -> None:
    """A tenth is 20 dB below, nothing infinitely far, silence infinitely loud against it."""
    x = torch.tensor([1.0, -1, 1, -1])
    assert spectrogram.snr(x, 0.1 * x) == pytest.approx(20)
    assert spectrogram.relative_loudness(x, 0.1 * x) == pytest.approx(-20)
    assert spectrogram.snr(x, 0 * x) == math.inf
    assert spectrogram.relative_loudness(x, 0 * x) == -math.inf
    assert spectrogram.snr(0 * x, x) == -math.inf


def test_spectrogram_section() -> None:
    """Three pictures an example, a row a kept example; no gallery where none was kept."""
    x, module = torch.randn(6, 1, 128), linear(torch.randn(2, 128))
    y = module(x).argmax(1)
    seen = subject(module, x, y, eps=0.01, examples=3)
    analysis = Spectrogram(n=2, window=32, rate=8000)
    analysis.check(seen)
    section = analysis(seen)
    gallery = block(section, Gallery)
    assert [len(row) for row in gallery.rows] == [3, 3] and "4,000 Hz" in gallery.caption
    assert "0 to 0.016 s" in gallery.caption
    rows = block(section, Table).rows
    kept = seen.report.examples
    assert kept is not None and len(rows) == 3
    for k, row in enumerate(rows):
        delta = kept.x_adv[k] - kept.x[k]
        want = 10 * np.log10((kept.x[k] ** 2).sum() / (delta**2).sum())
        assert row[2] == pytest.approx(want, abs=1e-3)
    bare = subject(linear(torch.randn(2, 128)), x, y, examples=0)
    assert "keeps no attacked examples" in Spectrogram(window=32)(bare).summary


@pytest.mark.parametrize(("shape", "message"), [((2, 64), "needs waveforms"), ((64,), "window of")])
def test_spectrogram_needs_waveforms(shape: tuple[int, ...], message: str) -> None:
    """Images and sounds shorter than a window are refused before the attacks."""
    x, y = torch.rand(4, *shape), torch.tensor([0, 1, 0, 1])
    seen = subject(linear(torch.randn(2, math.prod(shape))), x, y)
    with pytest.raises(ConfigurationError, match=message):
        Spectrogram().check(seen)


def test_each_is_found_by_name_and_asks_first() -> None:
    """Names make analyses; a run with a checked setting needs nothing else."""
    x, y = blobs(12)
    seen = subject(linear(torch.randn(3, 6)), x, y)
    for name in ("saliency", "loss_surface", "embedding", "vulnerable"):
        analysis = make_analysis(name)
        analysis.check(seen)
        assert analysis(seen).name == name
    regression = dataclasses.replace(seen, data=dataclasses.replace(seen.data, classes=None))
    for name in ("saliency", "embedding", "vulnerable", "tokens"):
        with pytest.raises(ConfigurationError, match="needs a classifier"):
            make_analysis(name).check(regression)
