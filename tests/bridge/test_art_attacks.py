"""ART attacks behind artplus's protocol: translated where possible, adapted without a trace."""

from __future__ import annotations

import copy
import random
import warnings
from pathlib import Path
from typing import Any

import art.attacks.evasion as evasion
import numpy as np
import pytest
import torch
from art.attacks import EvasionAttack
from art.estimators.classification import BlackBoxClassifierNeuralNetwork, PyTorchClassifier
from art.estimators.regression.pytorch import PyTorchRegressor
from torch import Tensor, nn

from artplus.attacks import APGD, PGD, Attack, Cycle, Square, fgm
from artplus.bridge.art_attack import ArtAttack
from artplus.bridge.attacks import as_attack, translate
from artplus.bridge.estimator import view
from artplus.errors import (
    ArtplusWarning,
    ConfigurationError,
    SlowPathWarning,
    UnsupportedEstimatorError,
)
from artplus.spaces import InputSpace

IMAGE, ROW, CLASSES, N = (3, 8, 8), (6,), 3, 4


def classifier(kind: str = "image") -> PyTorchClassifier:
    """A fresh classifier on images, rows of features, or images with probabilities."""
    torch.manual_seed(0)
    if kind == "row":
        net, shape = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES)), ROW
        for parameter in net.parameters():
            parameter.data *= 4  # several classes within the box
    elif kind == "tiny":
        conv, shape = nn.Conv2d(1, 2, 2), (1, 3, 3)
        net = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(8, CLASSES))
    elif kind == "probabilities":
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES), nn.Softmax(1))
        shape = IMAGE
    else:
        conv, norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        net = nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), nn.Linear(256, CLASSES))
        shape = IMAGE
    return PyTorchClassifier(net, nn.CrossEntropyLoss(), shape, CLASSES, clip_values=(0.0, 1.0))


def adapted(attack: EvasionAttack, estimator: Any = None) -> ArtAttack:
    """The adapter, its warning about the slow path expected."""
    with pytest.warns(SlowPathWarning, match="runs through its own generate"):
        found = as_attack(attack, estimator)
    assert isinstance(found, ArtAttack)
    return found


def examples(estimator: PyTorchClassifier, n: int = N) -> tuple[Tensor, Tensor]:
    """Inputs and the labels that the model gives them, so there is something to fool."""
    torch.manual_seed(1)
    x = torch.rand(n, *estimator.input_shape)
    with torch.no_grad():
        estimator.model.eval()
        return x, estimator.model(x).argmax(1)


def brendel_bethge(c: PyTorchClassifier) -> EvasionAttack:
    """ART offers it only where numba is installed."""
    if not hasattr(evasion, "BrendelBethgeAttack"):
        raise ImportError("No module named 'numba'")
    return evasion.BrendelBethgeAttack(c, steps=1)


# Every evasion attack of ART that takes a torch classifier, as small as it goes.
QUIET = {"verbose": False}
EVERY: dict[str, tuple[str, Any]] = {
    "AutoAttack": ("image", lambda c: evasion.AutoAttack(
        c, eps=0.1, attacks=[evasion.FastGradientMethod(c, eps=0.1), evasion.DeepFool(c, 3)])),
    "AutoConjugateGradient": ("image", lambda c: evasion.AutoConjugateGradient(
        c, max_iter=3, nb_random_init=1)),
    "AutoConjugateGradient own loss": ("image", lambda c: evasion.AutoConjugateGradient(
        c, max_iter=3, nb_random_init=1, loss_type="cross_entropy")),
    "AutoProjectedGradientDescent L1": ("image", lambda c: evasion.AutoProjectedGradientDescent(
        c, norm=1, max_iter=3, nb_random_init=1)),
    "BoundaryAttack": ("image", lambda c: evasion.BoundaryAttack(
        c, targeted=False, max_iter=2, init_size=20, num_trial=3, sample_size=3)),
    "BoundaryAttack targeted": ("image", lambda c: evasion.BoundaryAttack(
        c, targeted=True, max_iter=2, init_size=20, num_trial=3, sample_size=3)),
    "CarliniL0Method": ("tiny", lambda c: evasion.CarliniL0Method(
        c, max_iter=4, binary_search_steps=2, initial_const=1.0)),
    "CarliniL2Method": ("row", lambda c: evasion.CarliniL2Method(
        c, max_iter=4, binary_search_steps=2, initial_const=1.0)),
    "CarliniLInfMethod": ("row", lambda c: evasion.CarliniLInfMethod(
        c, max_iter=10, initial_const=2.0, largest_const=4.1, learning_rate=0.1)),
    "DeepFool": ("image", lambda c: evasion.DeepFool(c, max_iter=3)),
    "ElasticNet": ("row", lambda c: evasion.ElasticNet(
        c, max_iter=20, binary_search_steps=2, initial_const=10.0)),
    "FastGradientMethod minimal": ("image", lambda c: evasion.FastGradientMethod(
        c, eps=0.3, eps_step=0.1, minimal=True)),
    "FeatureAdversariesNumpy": ("tiny", lambda c: evasion.FeatureAdversariesNumpy(
        c, delta=0.1, layer=1)),
    "FeatureAdversariesPyTorch": ("image", lambda c: evasion.FeatureAdversariesPyTorch(
        c, delta=0.1, layer=1, max_iter=2, step_size=0.05)),
    "FrameSaliencyAttack": ("image", lambda c: evasion.FrameSaliencyAttack(
        c, evasion.FastGradientMethod(c, eps=0.1), "iterative_saliency")),
    "GeoDA": ("image", lambda c: evasion.GeoDA(c, max_iter=400, sub_dim=4)),
    "HopSkipJump": ("image", lambda c: evasion.HopSkipJump(
        c, max_iter=1, max_eval=10, init_eval=5, init_size=20)),
    "LowProFool": ("row", lambda c: evasion.LowProFool(
        c, n_steps=30, eta=5.0, threshold=None, importance=np.ones(6) / 6)),
    "NewtonFool": ("image", lambda c: evasion.NewtonFool(c, max_iter=3)),
    "PixelAttack": ("image", lambda c: evasion.PixelAttack(c, th=1, max_iter=1)),
    "ProjectedGradientDescent p=3": ("image", lambda c: evasion.ProjectedGradientDescent(
        c, norm=3, eps=0.5, eps_step=0.2, max_iter=2)),
    "ProjectedGradientDescent random eps": ("image", lambda c: evasion.ProjectedGradientDescent(
        c, eps=0.2, eps_step=0.1, max_iter=2, random_eps=True)),
    "RescalingAutoConjugateGradient": ("image", lambda c: evasion.RescalingAutoConjugateGradient(
        c, max_iter=3, nb_random_init=1)),
    "SaliencyMapMethod": ("row", lambda c: evasion.SaliencyMapMethod(c, theta=0.3)),
    "ShadowAttack": ("image", lambda c: evasion.ShadowAttack(c, nb_steps=2, batch_size=2)),
    "SignOPTAttack": ("row", lambda c: evasion.SignOPTAttack(
        c, targeted=False, max_iter=1, query_limit=400, num_trial=30, k=3)),
    "SimBA": ("probabilities", lambda c: evasion.SimBA(c, max_iter=5)),
    "SpatialTransformation": ("image", lambda c: evasion.SpatialTransformation(
        c, max_translation=20, num_translations=2, max_rotation=30, num_rotations=2)),
    "SquareAttack": ("image", lambda c: evasion.SquareAttack(c, max_iter=4, eps=0.1)),
    "TargetedUniversalPerturbation": ("image", lambda c: evasion.TargetedUniversalPerturbation(
        c, "fgsm", {"eps": 0.3, "targeted": True}, max_iter=1, eps=0.3)),
    "ThresholdAttack": ("image", lambda c: evasion.ThresholdAttack(c, th=1, max_iter=1)),
    "UniversalPerturbation": ("image", lambda c: evasion.UniversalPerturbation(
        c, "fgsm", {"eps": 0.3}, max_iter=1, eps=0.3)),
    "VirtualAdversarialMethod": ("probabilities", lambda c: evasion.VirtualAdversarialMethod(
        c, eps=0.1, max_iter=1)),
    "Wasserstein": ("image", lambda c: evasion.Wasserstein(
        c, eps=0.2, max_iter=2, eps_iter=1, eps_step=0.1,
        conjugate_sinkhorn_max_iter=20, projected_sinkhorn_max_iter=20)),
    "ZooAttack": ("image", lambda c: evasion.ZooAttack(
        c, max_iter=2, binary_search_steps=1, nb_parallel=4, use_resize=False,
        use_importance=False, learning_rate=0.1)),
    "AdversarialPatchPyTorch": ("image", lambda c: evasion.AdversarialPatchPyTorch(
        c, max_iter=1, patch_shape=(3, 4, 4))),
    "BrendelBethgeAttack": ("image", lambda c: brendel_bethge(c)),
    "CompositeAdversarialAttackPyTorch": (
        "image", lambda c: evasion.CompositeAdversarialAttackPyTorch(c, max_iter=1)),
    "GRAPHITEWhiteboxPyTorch": ("image", lambda c: evasion.GRAPHITEWhiteboxPyTorch(
        c, net_size=(8, 8))),
}  # fmt: skip
# These minimise a distance, or stop at success: on some examples they may rightly stay at x.
MAY_STAY = {"CarliniL0Method", "CarliniL2Method", "ElasticNet", "LowProFool", "ZooAttack"}


@pytest.mark.parametrize("name", EVERY)
def test_every_attack_of_art_runs_and_leaves_no_trace(name: str) -> None:
    """Right shape, inside box and ball, repeatable; model, attack and generators as before."""
    kind, make = EVERY[name]
    estimator = classifier(kind)
    net = estimator.model
    x, y = examples(estimator)
    try:
        attack = make(estimator)
        attack.set_params(**{k: v for k, v in QUIET.items() if k in attack.attack_params})
    except ImportError as error:
        pytest.skip(f"optional dependency of ART: {error}")
    adapter = adapted(attack, estimator)
    assert isinstance(adapter, Attack) and adapter.climbs_own
    if adapter.targeted:
        y = (y + 1) % CLASSES
    net.train()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    flags = [module.training for module in net.modules()]
    state, attributes = copy.deepcopy(net.state_dict()), dict(vars(attack))
    streams = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    seen = view(estimator)

    def run() -> Tensor:
        generator = torch.Generator().manual_seed(3)
        with warnings.catch_warnings():
            for category in (UserWarning, RuntimeWarning):  # ART's own
                warnings.simplefilter("ignore", category)
            return adapter(seen.model, x, y, space=seen.space, generator=generator)

    try:
        first = run()
    except ImportError as error:
        pytest.skip(f"optional dependency of ART: {error}")
    assert torch.equal(first, run()), "one seed, one result"
    assert first.shape == x.shape and first.dtype == x.dtype and not first.requires_grad
    assert first.min() >= 0 and first.max() <= 1
    if name not in MAY_STAY:
        assert not torch.equal(first, x)
    if adapter.norm in (1, 2, np.inf) and np.isfinite(adapter.eps):
        length = torch.linalg.vector_norm((first - x).flatten(1), adapter.norm, dim=1)
        assert (length <= adapter.eps * (1 + 1e-4)).all()
    assert [module.training for module in net.modules()] == flags
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(torch.equal(p.grad, torch.ones_like(p)) and p.requires_grad
               for p in net.parameters())  # fmt: skip
    assert not estimator._model._forward_pre_hooks
    assert vars(attack).keys() == attributes.keys()
    assert all(vars(attack)[key] is value for key, value in attributes.items())
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert (np.random.get_state()[1] == streams[1]).all() and random.getstate() == streams[2]


def test_the_list_above_names_every_attack_for_torch_classifiers() -> None:
    """A new attack of ART must be tried here, translated, or be for something else."""
    tried = {name.split()[0] for name in EVERY}
    translated = {"AutoProjectedGradientDescent", "BasicIterativeMethod", "FastGradientMethod",
                  "MomentumIterativeMethod", "ProjectedGradientDescent",
                  "ProjectedGradientDescentNumpy", "ProjectedGradientDescentPyTorch"}  # fmt: skip
    other = {
        "AdversarialTexturePyTorch", "CarliniWagnerASR", "DPatch", "DecisionTreeAttack",
        "HighConfidenceLowUncertainty", "ImperceptibleASR", "ImperceptibleASRPyTorch",
        "LaserAttack", "MalwareGDTensorFlow", "OverTheAirFlickeringPyTorch", "OverloadPyTorch",
        "RobustDPatch", "SNAL", "AdversarialPatchTensorFlowV2", "FeatureAdversariesTensorFlowV2",
        "ProjectedGradientDescentTensorFlowV2",
        # a dispatcher to PyTorch's, and two that break at construction or want a target image
        "AdversarialPatch", "AdversarialPatchNumpy", "GRAPHITEBlackbox",
    }  # fmt: skip
    known = {
        name
        for name, value in vars(evasion).items()
        if isinstance(value, type) and issubclass(value, EvasionAttack)
    }
    assert known - tried - translated - other == set()


# --- translation ------------------------------------------------------------------------------


def test_translation_keeps_arts_parameters() -> None:
    """Radius, step, iterations, norm, restarts, momentum and target, each where it belongs."""
    c = classifier()
    art = evasion.ProjectedGradientDescent(
        c, norm=2, eps=0.7, eps_step=0.2, decay=0.9, max_iter=13, targeted=True, num_random_init=4
    )
    assert translate(art) == PGD(
        eps=0.7, norm=2.0, step_size=0.2, steps=13, restarts=4, decay=0.9, targeted=True
    )
    assert translate(evasion.BasicIterativeMethod(c, 0.3, 0.1, 5)) == PGD(
        eps=0.3, step_size=0.1, steps=5, random_start=False
    )
    assert translate(evasion.FastGradientMethod(c, eps=0.2, norm="inf")) == fgm(0.2)
    apgd = evasion.AutoProjectedGradientDescent(
        c, eps=0.2, eps_step=0.4, max_iter=9, nb_random_init=3, loss_type="difference_logits_ratio"
    )
    assert translate(apgd) == APGD(eps=0.2, step_size=0.4, steps=9, restarts=3, loss="dlr")


def test_what_runs_is_translated_not_what_the_dispatcher_says() -> None:
    """``attack.eps = ...`` on ART's PGD changes the outer object alone; ``set_params`` both."""
    attack = evasion.ProjectedGradientDescent(classifier(), eps=0.3, eps_step=0.1)
    attack.eps = 0.9
    assert translate(attack).eps == 0.3
    attack.set_params(eps=0.5)
    assert translate(attack).eps == 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda c: evasion.ProjectedGradientDescent(c, norm=3),
        lambda c: evasion.ProjectedGradientDescent(c, random_eps=True),
        lambda c: evasion.ProjectedGradientDescent(c, max_iter=0),
        lambda c: evasion.FastGradientMethod(c, minimal=True),
        lambda c: evasion.FastGradientMethod(c, norm=4),
        lambda c: evasion.AutoProjectedGradientDescent(c, norm=1),
        lambda c: evasion.DeepFool(c),
        lambda c: type("Mine", (evasion.ProjectedGradientDescent,), {})(c),
        lambda c: type("Mine", (evasion.FastGradientMethod,), {})(c),
    ],
)
def test_what_has_no_counterpart_is_not_translated(make) -> None:
    """Other norms, drawn radii, minimal search, nothing to do, and anybody's subclass."""
    attack = make(classifier())
    assert translate(attack) is None
    adapted(attack)


def test_native_attacks_pass_through() -> None:
    """And an ART attack with a translation becomes one without a warning."""
    for attack in (PGD(eps=0.1), Square(eps=0.1), Cycle([fgm(0.1)])):
        assert as_attack(attack) is attack
    c = classifier()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(as_attack(evasion.FastGradientMethod(c), c), PGD)


@pytest.mark.parametrize(
    ("attack", "match"),
    [
        ("pgd", "must come from artplus.attacks or art.attacks.evasion, got str"),
        (evasion.FastGradientMethod, r"FastGradientMethod; call it: .*\(classifier\)"),
        (PGD, r"the class PGD; call it: PGD\(eps=...\)"),
    ],
)
def test_strangers_and_classes_are_refused(attack, match: str) -> None:
    """With the call that was probably meant."""
    with pytest.raises(ConfigurationError, match=match):
        as_attack(attack)


def test_an_attack_on_another_model_is_refused() -> None:
    """It would run, and harden against a stranger; translated or not, now or at the call."""
    mine, other = classifier(), classifier()
    for attack in (evasion.FastGradientMethod(other), evasion.DeepFool(other)):
        with pytest.raises(ConfigurationError, match="attacks another model .* same estimator"):
            as_attack(attack, mine)
    seen = view(mine)
    late = adapted(evasion.DeepFool(other, verbose=False))
    with pytest.raises(ConfigurationError, match="attacks another model"):
        late(seen.model, *examples(mine), space=seen.space)
    with pytest.raises(ConfigurationError, match="attacks another model"):
        as_attack(late, mine)


def test_an_estimator_of_its_own_around_the_same_module_is_fine() -> None:
    """ART's APGD and ACG with ``loss_type`` build a second estimator; the module counts."""
    c = classifier()
    apgd = evasion.AutoProjectedGradientDescent(c, loss_type="cross_entropy", verbose=False)
    assert apgd.estimator is not c
    assert isinstance(as_attack(apgd, c), APGD)
    adapted(evasion.AutoConjugateGradient(c, loss_type="cross_entropy"), c)
    with pytest.raises(ConfigurationError, match="attacks another model"):
        as_attack(apgd, classifier())


def test_wrapped_modules_are_the_same_model() -> None:
    """``DataParallel`` around the module that ART holds is still that module."""
    c = classifier()
    seen, x_y = view(c), examples(c)
    wrapped = copy.copy(seen.model)
    object.__setattr__(wrapped, "module", nn.DataParallel(c.model))
    x_adv = adapted(evasion.DeepFool(c, max_iter=2, verbose=False))(wrapped, *x_y)
    assert x_adv.shape == x_y[0].shape


def test_an_estimator_without_a_module_is_refused() -> None:
    """A black box has nothing to differentiate or to put back."""
    box = BlackBoxClassifierNeuralNetwork(lambda x: np.eye(3)[[0] * len(x)], IMAGE, 3)
    with pytest.raises(UnsupportedEstimatorError, match="holds no torch module"):
        as_attack(evasion.SquareAttack(box), classifier())


# --- the adapter ------------------------------------------------------------------------------


class Recorder(EvasionAttack):
    """Keeps what it was called with and returns what it was told to."""

    attack_params = [*EvasionAttack.attack_params, "eps", "eps_step", "batch_size", "verbose"]
    _estimator_requirements = ()

    def __init__(self, estimator: Any, answer: Any = None) -> None:
        super().__init__(estimator=estimator)
        self.eps, self.eps_step, self.batch_size, self.verbose = 0.4, 0.1, 7, True
        self.answer, self.calls = answer, []

    def generate(self, x, y=None, **kwargs):
        self.calls.append((x, y, kwargs, dict(vars(self))))
        return x if self.answer is None else self.answer(x)


def call(attack: EvasionAttack, c: PyTorchClassifier, n: int = N, **options: Any) -> Tensor:
    seen = view(c)
    x, y = examples(c, n)
    options.setdefault("space", seen.space)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPathWarning)
        adapter = as_attack(attack, c).with_eps(options.pop("scale", 1.0))
    return adapter(seen.model, x, options.pop("y", y), **options)


def test_attacks_run_quietly_on_whole_batches_and_get_their_settings_back() -> None:
    """Whatever ``batch_size`` the attack was built with."""
    c = classifier()
    attack = Recorder(c)
    call(attack, c, n=5, scale=0.5)
    x, y, kwargs, during = attack.calls[0]
    assert (during["batch_size"], during["verbose"]) == (5, False)
    assert (during["eps"], during["eps_step"]) == (0.2, 0.05)
    assert (attack.batch_size, attack.verbose, attack.eps, attack.eps_step) == (7, True, 0.4, 0.1)
    assert x.dtype == np.float32 and y.shape == (5, CLASSES) and (y.sum(1) == 1).all()
    assert kwargs == {}


def test_settings_come_back_after_an_error() -> None:
    """So do the model's flags and requires_grad."""
    c = classifier()

    def fail(x):
        raise ValueError("no luck")

    attack = Recorder(c, fail)
    c.model.train()
    with pytest.raises(ValueError, match="no luck"):
        call(attack, c)
    assert attack.verbose and attack.batch_size == 7
    assert all(p.requires_grad for p in c.model.parameters())
    assert not c._model._forward_pre_hooks


def test_radii_scale_in_every_attack_of_an_ensemble() -> None:
    """AutoAttack's members have radii of their own; PGD's dispatcher an attack behind it."""
    c = classifier()
    members = [Recorder(c), Recorder(c)]
    auto = evasion.AutoAttack(c, eps=0.4, attacks=list(members))
    call(auto, c, scale=0.25)
    for member in members:
        assert [during["eps"] for *_, during in member.calls] == [0.1]
        assert member.eps == 0.4
    assert auto.eps == 0.4


@pytest.mark.parametrize(
    "make",
    [
        lambda c: evasion.DeepFool(c),
        lambda c: evasion.ProjectedGradientDescent(c, random_eps=True),
        lambda c: evasion.Wasserstein(c),
    ],
)
def test_attacks_without_a_radius_cannot_be_warmed_up(make) -> None:
    """A schedule on the radius says so instead of doing nothing."""
    with pytest.raises(ConfigurationError, match="has no radius to scale"):
        adapted(make(classifier())).with_eps(0.5)


def test_attacks_that_take_targets_for_y_are_targeted() -> None:
    """Whether or not ART's own flag says so; ``AutoAttack(targeted=True)`` keeps true labels."""
    c = classifier()
    assert adapted(evasion.SaliencyMapMethod(c)).targeted
    assert adapted(evasion.ShadowAttack(c)).targeted
    assert adapted(evasion.CarliniL2Method(c, targeted=True)).targeted
    assert not adapted(evasion.CarliniL2Method(c)).targeted
    assert not adapted(evasion.AutoAttack(c, targeted=True)).targeted


def test_jsma_heads_for_the_given_targets() -> None:
    """The labels handed over are the classes reached, not left."""
    net = nn.Linear(6, CLASSES, bias=False)
    net.weight.data = torch.eye(CLASSES).repeat_interleave(2, 1)  # two features speak for a class
    c = PyTorchClassifier(net, nn.CrossEntropyLoss(), ROW, CLASSES, clip_values=(0.0, 1.0))
    x, y = examples(c, 8)
    aim = (y + 1) % CLASSES
    attack = evasion.SaliencyMapMethod(c, theta=0.5, gamma=1.0, verbose=False)
    x_adv = call(attack, c, n=8, y=aim)
    assert (net(x_adv).argmax(1) == aim).float().mean() > 0.7


def test_nothing_cached_by_one_batch_is_used_on_the_next() -> None:
    """SpatialTransformation would apply the first batch's turn to every later one, unsearched."""
    c = classifier()
    attack = evasion.SpatialTransformation(c, max_rotation=40, num_rotations=3, verbose=False)
    asked: list[int] = []
    c._model.register_forward_pre_hook(lambda module, args: asked.append(len(args[0])))
    call(attack, c)
    first = len(asked)
    attack.generate(examples(c)[0].numpy())  # leaves its finding in the attack
    asked.clear()
    call(attack, c)
    assert first > 3 and len(asked) == first
    assert attack.attack_rot is not None, "the user's own finding is put back"


def test_float64_reaches_the_network_as_float32() -> None:
    """What HopSkipJump makes under NumPy 2; a plain call of ART's fails there."""
    c = classifier()
    dtypes: list[torch.dtype] = []

    def predicts(x):
        c.predict(x.astype(np.float64))
        return x

    c.model[0].register_forward_pre_hook(lambda module, args: dtypes.append(args[0].dtype))
    call(Recorder(c, predicts), c)
    assert dtypes[-1] == torch.float32


def test_nan_is_replaced_by_the_clean_example_and_said() -> None:
    """One example of four comes back as NaN: it stays clean, the others are kept."""
    c = classifier()

    def poison(x):
        x = np.clip(x + 0.1, 0, 1)
        x[2, 0, 0, 0] = np.nan
        return x

    with pytest.warns(ArtplusWarning, match="NaN or infinity for 1 of 4 examples"):
        x_adv = call(Recorder(c, poison), c)
    x, _ = examples(c)
    assert torch.equal(x_adv[2], x[2]) and not torch.equal(x_adv[1], x[1])


def test_patches_are_applied() -> None:
    """A patch and its mask are no examples; what ``apply_patch`` makes of them is."""
    c = classifier()
    attack = Recorder(c, lambda x: (np.ones((3, 2, 2)), np.ones((2, 2))))
    with pytest.raises(ConfigurationError, match="returns 2 arrays instead of adversarial"):
        call(attack, c)
    attack.scale_max = 0.7
    attack.apply_patch = lambda x, scale: np.full_like(x, scale)
    assert torch.equal(call(attack, c), torch.full((N, *IMAGE), 0.7))


def test_masks_reach_the_attacks_that_know_them() -> None:
    """The others would ignore it without a word, so they are refused."""
    c = classifier()
    space = InputSpace(0.0, 1.0, (torch.rand(8, 8) < 0.5).float())
    attack = evasion.AutoConjugateGradient(c, max_iter=3, nb_random_init=1, verbose=False)
    x_adv = call(attack, c, space=space)
    x, _ = examples(c)
    fixed = (space.mask == 0).expand_as(x)
    assert torch.equal(x_adv[fixed], x[fixed]) and not torch.equal(x_adv, x)
    with pytest.raises(ConfigurationError, match="DeepFool would ignore the mask; use PGD"):
        call(evasion.DeepFool(c), c, space=space)


def test_inner_losses_and_starts_are_refused() -> None:
    """``generate`` takes neither, and neither is dropped."""
    c = classifier()
    with pytest.raises(ConfigurationError, match="loss of its own.*inner='attack'"):
        call(Recorder(c), c, inner=lambda m, x, y: lambda z: z.sum((1, 2, 3)))
    with pytest.raises(ConfigurationError, match="cannot begin at a given start"):
        call(Recorder(c), c, start=examples(c)[0])


def test_attacks_that_would_damage_or_never_run_are_refused() -> None:
    """Parallel AutoAttack drops the optimizer; SignOPT wants a target image unless told."""
    c = classifier()
    with pytest.raises(ConfigurationError, match="removes the estimator's optimizer"):
        ArtAttack(evasion.AutoAttack(c, parallel_pool_size=2))
    with pytest.raises(ConfigurationError, match="construct it with targeted=False"):
        ArtAttack(evasion.SignOPTAttack(c))


def test_regression_targets_go_through_as_they_are() -> None:
    """Floats, not one-hot rows."""
    regressor = PyTorchRegressor(nn.Linear(6, 1), nn.MSELoss(), (6,), clip_values=(0.0, 1.0))
    attack, seen = Recorder(regressor), view(regressor)
    x, y = torch.rand(4, 6), torch.rand(4)
    adapted(attack, regressor)(seen.model, x, y, space=seen.space)
    np.testing.assert_array_equal(attack.calls[0][1], y.numpy())


def test_guides_are_inputs_of_another_class() -> None:
    """Feature adversaries imitate an example of the batch with another label."""
    c = classifier()
    x, y = examples(c)
    y = torch.tensor([0, 0, 1, 0])
    attack = Recorder(c)
    type(attack).__name__, name = "FeatureAdversariesPyTorch", type(attack).__name__
    try:
        attack.delta = 0.1
        call(attack, c, y=y)
    finally:
        type(attack).__name__ = name
    guides = torch.from_numpy(attack.calls[0][1])
    assert all(torch.equal(guides[i], x[2]) for i in (0, 1, 3))
    assert any(torch.equal(guides[2], x[i]) for i in (0, 1, 3))


def test_without_a_generator_torchs_seed_decides() -> None:
    """``torch.manual_seed`` makes ART's numpy draws repeatable too."""
    c = classifier()
    attack = Recorder(c, lambda x: np.random.random(x.shape))
    torch.manual_seed(5)
    first = call(attack, c, generator=None)
    second = call(attack, c, generator=None)
    assert torch.equal(first, second)  # `examples` seeds torch with 1 before each
    assert not torch.equal(first, call(attack, c, generator=torch.Generator().manual_seed(9)))


def test_geoda_leaves_nothing_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ART's GeoDA writes its DCT basis to the working folder; through the adapter it does not."""
    monkeypatch.chdir(tmp_path)
    c = classifier()
    call(evasion.GeoDA(c, max_iter=400, sub_dim=4, verbose=False), c)
    assert Path.cwd() == tmp_path and not list(tmp_path.iterdir())
