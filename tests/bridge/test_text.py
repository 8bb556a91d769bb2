"""ART on text: its attacks see embeddings; hardening and evaluation take token ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    FastGradientMethod,
    NewtonFool,
    ProjectedGradientDescent,
    ProjectedGradientDescentNumpy,
)
from art.defences.trainer import AdversarialTrainer
from torch import Tensor, nn

import artplus
from artplus import AdversarialTrainerPlus
from artplus.attacks import PGD
from artplus.bridge.attacks import as_attack
from artplus.bridge.text import TextClassifier
from artplus.errors import ConfigurationError, DataError, SlowPathWarning
from artplus.spaces import EmbeddingSpace
from tests.tasks import models

TOKENS, N = models.TOKENS, 12
EPS = 0.7


class Mean(nn.Module):
    """A classifier of ids that is not Hugging Face's, and whose padding is masked by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(models.VOCABULARY, 8, padding_idx=0)
        self.head = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.unsqueeze(-1)
        return self.head((self.embed(ids) * mask).sum(1) / mask.sum(1))


def columns(name: str) -> dict[str, np.ndarray[Any, Any]]:
    text = {key: value.numpy() for key, value in models.sentences(N).items()}
    if name == "mean":
        text["ids"] = text.pop("input_ids")
    return text


def labels() -> np.ndarray[Any, Any]:
    return torch.randint(3, (N,), generator=torch.Generator().manual_seed(0)).numpy()


def module(name: str) -> nn.Module:
    torch.manual_seed(0)
    return Mean() if name == "mean" else models.make(name)


def classifier(name: str = "bert", **options: Any) -> TextClassifier:
    network = module(name)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    return TextClassifier(network, tokens=TOKENS, optimizer=optimizer, **options)


@pytest.fixture(params=["bert", "mean"])
def text(request: pytest.FixtureRequest) -> tuple[TextClassifier, dict[str, Any]]:
    return classifier(request.param), columns(request.param)


def one_hot() -> np.ndarray[Any, Any]:
    return np.eye(3, dtype=np.float32)[labels()]


def padding(x: dict[str, Any]) -> np.ndarray[Any, Any]:
    return x["attention_mask"] == 0


def test_the_path_of_ids_equals_that_of_embeddings(text):
    """To the bit; and both are the module itself."""
    estimator, x = text
    array = estimator.encode(x)
    assert array.shape == (N, *estimator.input_shape) and array.dtype == np.float32
    by_ids, by_array = estimator.predict(x), estimator.predict(array)
    assert np.array_equal(by_ids, by_array)
    network = estimator.embedded.module.eval()
    with torch.no_grad():
        outputs = network(**{key: torch.as_tensor(value) for key, value in x.items()})
    assert np.array_equal(by_ids, getattr(outputs, "logits", outputs).numpy())
    np.testing.assert_allclose(estimator.predict(x, batch_size=5), by_ids, atol=1e-6)


@pytest.mark.parametrize("norm", [2, np.inf])
@pytest.mark.parametrize("starts", [0, 1], ids=["from the text", "random start"])
def test_arts_pgd_lands_on_the_radius_and_leaves_padding_alone(text, norm, starts):
    """Ids, masks and padding are as they were, also from a random start."""
    estimator, x = text
    array = estimator.encode(x)
    attack = ProjectedGradientDescent(
        estimator, norm=norm, eps=EPS, eps_step=EPS, max_iter=3, num_random_init=starts,
        verbose=False,
    )  # fmt: skip
    moved = attack.generate(array, one_hot(), mask=estimator.mask(x)) - array
    width = estimator.embedded.width
    assert np.array_equal(estimator.mask(x), estimator.mask(array))
    assert np.abs(moved[..., width:]).max() == 0 and np.abs(moved[padding(x)]).max() == 0
    sizes = np.linalg.norm(moved.reshape(N, -1), ord=norm, axis=1)
    np.testing.assert_allclose(sizes, EPS, rtol=1e-5)


def test_without_a_mask_padding_has_neither_gradient_nor_effect(text):
    """A random start moves every channel, but ids and masks are read as before."""
    estimator, x = text
    array = estimator.encode(x)
    gradient = estimator.loss_gradient(array, one_hot())
    assert np.abs(gradient[padding(x)]).max() == 0
    assert np.abs(gradient[..., estimator.embedded.width :]).max() == 0
    noise = np.random.default_rng(0).uniform(-0.4, 0.4, array.shape).astype(np.float32)
    noise *= 1 - estimator.mask(x)
    assert np.abs(noise).max() > 0.3
    assert np.array_equal(estimator.predict(array + noise), estimator.predict(array))


def test_loss_gradient_is_autograds(text):
    """Of the loss by what the embedding gives, at the clean text and away from it."""
    estimator, x = text
    array = estimator.encode(x)
    width, network = estimator.embedded.width, estimator.embedded.module.eval()
    moved = array + 0.1 * np.random.default_rng(0).standard_normal(array.shape).astype(
        np.float32
    ) * estimator.mask(x)
    (site,) = EmbeddingSpace().sites(network)
    for point in (array, moved):
        states = torch.tensor(point[..., :width], requires_grad=True)
        handle = site.register_forward_hook(lambda layer, args, output, states=states: states)
        outputs = network(**{key: torch.as_tensor(value) for key, value in x.items()})
        handle.remove()
        logits = getattr(outputs, "logits", outputs)
        nn.functional.cross_entropy(logits, torch.as_tensor(labels())).backward()
        assert states.grad is not None
        expected = states.grad.numpy() * (1 - padding(x))[..., None]
        # ART's gradient is that of a mean over its batch too.
        found = estimator.loss_gradient(point, one_hot())[..., :width]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


def test_arts_attack_translated_to_ids_finds_the_same(text):
    """ART's PGD on arrays, and artplus's on ids that it is translated to."""
    estimator, x = text
    attack = ProjectedGradientDescentNumpy(
        estimator, norm=2, eps=EPS, eps_step=EPS / 2, max_iter=4, verbose=False
    )
    array = estimator.encode(x)
    moved = (attack.generate(array, one_hot(), mask=estimator.mask(x)) - array)[
        ..., : estimator.embedded.width
    ]
    model = artplus.LossModel(estimator.embedded.module)
    inputs = {key: torch.as_tensor(value) for key, value in x.items()}
    x_adv = as_attack(attack, estimator)(
        model, inputs, torch.as_tensor(labels()), space=EmbeddingSpace()
    )
    np.testing.assert_allclose(x_adv.delta.numpy(), moved, atol=1e-4)


@pytest.mark.parametrize("name", ["bert", "mean"])
@pytest.mark.parametrize("form", ["mapping", "ids"])
def test_hardening_takes_ids_and_equals_fit(name, form):
    """An attack of ART's in front, the same weights as by artplus.fit behind."""
    x: Any = columns(name)
    if form == "ids":
        x = x["ids" if name == "mean" else "input_ids"]
    estimator, network = classifier(name), module(name)
    attack = ProjectedGradientDescent(
        estimator, norm=2, eps=EPS, eps_step=EPS / 2, max_iter=3, verbose=False
    )
    trainer = AdversarialTrainerPlus(estimator, attack, loss="mix", seed=0, verbose=False)
    history = trainer.fit(x, labels(), batch_size=4, nb_epochs=3)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    data = x if form == "mapping" else {"attention_mask": np.ones_like(x), _ids(name): x}
    artplus.fit(
        network, data | {"labels": labels()}, optimizer, loss="mix", epochs=3, batch_size=4,
        attack=PGD(eps=EPS, norm=2, step_size=EPS / 2, steps=3, random_start=False),
        space=EmbeddingSpace(), seed=0, progress=False,
    )  # fmt: skip
    for one, other in zip(
        estimator.embedded.module.parameters(), network.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    assert history["loss"][-1] < history["loss"][0]
    assert estimator.predict(x).shape == (N, 3)


def _ids(name: str) -> str:
    return "ids" if name == "mean" else "input_ids"


def test_evaluation_takes_ids_and_arts_attacks(text):
    """Translated, by name, and through ``generate``: each within the radius."""
    estimator, x = text
    y = estimator.predict(x).argmax(1)
    attacks = {
        "pgd of art": ProjectedGradientDescent(estimator, norm=2, eps=EPS, verbose=False),
        "apgd of art": AutoProjectedGradientDescent(
            estimator, norm=2, eps=EPS, eps_step=EPS / 2, max_iter=5, nb_random_init=1,
            verbose=False,
        ),
        "newtonfool": NewtonFool(estimator, max_iter=2, verbose=False),
        "pgd": "pgd",
    }  # fmt: skip
    with pytest.warns(SlowPathWarning, match="NewtonFool"):
        report = artplus.evaluate(estimator, x, y, attacks=attacks, eps=EPS, norm=2, progress=False)
    assert report.clean_accuracy == 1.0
    results = {result.name: result for result in report.attacks}
    assert results.keys() == attacks.keys()
    by_module = artplus.evaluate(
        estimator.embedded.module, {**x, "labels": y}, attacks="pgd", eps=EPS, norm=2,
        space=EmbeddingSpace(), progress=False,
    )  # fmt: skip
    assert results["pgd"].accuracy == by_module.attacks[0].accuracy
    again = artplus.evaluate(
        estimator, {**x, "labels": y}, attacks="pgd", eps=EPS, norm=2, progress=False
    )
    assert again.robust_accuracy == by_module.robust_accuracy


def test_arts_own_trainer_leaves_the_embedding_alone():
    """Arrays are its input; everything behind it is trained."""
    estimator, x = classifier("bert"), columns("bert")
    before = {k: v.clone() for k, v in estimator.embedded.module.state_dict().items()}
    attack = FastGradientMethod(estimator, norm=2, eps=EPS)
    trainer = AdversarialTrainer(estimator, attack, ratio=1.0)
    trainer.fit(estimator.encode(x), one_hot(), batch_size=4, nb_epochs=1)
    estimator.fit(x, one_hot(), batch_size=4, nb_epochs=1, verbose=False)
    after = estimator.embedded.module.state_dict()
    table = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(after[table], before[table])
    assert not torch.equal(after["classifier.weight"], before["classifier.weight"])


def test_wrap_makes_it_of_ids():
    """From columns, or from whole numbers for a model with an embedding."""
    x, network = columns("bert"), module("bert")
    optimizer = torch.optim.Adam(network.parameters())
    estimator = artplus.wrap(network, x, labels(), optimizer=optimizer, verbose=False)
    assert isinstance(estimator, TextClassifier)
    assert estimator.input_shape[0] == TOKENS and estimator.nb_classes == 3
    AdversarialTrainerPlus(estimator, eps=EPS, norm=2, verbose=False).fit(x, labels(), nb_epochs=1)
    by_ids = artplus.wrap(module("bert"), x["input_ids"], verbose=False)
    assert isinstance(by_ids, TextClassifier)
    with pytest.raises(ConfigurationError, match="clip_values"):
        artplus.wrap(network, x, clip_values=(0, 1), verbose=False)


def test_a_tokenizers_own_mapping_is_taken():
    """``tokenizer(texts, padding=True, return_tensors=...)`` gives a ``BatchEncoding``."""
    from transformers import BatchEncoding

    estimator, x = classifier(), columns("bert")
    assert np.array_equal(estimator.predict(BatchEncoding(x)), estimator.predict(x))
    assert np.array_equal(estimator.predict(x=x), estimator.predict(x))
    trainer = AdversarialTrainerPlus(estimator, eps=EPS, norm=2, verbose=False)
    trainer.fit(BatchEncoding(x), labels(), nb_epochs=1)
    estimator.fit(BatchEncoding(x), one_hot(), nb_epochs=1, verbose=False)


def test_shorter_texts_are_padded_and_further_columns_carried():
    """The logits are those of the text as it is."""
    estimator = classifier(columns=["attention_mask", "token_type_ids"])
    x = {
        "input_ids": np.array([[3, 4, 5], [6, 7, 0]]),
        "attention_mask": np.array([[1, 1, 1], [1, 1, 0]]),
        "token_type_ids": np.array([[0, 1, 1], [0, 0, 0]]),
    }
    array = estimator.encode(x)
    assert array.shape[1] == TOKENS
    np.testing.assert_allclose(estimator.predict(array), estimator.predict(x), atol=1e-6)
    without = {k: v for k, v in x.items() if k != "token_type_ids"}
    assert not np.allclose(estimator.predict(array), estimator.predict(without), atol=1e-6)
    special = classifier(columns=["attention_mask", "special_tokens_mask"])
    marked = {**without, "special_tokens_mask": np.array([[1, 0, 0], [1, 0, 0]])}
    assert special.mask(marked)[:, 0].max() == 0 and special.mask(marked)[:, 1].max() == 1


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, TOKENS)), "whole numbers"),
        (np.zeros((2, TOKENS + 1), dtype=int), f"expected {TOKENS} tokens, got {TOKENS + 1}"),
        ({"attention_mask": np.ones((2, TOKENS), dtype=int)}, "no column 'input_ids'"),
        (
            {"input_ids": np.ones((2, 4), dtype=int), "attention_mask": np.ones((2, 5), dtype=int)},
            "like the ids",
        ),
        (
            {"input_ids": np.ones((2, 4), dtype=int), "token_type_ids": np.ones((2, 4), dtype=int)},
            r"columns=\['attention_mask', 'token_type_ids'\]",
        ),
    ],
    ids=["floats", "too long", "no ids", "another length", "a lost column"],
)
def test_wrong_texts_are_refused(x, message):
    with pytest.raises(DataError, match=message):
        classifier().encode(x)


def test_wrong_use_is_refused():
    """A space per token, a mask of inputs, a model without an embedding."""
    with pytest.raises(ConfigurationError, match="a whole example"):
        classifier(space=EmbeddingSpace(per="token"))
    with pytest.raises(ConfigurationError, match="hidden spaces"):
        AdversarialTrainerPlus(classifier(), eps=EPS, mask=np.ones(TOKENS))
    with pytest.raises(ConfigurationError, match="perturbs the output of an embedding"):
        TextClassifier(models.make("vit"), tokens=TOKENS)
