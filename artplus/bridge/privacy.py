"""Membership inference with ART's attacks: was an example in the training data?"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from art.attacks.inference.membership_inference import (
    MembershipInferenceBlackBox,
    MembershipInferenceBlackBoxRuleBased,
)
from art.estimators.classification import BlackBoxClassifier
from numpy.typing import NDArray

from artplus import _checks, seeding
from artplus.errors import ConfigurationError
from artplus.evaluation import Section, Subject, wilson, wording
from artplus.evaluation.analyses import Setting
from artplus.evaluation.analyses._base import need_classes
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.section import Curves, Model, Series, Table
from artplus.functional import class_index, probabilities
from artplus.mapped import Inputs, as_inputs, as_tensor

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_KINDS = ("rf", "gb", "nn", "lr")
RULE, LEARNED, THRESHOLD = "right or wrong", "learned", "loss threshold"


@dataclass(frozen=True)
class Guesses:
    """The guesses of a membership attack.

    Attributes:
        members: ``(n,)`` booleans, which members it takes for members.
        others: ``(n,)`` booleans, which others it takes for members.
    """

    members: Bools
    others: Bools

    @property
    def accuracy(self) -> float:
        """Share of right guesses, with equal weight of members and others; 0.5 is chance."""
        return float((self.members.mean() + 1 - self.others.mean()) / 2)

    @property
    def advantage(self) -> float:
        """True positive rate less false positive rate; 0 is chance (Yeom et al., 2018)."""
        return float(self.members.mean() - self.others.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        right = int(self.members.sum() + (~self.others).sum())
        return wilson(right, len(self.members) + len(self.others))


@dataclass(frozen=True, eq=False)
class Privacy:
    r"""Membership inference: do the model's predictions reveal its training data?

    Adversarial training can make a model memorise more of its training data [Song19]_, which robust
    accuracy does not show. The evaluated examples are the non-members, and as many members are
    drawn from the training data. Three attacks see only predictions:

    - *right or wrong*: an example is a member if the model classifies it correctly (ART's
      ``MembershipInferenceBlackBoxRuleBased``). This measures the generalisation gap.
    - *learned*: a random forest on the predicted probabilities and the label, fitted on half of
      both and tested on the other half (ART's ``MembershipInferenceBlackBox``).
    - *loss threshold*: an example is a member if its loss is at most the mean loss of members
      [Yeom18]_; in addition the area under the ROC curve of all thresholds,
      :math:`P(l_{\text{member}} < l_{\text{other}}) + P(=)/2`.

    An accuracy or area of one half is chance. The figures are averages and lower bounds: stronger
    attacks (with shadow models) reveal more, above all about single examples.

    Args:
        x_train: ``(m, *input)`` raw training data of the evaluated model.
        y_train: Their labels.
        n: Largest number of members and of others to use.
        attack_model_type: Model of the learned attack: ``"rf"`` (a random forest), ``"gb"``,
            ``"nn"`` or ``"lr"``, as in ART.

    Raises:
        ConfigurationError: in regression, or for fewer than 20 members or others.
        DataError: for training data that do not fit the model.

    References:
        .. [Song19] Song, Shokri and Mittal, "Privacy risks of securing machine learning models
           against adversarial examples", CCS 2019, https://arxiv.org/abs/1905.10291
        .. [Yeom18] Yeom, Giacomelli, Fredrikson and Jha, "Privacy risk in machine learning:
           analyzing the connection to overfitting", CSF 2018, https://arxiv.org/abs/1709.01604
    """

    x_train: Any = field(repr=False)
    y_train: Any = field(repr=False)
    n: int = field(default=1000, kw_only=True)
    attack_model_type: str = field(default="rf", kw_only=True)

    def __post_init__(self) -> None:
        _checks.count("n", self.n, least=20)
        if self.attack_model_type not in _KINDS:
            raise ConfigurationError(
                f"attack_model_type must be one of {', '.join(_KINDS)}, got "
                f"{self.attack_model_type!r}"
            )

    def check(self, setting: Setting) -> None:
        """Refuse regressions, too few examples, and training data that do not fit."""
        classes = need_classes(setting, "privacy")
        data = setting.data
        x, y = self._members()
        x = setting.raw(x)
        _checks.inputs(
            x, shape=tuple(data.x.shape[1:]), low=data.box.low, high=data.box.high,
            name="x_train",
        )  # fmt: skip
        _checks.class_labels(y, n=len(x), classes=classes, name="y_train")
        if min(len(x), len(data.x)) < 20:
            raise ConfigurationError(
                f"privacy needs at least 20 members and 20 others, got {len(x)} and {len(data.x)}"
            )

    def __call__(self, subject: Subject) -> Section:
        """See :class:`~artplus.evaluation.analyses.Analysis`."""
        x, y = self._members()
        x = subject.raw(x)
        count = min(self.n, len(x), len(subject.data.x))
        rng = np.random.default_rng(seeding.derived(subject.seed, "privacy"))
        member_rows = torch.from_numpy(np.sort(rng.permutation(len(x))[:count]))
        other_rows = torch.from_numpy(np.sort(rng.permutation(len(subject.data.x))[:count]))
        memberships: dict[Model, _Membership] = {}
        for model, others in subject.models.items():
            members = replace(others, x=x.to(others.x.dtype), y=y)
            memberships[model] = _attacked(
                members, member_rows, others, other_rows, self.attack_model_type
            )
        current = memberships[""]
        area, standard_error = current.area
        best = max(current.guesses.values(), key=lambda guesses: guesses.advantage)
        before = f" (before: {memberships['before'].area[0]:.3f})" if len(memberships) > 1 else ""
        return Section(
            name="privacy",
            title="Who was in the training data",
            summary=(
                f"Membership by the loss: area {area:.3f} ± {1.96 * standard_error:.3f}{before}, "
                f"where 0.5 is chance; the best attack guesses {wording.percent(best.accuracy)} "
                f"right (95% interval {wording.interval(best.interval)})."
            ),
            blocks=(
                *(_table(model, membership) for model, membership in memberships.items()),
                *(_curves(model, membership) for model, membership in memberships.items()),
            ),
            figures=(
                ("auc_loss", area),
                ("auc_loss_error", standard_error),
                ("best_accuracy", best.accuracy),
                ("best_advantage", best.advantage),
                ("tpr_at_1_percent_fpr", current.true_positive_rate(0.01)),
            ),
            notes=(
                f"{count} members and {count} of the judged examples as others, drawn with seed "
                f"{subject.seed}; the learned attack is fitted on half of both.",
                "Averages, and lower bounds: attacks with shadow models find more. Others that "
                "come from elsewhere than the members show as membership too.",
            ),
        )

    def _members(self) -> tuple[Inputs, torch.Tensor]:
        y = as_tensor(self.y_train if isinstance(self.y_train, torch.Tensor)
                      else np.asarray(self.y_train))  # fmt: skip
        y = class_index(y)
        return as_inputs(self.x_train), y if y.is_floating_point() else y.long()


@dataclass(frozen=True)
class _Membership:
    """Losses of members and of others, and the guesses of each attack."""

    members: Floats
    others: Floats
    guesses: dict[str, Guesses]

    @property
    def area(self) -> tuple[float, float]:
        return area(self.members, self.others)

    def true_positive_rate(self, false_positive_rate: float) -> float:
        """Share of members recognised at a false positive rate of at most the given one."""
        allowed = int(false_positive_rate * len(self.others))
        limit = np.sort(self.others)[allowed]
        return float((self.members < limit).mean())


def area(members: Floats, others: Floats) -> tuple[float, float]:
    r"""Area under the ROC curve of "a small loss means member", and its standard error.

    The area is :math:`P(l_m < l_o) + P(l_m = l_o) / 2`; the error follows Hanley and McNeil (1982).

    Example:
        >>> import numpy as np
        >>> round(area(np.array([0.0, 1.0]), np.array([1.0, 2.0]))[0], 3)
        0.875
    """
    ranked = np.sort(others)
    above = len(ranked) - np.searchsorted(ranked, members, side="right")
    ties = len(ranked) - np.searchsorted(ranked, members, side="left") - above
    auc = float((above + ties / 2).mean() / len(ranked))
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (
        auc * (1 - auc) + (len(members) - 1) * (q1 - auc**2) + (len(others) - 1) * (q2 - auc**2)
    )
    return auc, float(np.sqrt(max(variance, 0.0) / (len(members) * len(others))))


def _attacked(
    members: EvaluationData,
    member_rows: torch.Tensor,
    others: EvaluationData,
    other_rows: torch.Tensor,
    attack_model_type: str,
) -> _Membership:
    losses = [_losses(members, member_rows), _losses(others, other_rows)]
    limit = losses[0].mean()
    guesses = {THRESHOLD: Guesses(losses[0] <= limit, losses[1] <= limit)}
    classifier = _estimator(others)
    data = [_arrays(members, member_rows), _arrays(others, other_rows)]
    rule_attack = MembershipInferenceBlackBoxRuleBased(classifier)
    guesses[RULE] = Guesses(*(np.asarray(rule_attack.infer(x, y)).ravel() == 1 for x, y in data))
    learned_attack = MembershipInferenceBlackBox(classifier, attack_model_type=attack_model_type)
    # Every other example, so that data sorted by class does not put a class in one half.
    learned_attack.fit(data[0][0][::2], data[0][1][::2], data[1][0][::2], data[1][1][::2])
    guesses[LEARNED] = Guesses(
        *(np.asarray(learned_attack.infer(x[1::2], y[1::2])).ravel() == 1 for x, y in data)
    )
    return _Membership(losses[0], losses[1], guesses)


def _losses(data: EvaluationData, index: torch.Tensor) -> Floats:
    parts = []
    with torch.no_grad():
        for _, x, y, _ in data.batches(index):
            parts.append(data.model.loss(data.model(x), y).double().cpu().numpy())
    losses: Floats = np.nan_to_num(np.concatenate(parts), nan=np.inf, posinf=np.inf)
    return losses


def _estimator(data: EvaluationData) -> BlackBoxClassifier:
    """The model as an ART black box that predicts probabilities."""

    def predict(x: NDArray[Any]) -> NDArray[Any]:
        with torch.no_grad():
            outputs = data.model(torch.as_tensor(x).to(data.device, data.x.dtype))
            answers: NDArray[Any] = probabilities(outputs).cpu().numpy()
        return answers

    return BlackBoxClassifier(predict, tuple(data.x.shape[1:]), data.classes)


def _arrays(data: EvaluationData, index: torch.Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
    """Inputs and one-hot labels; from class numbers ART would infer the number of classes."""
    rows = np.eye(data.classes or 0, dtype=np.float32)
    return data.x[index].cpu().numpy(), rows[class_index(data.y[index]).cpu().numpy()]


def _table(model: Model, membership: _Membership) -> Table:
    return Table(
        columns=("attack", "right guesses", "95% interval", "advantage"),
        units=("text", "percent", "text", "percent"),
        rows=tuple(
            (attack, guesses.accuracy, wording.interval(guesses.interval), guesses.advantage)
            for attack, guesses in membership.guesses.items()
        ),
        caption="Half right and no advantage is chance.",
        model=model,
    )


def _curves(model: Model, membership: _Membership) -> Curves:
    limits = np.quantile(membership.others, np.linspace(0, 1, 51), method="lower")
    true_positive_rate = [float((membership.members <= limit).mean()) for limit in limits]
    false_positive_rate = [float((membership.others <= limit).mean()) for limit in limits]
    return Curves(
        x_label="others taken for members",
        y_label="members recognised",
        x_unit="percent",
        series=(
            Series(name="chance", x=(0.0, 1.0), y=(0.0, 1.0)),
            Series(name="model", x=(0.0, *false_positive_rate), y=(0.0, *true_positive_rate)),
        ),
        caption="Every threshold on the loss.",
        model=model,
    )
