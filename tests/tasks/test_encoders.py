"""CLIP-type encoders and Vision Transformers: FARE, TeCoA, classifiers; with LoRA and in bf16."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import artplus
from artplus.attacks import PGD
from artplus.encoders import ImageFeatures, ZeroShot
from artplus.errors import UnsupportedEstimatorError
from artplus.losses import fare
from artplus.trainers import make_recipe
from artplus.training.callbacks import EpsWarmup
from tests.tasks import models

transformers = pytest.importorskip("transformers")

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
_BLOCK = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_VISION = {**_BLOCK, "image_size": 16, "patch_size": 8}


def clip_vision(kind: str = "CLIPVisionModelWithProjection") -> nn.Module:
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(**_VISION, projection_dim=16)
    model: nn.Module = getattr(transformers, kind)(config)
    return model


def clip() -> nn.Module:
    torch.manual_seed(0)
    text = {**_BLOCK, "vocab_size": 20, "max_position_embeddings": 8}
    text |= {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    config = transformers.CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=16)
    model: nn.Module = transformers.CLIPModel(config)
    return model


def siglip() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**_VISION))
    return model


def with_lora(model: nn.Module, *targets: str) -> Any:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=list(targets), init_lora_weights=True)
    return peft.get_peft_model(model, config)


def images(n: int = 12) -> Tensor:
    """Pixels in [0, 1]."""
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def fit(model: nn.Module, data: Any, **options: Any) -> Any:
    settings: dict[str, Any] = {
        "epochs": 2, "batch_size": 6, "seed": 0, "progress": False, "normalization": (MEAN, STD),
    }  # fmt: skip
    lr = options.pop("lr", 1e-3)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    return artplus.fit(model, data, optimizer, **settings | options)


def moved(model: nn.Module, first: nn.Module, eps: float = 8 / 255) -> float:
    """How far a stronger attack than training's moves the features from those of before."""
    first = copy.deepcopy(first)
    x = {"pixel_values": normalised(images())}
    with torch.no_grad():
        targets = artplus.LossModel(first, artplus.make_task("features"))(x)
    report = artplus.evaluate(
        model, {**x, "labels": targets}, attacks=[PGD(eps=eps, steps=20)],
        normalization=(MEAN, STD), progress=False,
    )  # fmt: skip
    return float(report.robust_metrics["loss"])


ENCODERS: dict[str, Callable[[], nn.Module]] = {
    "CLIP, projected": clip_vision,
    "CLIP, pooled": lambda: clip_vision("CLIPVisionModel"),
    "CLIP with texts": lambda: ImageFeatures(clip()),
    "SigLIP": siglip,
}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fare_makes_encoders_robust(name: str, precision: str) -> None:
    """By their class alone; normalised images without labels, a radius in pixels."""
    model, first = ENCODERS[name](), ENCODERS[name]()
    before = moved(model, first)
    recipe = make_recipe("fare", eps=8 / 255, steps=3, reference=first)
    data = {"pixel_values": normalised(images())}
    fit(model, data, **recipe.options(), precision=precision, epochs=12, lr=3e-4)
    assert moved(model, first) < 0.9 * before


def test_adapters_off_are_the_copy_of_before() -> None:
    """LoRA with its own reference trains as LoRA with a frozen copy; only adapters move."""
    first = clip_vision()
    runs = {}
    for name, reference in (("off", None), ("copy", first)):
        torch.manual_seed(0)
        model = with_lora(clip_vision(), "q_proj", "v_proj")
        data = {"pixel_values": normalised(images())}
        history = fit(model, data, loss=fare(reference=reference), eps=8 / 255, lr=1e-2)
        runs[name] = model, history
    (off, a), (copied, b) = runs.values()
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    for (name, p), (_, q) in zip(off.named_parameters(), copied.named_parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=name)
        assert p.requires_grad == ("lora" in name)
    base = dict(first.named_parameters())
    kept = [p for name, p in off.named_parameters() if name.endswith("k_proj.weight")]
    names = [name for name in base if name.endswith("k_proj.weight")]
    assert all(torch.equal(base[n], p) for n, p in zip(names, kept, strict=True))
    assert any(bool(p.abs().sum() > 0) for n, p in off.named_parameters() if "lora_B" in n)


@pytest.mark.parametrize("kind", ["CLIP with texts", "CLIP, projected"])
def test_adapters_inside_and_around(kind: str) -> None:
    """PEFT around a vision model, or around the model of images and texts."""
    base = clip() if kind == "CLIP with texts" else clip_vision()
    adapted = with_lora(base, "q_proj", "v_proj")
    model = ImageFeatures(adapted) if kind == "CLIP with texts" else adapted
    data = {"pixel_values": normalised(images())}
    history = fit(model, data, loss="fare", eps=8 / 255, epochs=8, lr=1e-2)
    assert 0 < history["loss"][-1] < history["loss"][0]


def test_the_whole_model_of_images_and_texts_names_the_encoder() -> None:
    """Its features are normalised, so FARE would train something else."""
    x = {
        "pixel_values": normalised(images(3)),
        "input_ids": torch.tensor([[0, 5, 2]] * 3),
    }
    with pytest.raises(UnsupportedEstimatorError, match=r"ImageFeatures\(model\)"):
        fit(clip(), x, loss=fare(reference=clip()), task="features", eps=0.01)


def classes(n: int = 12) -> tuple[Tensor, Tensor]:
    """Images of which one channel is brighter: the class."""
    y = torch.arange(n) % 3
    x = 0.6 * images(n)
    x[torch.arange(n), y] += 0.3
    return x, y


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "LoRA"])
@pytest.mark.parametrize("loss", ["tecoa", "trades"])
def test_zero_shot_classifiers_are_trained_as_any(loss: str, lora: bool) -> None:
    """TeCoA and others raise robust accuracy; the encoder that the user holds is trained."""
    encoder = clip_vision()
    texts = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    inside = with_lora(encoder, "q_proj", "v_proj", "visual_projection") if lora else encoder
    model = ZeroShot(inside, texts)
    x, y = classes()
    data = {"pixel_values": normalised(x), "labels": y}
    judged: dict[str, Any] = {
        "attacks": [PGD(eps=4 / 255, steps=10)], "normalization": (MEAN, STD), "progress": False,
    }  # fmt: skip
    before = artplus.evaluate(model, data, **judged)
    recipe = make_recipe(loss, eps=4 / 255, steps=2)
    fit(model, data, **recipe.options(), epochs=25, lr=1e-2 if lora else 3e-3)
    after = artplus.evaluate(model, data, **judged)
    assert after.robust_accuracy > before.robust_accuracy
    kept = torch.nn.functional.normalize(texts, dim=-1)
    assert torch.equal(model.texts, kept)


def vit(**options: Any) -> nn.Module:
    return models.make(
        "vit", hidden_size=16, intermediate_size=32, num_hidden_layers=2, image_size=16,
        patch_size=8, num_channels=3, **options,
    )  # fmt: skip


@pytest.mark.parametrize("case", ["fp32", "bf16", "LoRA", "checkpointed"])
def test_the_recipe_for_vision_transformers(case: str) -> None:
    """Columns of a processor; the radius grows from zero; robust loss falls."""
    model: Any = vit()
    if case == "LoRA":
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(r=4, target_modules=["query", "value", "q_proj", "v_proj"],
                                 modules_to_save=["classifier"])  # fmt: skip
        model = peft.get_peft_model(model, config)
    if case == "checkpointed":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    x, y = classes()
    data = {"pixel_values": normalised(x), "labels": y}
    judged: dict[str, Any] = {
        "attacks": [PGD(eps=8 / 255, steps=10)], "normalization": (MEAN, STD), "progress": False,
    }  # fmt: skip
    before = artplus.evaluate(model, data, **judged).robust_metrics["loss"]
    recipe = make_recipe("vit", eps=8 / 255)
    precision = "bf16" if case == "bf16" else "fp32"
    history = fit(model, data, **recipe.options(), epochs=20, precision=precision, lr=3e-3)
    assert history["eps_scale"][0] == 0.5 and history["eps_scale"][-1] == 1
    assert artplus.evaluate(model, data, **judged).robust_metrics["loss"] < before


def test_the_recipe_is_the_authors() -> None:
    """One step of 1.5 ε from a random start, a tenth of training until the radius is whole."""
    recipe = make_recipe("vit")
    attack: Any = recipe.attack
    assert attack == PGD(eps=4 / 255, steps=1, step_size=6 / 255, random_start=True)
    (warmup,) = recipe.callbacks
    assert isinstance(warmup, EpsWarmup) and warmup.fraction == 0.1
    assert make_recipe("vit", steps=2).attack == PGD(eps=4 / 255, steps=2, step_size=3 / 255)
    for name in ("tecoa", "fare"):  # ten steps of 1/255 at 4/255
        attack = make_recipe(name).attack
        assert (attack.eps, attack.steps, attack.step_size) == (4 / 255, 10, None)
        assert 2.5 * attack.eps / attack.steps == pytest.approx(1 / 255)
