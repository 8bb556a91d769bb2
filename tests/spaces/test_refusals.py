"""Wrong use of spaces is refused with its reason, before a weight has moved."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import artplus
from artplus.attacks import PGD, Relative
from artplus.errors import ConfigurationError
from artplus.losses import Context, Objective, Terms
from artplus.spaces import EmbeddingSpace, InputSpace, LatentSpace, Space
from tests.spaces.models import weights
from tests.tasks import models

pytest.importorskip("transformers")

N = 8
IMAGES = torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(N) % 3


def text(**columns: Any) -> dict[str, Tensor]:
    return {**models.sentences(N), "labels": CLASSES, **columns}


def fit(model: nn.Module, data: Any, **options: Any) -> Any:
    settings: dict[str, Any] = {"loss": "mix", "epochs": 1, "seed": 0, "progress": False}
    if options.get("loss") not in ("input_gradient",) and "attack" not in options:
        settings |= {"eps": 0.3, "norm": 2}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    return artplus.fit(model, data, optimizer, **settings | options)


def refused(model: nn.Module, data: Any, reason: str, **options: Any) -> None:
    """Raises, names the reason, and leaves weights and hooks as they were."""
    before = weights(model)
    with pytest.raises(ConfigurationError, match=reason):
        fit(model, data, **options)
    assert torch.equal(before, weights(model))
    assert not hasattr(model, "_artplus_hooks")


def test_a_frozen_embedding_is_perturbed_all_the_same() -> None:
    """Its output is the target and never its weight, so there is nothing to refuse."""
    model: Any = models.make("bert")
    table = model.get_input_embeddings().weight.requires_grad_(False)
    before = table.clone()
    history = fit(model, text(), space=EmbeddingSpace())
    assert torch.equal(table, before) and table.grad is None
    assert history["adversarial_examples"] == [N]
    x_adv = PGD(eps=0.3, norm=2)(
        artplus.LossModel(model), models.sentences(N), CLASSES, space=EmbeddingSpace()
    )
    assert bool((x_adv.delta.flatten(1).norm(dim=1) > 0.25).all())


CHECKPOINTED: dict[str, tuple[str, Any, Space]] = {
    "embedding": ("bert", text, EmbeddingSpace()),
    "language model": (
        "llama",
        lambda: {**models.sentences(N), "labels": models.sentences(N)["input_ids"]},
        EmbeddingSpace(),
    ),
    "below a layer": ("bert", text, LatentSpace(["embeddings"])),
    "images": (
        "vit", lambda: {"pixel_values": IMAGES, "labels": CLASSES}, InputSpace(0.0, 1.0)
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("case", CHECKPOINTED)
@pytest.mark.parametrize("loss", ["mix", "at"])
def test_reentrant_checkpointing_names_the_other_form(case: str, loss: str) -> None:
    """It gives no gradient by the input alone; the other form trains."""
    name, data, space = CHECKPOINTED[case]
    model: Any = models.make(name)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    refused(model, data(), "re-entrant.*use_reentrant", loss=loss, space=space)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    fit(model, data(), loss=loss, space=space)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_reentrant_layer_below_the_perturbation_is_exact() -> None:
    """Nothing above it is computed again, so weights end as without checkpointing."""
    ends = []
    for reentrant in (None, True):
        model: Any = models.make("bert", num_hidden_layers=2)
        if reentrant:
            model.gradient_checkpointing_enable({"use_reentrant": True})
        fit(model, text(), space=LatentSpace([-1]), epochs=2)
        ends.append(weights(model))
    assert torch.equal(*ends)


def penalty() -> Objective:
    """A penalty on the gradient, through whatever attention kernel torch chooses."""

    def terms(ctx: Context) -> Terms:
        z = ctx.space.lift(ctx.model, ctx.x).requires_grad_(True)
        losses = ctx.loss(ctx.model(ctx.space.insert(ctx.x, z)))
        (slope,) = torch.autograd.grad(losses.sum(), z, create_graph=True)
        return Terms(fixed=losses, scaled=slope.flatten(1).square().sum(1))

    return Objective("penalty", terms, attacked=False, second_order=True)


VIT = {"pixel_values": IMAGES, "labels": CLASSES}


def test_attention_without_second_derivatives_names_another() -> None:
    """Fused attention is refused with the remedy, which trains."""
    options: dict[str, Any] = {"loss": penalty(), "attack": None}
    fused = models.make("vit", attn_implementation="sdpa")
    refused(fused, VIT, "gradient of a gradient.*attn_implementation='eager'", **options)
    eager = models.make("vit", attn_implementation="eager")
    before = weights(eager)
    fit(eager, VIT, **options)
    assert not torch.equal(before, weights(eager))


def test_the_built_in_penalty_chooses_a_kernel_that_has_them() -> None:
    """So it trains fused attention too, to the same weights as plain attention."""
    ends = []
    for kernel in ("sdpa", "eager"):
        model = models.make("vit", attn_implementation=kernel)
        fit(model, VIT, loss="input_gradient")
        ends.append(weights(model))
    torch.testing.assert_close(*ends)


def ones(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.long)


MASKS: dict[str, tuple[str, Any, Space, str]] = {
    "perturbation mask of other tokens": (
        "bert", text(perturbation_mask=ones(N, 5)), EmbeddingSpace(),
        r"perturbation_mask must be \(8, 8\), like the ids, got \(8, 5\)",
    ),
    "special tokens of other tokens": (
        "bert", text(special_tokens_mask=ones(N, 9)), EmbeddingSpace(),
        r"special_tokens_mask must be \(8, 8\)",
    ),
    "masks of two lengths": (
        "bert", text(perturbation_mask=ones(N, 5)), LatentSpace([0]),
        r"perturbation_mask must be \(8, 8\), like the other masks, got \(8, 5\)",
    ),
    "a layer without tokens": (
        "bert", text(perturbation_mask=ones(N, models.TOKENS)), LatentSpace(["pooler"]),
        r"perturbation_mask.*output \(8, 8\) has no row for each of \(8, 8\)",
    ),
    "a mask of samples on frames": (
        "wav2vec2 classes",
        {"input_values": torch.rand(N, 120), "labels": CLASSES, "perturbation_mask": ones(N, 100)},
        InputSpace(0.0, 1.0), r"leading axes of what is perturbed, \(8, 120\), got \(8, 100\)",
    ),
    "a mask of other images": (
        "vit", VIT, InputSpace(0.0, 1.0, mask=torch.ones(3, 3)),
        r"mask of shape \(3, 3\) does not broadcast over inputs \(8, 1, 8, 8\)",
    ),
    "a mask of other examples": (
        "vit", VIT, InputSpace(0.0, 1.0, mask=torch.ones(7, 1, 8, 8)),
        r"mask of shape \(7, 1, 8, 8\).*an entry for each example",
    ),
    "a mask with too many axes": (
        "vit", VIT, InputSpace(0.0, 1.0, mask=torch.ones(1, 1, 1, 8, 8)), "does not broadcast",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MASKS)
def test_masks_that_do_not_match(case: str) -> None:
    """In training and by an attack of one's own."""
    name, data, space, reason = MASKS[case]
    model = models.make(name)
    refused(model, data, reason, space=space)
    x = {key: value for key, value in data.items() if key != "labels"}
    with pytest.raises(ConfigurationError, match=reason):
        PGD(eps=0.1, norm=2)(artplus.LossModel(model), x, CLASSES, space=space)


@pytest.mark.parametrize("shape", [(8,), (8, 8), (1, 1, 8), (1, 8, 8), (1, 1, 8, 8), (N, 1, 8, 8)])
def test_masks_that_broadcast_are_taken(shape: tuple[int, ...]) -> None:
    fit(models.make("vit"), VIT, space=InputSpace(0.0, 1.0, mask=torch.ones(shape)))


@pytest.mark.parametrize("kind", [EmbeddingSpace, lambda **k: LatentSpace([0], **k)],
                         ids=["embedding", "latent"])  # fmt: skip
def test_a_radius_has_a_granularity(kind: Any) -> None:
    """A space says what a radius bounds, and nothing else is taken for it."""
    for per in (None, "sequence", "batch"):
        with pytest.raises(ConfigurationError, match="a radius means nothing without it"):
            kind(per=per)
    assert kind().per == "example" and kind(per="token").per == "token"
    refused(models.make("bert"), text(), "needs an attack: give eps=", space=kind(), eps=None,
            norm=torch.inf)  # fmt: skip


def test_models_without_an_embedding() -> None:
    """Encoders of images and of waveforms have none, though Transformers gives them a getter."""
    for name, x in (("vit", IMAGES), ("wav2vec2 classes", torch.rand(N, 120))):
        column = "pixel_values" if name == "vit" else "input_values"
        refused(
            models.make(name), {column: x, "labels": CLASSES},
            "has no nn.Embedding.*InputSpace.*LatentSpace", space=EmbeddingSpace(),
        )  # fmt: skip


@pytest.mark.parametrize("space", [EmbeddingSpace(), EmbeddingSpace(per="token"), LatentSpace([0])],
                         ids=["embedding", "token", "latent"])  # fmt: skip
def test_a_share_of_the_inputs_norm_has_no_meaning_inside(space: Space) -> None:
    attack = PGD(eps=Relative(0.1), norm=2)
    reason = "starts at zero.*relative=True"
    refused(models.make("bert"), text(), reason, attack=attack, space=space)
    with pytest.raises(ConfigurationError, match=reason):
        attack(artplus.LossModel(models.make("bert")), models.sentences(N), CLASSES, space=space)


SMALL: dict[str, tuple[Space, dict[str, Any]]] = {
    "per token": (EmbeddingSpace(per="token"), {"eps": 1e-4, "norm": 2}),
    "per example": (EmbeddingSpace(), {"eps": 3e-4, "norm": 2}),
    "maximum": (EmbeddingSpace(), {"eps": 3e-5, "norm": torch.inf}),
    "relative": (EmbeddingSpace(per="token", relative=True), {"eps": 2e-3, "norm": 2}),
    "latent": (LatentSpace([0], per="token"), {"eps": 3e-3, "norm": 2}),
    "latent, relative": (LatentSpace([0], per="token", relative=True), {"eps": 2e-3, "norm": 2}),
}


@pytest.mark.parametrize("case", SMALL)
def test_radii_that_half_precision_rounds_away(case: str) -> None:
    """Refused for weights in bf16; float32 weights under autocast train, and so do larger radii."""
    space, threat = SMALL[case]
    half = models.make("bert").bfloat16()
    refused(half, text(), "round away.*precision='bf16'", space=space, **threat)
    fit(models.make("bert"), text(), space=space, precision="bf16", **threat)
    fit(half, text(), space=space, **threat | {"eps": 100 * threat["eps"]})


def test_what_is_rounded_away_is() -> None:
    """The limit is where most numbers of the states stay as they are."""
    states = models.make("bert").bfloat16().get_input_embeddings().weight.detach()  # type: ignore
    size = states.float().square().mean().sqrt()
    limit = float(size) * torch.finfo(torch.bfloat16).eps / 2
    kept = [
        ((states.float() + factor * limit).bfloat16() == states).float().mean()
        for factor in (0.25, 4.0)
    ]
    assert kept[0] > 0.5 > 0.1 > kept[1]


def test_the_check_leaves_the_unit_to_be_measured() -> None:
    """A relative radius in half precision is that of the embedding's rows, as ever."""
    space = EmbeddingSpace(relative=True)
    history = fit(models.make("bert").bfloat16(), text(), space=space, eps=0.5)
    table: Any = models.make("bert").bfloat16().get_input_embeddings()  # type: ignore[operator]
    unit = float(table.weight.detach().float().norm(dim=1).mean())
    assert any(f"{unit:.4g}" in note for note in history.notes)
