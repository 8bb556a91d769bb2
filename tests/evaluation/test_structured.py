"""Judging models of text, several labels, pixels, numbers, boxes and tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import artplus
from artplus.attacks import PGD
from artplus.errors import ConfigurationError
from artplus.evaluation import Report, attack_run, over_seeds, wording
from artplus.evaluation.analyses import PerClass
from artplus.evaluation.verify import TOLERANCE
from artplus.model import as_loss_model
from artplus.reporting import compare
from artplus.spaces import EmbeddingSpace, InputSpace, LatentSpace, Perturbed, Space
from artplus.tree import take
from tests.evaluation.test_distributed_evaluation import together

PADDING, IGNORED = 0, 255


class Text(nn.Module):
    """A classifier of token ids."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.gru = nn.GRU(6, 8, batch_first=True)
        self.head = nn.Linear(8, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        states, _ = self.gru(self.embed(input_ids))
        kept = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weights = kept[..., None].to(states)
        logits: Tensor = self.head((states * weights).sum(1) / weights.sum(1))
        return logits


class Tokens(nn.Module):
    """A language model."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru = nn.Embedding(11, 5), nn.GRU(5, 7, batch_first=True)
        self.head = nn.Linear(7, 11)

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.gru(self.embed(input_ids))[0])
        return logits


class Detector(nn.Module):
    """Gives its losses if it is given targets, as torchvision's detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, padding=1)
        self.box, self.label = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        features = [self.features(image[None]).relu().mean((2, 3))[0] for image in images]
        if targets is None:
            return [
                {"boxes": self.box(f)[None], "labels": self.label(f).argmax()} for f in features
            ]
        losses = [self.losses(f, target) for f, target in zip(features, targets, strict=True)]
        return {name: torch.stack([loss[name] for loss in losses]).mean() for name in losses[0]}

    def losses(self, feature: Tensor, target: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = self.label(feature).expand(len(target["labels"]), -1)
        return {
            "loss_box": (self.box(feature) - target["boxes"]).abs().mean(),
            "loss_label": F.cross_entropy(logits, target["labels"]),
        }


@dataclass(frozen=True)
class Case:
    """A model, its data, and how it is judged."""

    module: nn.Module
    x: Any
    y: Any
    eps: float
    norm: float = math.inf
    options: Any = None

    def report(self, eps: float | None = None, *, attacks: Any = None, **changes: Any) -> Report:
        radius = self.eps if eps is None else eps
        # Random starts are drawn per batch: without them no figure depends on the batch size.
        attack = PGD(eps=radius, norm=self.norm, steps=8, random_start=False)
        options = {"batch_size": 4, "progress": False, **(self.options or {}), **changes}
        report: Report = artplus.evaluate(
            self.module, self.x, self.y, attacks=attacks or {"pgd": attack}, **options
        )
        return report


def text(space: Space, *, eps: float = 0.4, mapping: bool = True) -> Case:
    module, ids = Text(), torch.randint(1, 20, (10, 7))
    mask = (torch.arange(7) < torch.tensor([7, 2, 5, 3, 6, 7, 4, 2, 5, 6])[:, None]).long()
    x: Any = {"input_ids": ids * mask, "attention_mask": mask} if mapping else ids
    y = (module(**x) if mapping else module(x)).argmax(1)
    y[0] = (y[0] + 1) % 3
    return Case(module, x, y, eps, 2.0, {"space": space})


def regression() -> Case:
    module, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), torch.rand(10, 4)
    y = module(x).detach() + 0.1 * torch.randn(10, 2)
    return Case(module, x, y, 0.1, options={"task": "regression"})


def multilabel() -> Case:
    module, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), torch.rand(10, 4)
    y = (module(x) > 0).float()
    y[:2, 0] = 1 - y[:2, 0]
    return Case(module, x, y, 0.1, options={"criterion": nn.BCEWithLogitsLoss()})


def segmentation() -> Case:
    module, x = nn.Conv2d(3, 4, 3, padding=1), torch.rand(10, 3, 6, 5)
    y = module(x).argmax(1)
    y[:, :2], y[0, 3] = IGNORED, 1
    criterion = nn.CrossEntropyLoss(ignore_index=IGNORED)
    return Case(module, x, y, 0.1, options={"criterion": criterion})


def detection() -> Case:
    images = [torch.rand(3, 5 + k // 3, 6 + k % 2) for k in range(10)]
    targets = [
        {"boxes": torch.rand(1 + k % 2, 4), "labels": torch.randint(3, (1 + k % 2,))}
        for k in range(10)
    ]
    return Case(Detector(), images, targets, 0.1)


def language() -> Case:
    ids = torch.randint(1, 11, (10, 6))
    labels = ids.clone()
    labels[:, 0], labels[:4, 4:] = -100, -100
    options = {"task": "causal_lm", "space": EmbeddingSpace(per="token")}
    return Case(Tokens(), {"input_ids": ids}, labels, 0.4, 2.0, options)


CASES: dict[str, Callable[[], Case]] = {
    "text": lambda: text(EmbeddingSpace()),
    "ids": lambda: text(EmbeddingSpace(), mapping=False),
    "text per token": lambda: text(EmbeddingSpace(per="token")),
    "text relative": lambda: text(EmbeddingSpace(per="token", relative=True), eps=0.2),
    "latent": lambda: text(LatentSpace(["gru"], per="token"), eps=0.2),
    "latent relative": lambda: text(LatentSpace(["embed"], per="token", relative=True), eps=0.3),
    "regression": regression,
    "multilabel": multilabel,
    "segmentation": segmentation,
    "detection": detection,
    "language": language,
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    return CASES[request.param]()


def same(first: Report, second: Report, *, rounding: float = 0.0) -> None:
    """Two reports agree in what was measured."""
    for name in ("n", "worst_attack", "eps", "norm", "space"):
        assert getattr(first, name) == getattr(second, name), name
    for name in ("losses_clean", "losses_robust"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), rtol=rounding)
    for name in ("correct_clean", "correct_robust"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    for metrics in ("clean_metrics", "robust_metrics"):
        assert getattr(first, metrics) == pytest.approx(getattr(second, metrics), rel=rounding)
    for one, other in zip(first.attacks, second.attacks, strict=True):
        assert (one.broken, one.changed, one.attacked) == (
            other.broken,
            other.changed,
            other.attacked,
        )
        assert (one.forwards, one.backwards) == (other.forwards, other.backwards)
        assert one.max_norm == pytest.approx(other.max_norm, rel=1e-5)


def test_without_a_radius_nothing_changes(case: Case) -> None:
    """At eps 0 every figure is the clean one, and the attack counts."""
    report = case.report(eps=0.0)
    (result,) = report.attacks
    assert result.broken is None and result.changed == 0 and result.max_norm == 0
    # Batches under attack have other sizes, and matrix products round by their size.
    np.testing.assert_allclose(report.losses_robust, report.losses_clean, rtol=1e-6)
    assert report.robust_metrics == pytest.approx(report.clean_metrics, rel=1e-6)
    assert report.robust_accuracy == report.clean_accuracy


def test_an_attack_hurts_and_the_worst_case_is_its(case: Case) -> None:
    """Losses rise within the radius; an example is never better off in the worst case."""
    report = case.report(checks=True)
    (result,) = report.attacks
    assert result.broken is None and result.changed == result.attacked > 0
    assert 0.9 * case.eps < result.max_norm <= case.eps * (1 + TOLERANCE)
    assert (report.losses_robust >= report.losses_clean).all()
    assert report.robust_metrics["loss"] > report.clean_metrics["loss"]
    assert (result.forwards, result.backwards) == (8 * result.attacked, 8 * result.attacked)
    assert not [check for check in report.checks if "could not be made" in check.explanation]
    assert len(report.checks) >= 4


def test_the_batch_size_does_not_matter(case: Case) -> None:
    """One example at a time gives what all at once give, where the unit is no batch's."""
    if isinstance(space := (case.options or {}).get("space"), LatentSpace) and space.relative:
        pytest.skip("its unit is measured on the first batch")
    several = case.report(batch_size=10)
    for batch_size in (1, 3):
        same(case.report(batch_size=batch_size), several, rounding=1e-4)


def test_killed_and_resumed_is_uninterrupted(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the second batch, the same call ends with the same report."""
    whole, craft, calls = case.report(), attack_run._craft, 0

    def interrupted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return craft(*args)

    monkeypatch.setattr(attack_run, "_craft", interrupted)
    options = {"checkpoint": tmp_path, "checkpoint_every": 0}
    with pytest.raises(KeyboardInterrupt):
        case.report(**options)
    same(case.report(**options), whole)
    assert calls == 1 + -(-whole.attacks[0].attacked // 4)


TOGETHER = ("text relative", "detection", "segmentation", "latent relative")


def judged(names: tuple[str, ...]) -> str:
    """What every process judges."""
    reports = []
    for name in names:
        torch.manual_seed(0)
        reports.append(CASES[name]().report(batch_size=2).to_json())
    return "\n".join(reports)


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
def test_two_processes_report_as_one_does(tmp_path: Path) -> None:
    """Trees are dealt out like tensors, and both processes have one relative unit."""
    answers = together(tmp_path / "run", 2, judged, TOGETHER)
    for answer in answers:
        for text_, alone in zip(answer.splitlines(), judged(TOGETHER).splitlines(), strict=True):
            same(Report.from_json(text_), Report.from_json(alone))


def test_reports_survive_json_and_become_pages(case: Case, tmp_path: Path) -> None:
    """JSON gives the same report; page, Markdown and text name the space and the metrics."""
    report = case.report(checks=True)
    back = Report.from_json(report.to_json())
    assert back.to_json() == report.to_json() and str(back) == str(report)
    same(back, report)
    for suffix in ("html", "md", "txt"):
        page = report.save(tmp_path / f"report.{suffix}").read_text(encoding="utf-8")
        for name in report.clean_metrics:
            assert name == "loss" or name.replace("_", r"\_") in page or name in page
        assert report.space in page


# What is verified: the ball of each token, padding, the range


@dataclass(frozen=True)
class Pushed:
    """Moves every token that may be moved by the radius, and then does something else to some."""

    eps: float
    change: Callable[[Tensor], Tensor]
    norm: float = 2.0

    def __call__(self, model: Any, x: Any, y: Any, *, space: Any, **_: Any) -> Any:
        z = space.lift(model, x)
        delta = space.region(x, z).restrict(torch.ones_like(z))
        delta = delta / delta.norm(dim=-1, keepdim=True).clamp_min(1e-9)
        return space.insert(x, self.change(delta * self.eps * space.unit(model)))

    def with_eps(self, scale: float) -> Pushed:
        return replace(self, eps=self.eps * scale)


def scaled_token(factor: float) -> Callable[[Tensor], Tensor]:
    def change(delta: Tensor) -> Tensor:
        delta = delta.clone()
        delta[0, 1] *= factor
        return delta

    return change


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("per", ["example", "token"])
def test_every_tokens_ball_is_verified(per: Any, relative: bool) -> None:
    """Beyond the tolerance in one token an attack is broken, within it it is not."""
    torch.manual_seed(1)
    case = text(EmbeddingSpace(per=per, relative=relative))

    def broken(change: Callable[[Tensor], Tensor]) -> str | None:
        report = case.report(attacks={"pushed": Pushed(0.3, change)}, batch_size=20)
        return report.attacks[0].broken

    within, beyond = (scaled_token(1 + slack * TOLERANCE) for slack in (0.5, 2.0))
    if per == "token":
        assert broken(within) is None
        reason = broken(beyond)
        assert reason is not None and "left its ball on 1 of 9 examples" in reason
        assert "largest norm 0.3001, eps 0.3" in reason
    else:  # every token at the radius is more than the example may move
        assert "left its ball on 9 of 9 examples" in str(broken(within))


@pytest.mark.parametrize("space", [EmbeddingSpace(per="token"), LatentSpace(["gru"], per="token")])
def test_padding_is_verified(space: Any) -> None:
    """An attack that touches one padded token is broken, however little it moves it."""
    torch.manual_seed(1)
    case = text(space)

    def touch(delta: Tensor) -> Tensor:
        delta = delta.clone()
        delta[1, -1, 0] += 1e-6  # the second example has two tokens
        return delta

    report = case.report(attacks={"pushed": Pushed(0.3, touch)}, batch_size=20)
    assert "changed what the mask holds, on 1 of 9" in str(report.attacks[0].broken)
    kept = case.report(attacks={"pushed": Pushed(0.3, Tensor.clone)})
    assert kept.attacks[0].broken is None and kept.attacks[0].max_norm == pytest.approx(0.3)


def test_padding_of_images_is_verified() -> None:
    """Images of different sizes come back in their sizes, and none may grow beyond the range."""
    torch.manual_seed(0)
    case = detection()

    @dataclass(frozen=True)
    class Brightened:
        eps: float = 0.1
        norm: float = math.inf
        by: float = 0.05

        def __call__(self, model: Any, x: Any, y: Any, *, space: Any, **_: Any) -> Any:
            return space.insert(x, space.lift(model, x) + self.by)

        def with_eps(self, scale: float) -> Brightened:
            return replace(self, eps=self.eps * scale)

    def broken(by: float, **options: Any) -> str | None:
        report = case.report(attacks={"bright": Brightened(by=by)}, **options)
        return report.attacks[0].broken

    assert broken(0.05, bounds=None) is None
    assert "left its ball on 10 of 10" in str(broken(0.11, bounds=None))
    assert "left the range of valid inputs" in str(broken(0.05, bounds=(0, 1)))


def test_normalised_inputs_on_a_scale_of_255_are_inside_their_range() -> None:
    """Black is -8e-6 after normalisation and back; that is rounding and no violation."""
    torch.manual_seed(0)
    raw, mean, std = torch.randint(0, 256, (8, 3, 4, 4)).float(), (123.675, 116.28, 103.53), 58.395
    raw[:, :, 0] = 0.0
    x = (raw - torch.tensor(mean).view(3, 1, 1)) / std
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    options = {"normalization": (mean, std), "bounds": (0.0, 255.0), "progress": False}
    y, attack = module(x).argmax(1), PGD(eps=8.0, steps=3)
    report = artplus.evaluate(module, x, y, attacks=[attack], **options)
    assert report.attacks[0].broken is None
    assert report.attacks[0].max_norm == pytest.approx(8.0, rel=1e-4)


# Metrics in closed form


def attacked(case: Case, rows: Tensor) -> tuple[Any, Any]:
    """What PGD of :meth:`Case.report` makes of some examples, and their targets."""
    options = case.options or {}
    task = options.get("task", "auto")
    model = as_loss_model(case.module, options.get("criterion"), task)
    x, y = take(case.x, rows), take(case.y, rows)
    attack = PGD(eps=case.eps, norm=case.norm, steps=8, random_start=False)
    return attack(model, x, y, space=options.get("space", InputSpace(0.0, 1.0))), y


def test_regression_in_closed_form() -> None:
    """RMSE of the clean predictions, and of each example where PGD left it."""
    torch.manual_seed(0)
    case = regression()
    report = case.report(batch_size=20)
    x_adv, y = attacked(case, torch.arange(10))
    for metrics, x in ((report.clean_metrics, case.x), (report.robust_metrics, x_adv)):
        errors = (case.module(x).detach() - y).square().mean(1)
        assert metrics["rmse"] == pytest.approx(float(errors.mean().sqrt()), rel=1e-5)
        assert metrics["loss"] == pytest.approx(float(errors.mean()), rel=1e-5)
    assert set(report.clean_metrics) == {"loss", "rmse"} and report.clean_accuracy is None


def test_several_labels_in_closed_form() -> None:
    """Right is right in all labels; the share of single labels has a column of its own."""
    torch.manual_seed(0)
    case = multilabel()
    report = case.report(batch_size=20)
    right = ((case.module(case.x) > 0) == (case.y > 0.5)).detach()
    assert report.correct_clean.tolist() == right.all(1).tolist() and not right.all()
    assert report.clean_metrics["label_accuracy"] == pytest.approx(float(right.float().mean()))
    rows = right.all(1).nonzero().flatten()
    x_adv, y = attacked(case, rows)
    after = right.clone()
    after[rows] = (case.module(x_adv) > 0) == (y > 0.5)
    assert report.robust_metrics["label_accuracy"] == pytest.approx(float(after.float().mean()))
    assert report.correct_robust.tolist() == after.all(1).tolist()
    header, clean, *_ = str(report).splitlines()
    assert header.split()[:5] == ["attack", "accuracy", "95%", "interval", "label_accuracy"]


def test_segmentation_in_closed_form() -> None:
    """Pixel accuracy and mean IoU over all pixels that count, clean and under attack."""
    torch.manual_seed(0)
    case = segmentation()
    report = case.report(batch_size=20)
    x_adv, y = attacked(case, torch.arange(10))
    kept = y != IGNORED
    for metrics, x in ((report.clean_metrics, case.x), (report.robust_metrics, x_adv)):
        logits = case.module(x).detach()
        guess = logits.argmax(1)
        overlaps = []
        for k in range(4):
            both, either = (guess == k) & (y == k) & kept, ((guess == k) | (y == k)) & kept
            overlaps.append(int(both.sum()) / int(either.sum()))
        pixels = F.cross_entropy(logits, y, ignore_index=IGNORED, reduction="none")
        loss = pixels.flatten(1).sum(1) / kept.flatten(1).sum(1)
        assert metrics["pixel_accuracy"] == pytest.approx(float((guess == y)[kept].float().mean()))
        assert metrics["miou"] == pytest.approx(np.mean(overlaps), rel=1e-6)
        assert metrics["loss"] == pytest.approx(float(loss.mean()), rel=1e-5)
    assert report.clean_metrics["miou"] > report.robust_metrics["miou"]


def test_perplexity_in_closed_form() -> None:
    """Over the tokens that count, each predicted from those before it."""
    torch.manual_seed(0)
    case = language()
    report = case.report(batch_size=20)
    x_adv, y = attacked(case, torch.arange(10))
    kept = y[:, 1:] != -100
    for metrics, x in ((report.clean_metrics, case.x), (report.robust_metrics, x_adv)):
        logits = as_loss_model(case.module, task="causal_lm")(x).detach()[:, :-1]
        losses = F.cross_entropy(logits[kept], y[:, 1:][kept], reduction="none")
        right = logits[kept].argmax(1) == y[:, 1:][kept]
        assert metrics["perplexity"] == pytest.approx(math.exp(float(losses.mean())), rel=1e-5)
        assert metrics["token_accuracy"] == pytest.approx(float(right.float().mean()), rel=1e-6)
    assert report.robust_metrics["perplexity"] > report.clean_metrics["perplexity"]


def test_losses_of_a_detector_are_each_images_own() -> None:
    """The model's loss is of a batch; the report has that of each image alone, on its own."""
    torch.manual_seed(0)
    case = detection()
    report = case.report()
    alone = [
        sum(case.module([image], [target]).values())
        for image, target in zip(case.x, case.y, strict=True)
    ]
    assert report.losses_clean.tolist() == pytest.approx([float(loss) for loss in alone], rel=1e-5)
    assert len(set(report.losses_clean.tolist())) == 10 and report.clean_accuracy is None


def test_the_worst_case_is_by_loss_over_attacks() -> None:
    """Metrics in the worst case take each example from the attack that raised its loss most."""
    torch.manual_seed(0)
    case = segmentation()
    attacks = {
        "down": PGD(eps=0.05, steps=8, random_start=False),
        "noise": PGD(eps=0.1, steps=1, step_size=1e-3, random_start=True),
        "up": PGD(eps=0.1, steps=8, random_start=False),
    }
    report = case.report(attacks=attacks)
    losses = np.stack([result.losses for result in report.attacks])
    assert np.array_equal(report.losses_robust, np.maximum(losses.max(0), report.losses_clean))
    names = [list(attacks)[k] for k in losses.argmax(0)]
    assert list(report.worst_attack) == names
    assert report.robust_metrics["loss"] == pytest.approx(report.losses_robust.mean(), rel=1e-6)


# What a report says of the space

WORDS = {
    EmbeddingSpace(): "per example, embedding space",
    EmbeddingSpace(per="token"): "per token, embedding space",
    EmbeddingSpace(per="token", relative=True): (
        "per token, embedding space, relative to the mean row norm"
    ),
    LatentSpace(["gru"], per="token"): "per token, latent space of gru",
}


@pytest.mark.parametrize("space", WORDS, ids=str)
def test_the_radius_is_told_with_its_space_and_unit(space: Any, tmp_path: Path) -> None:
    """Beside eps every form says what it bounds and in which unit."""
    torch.manual_seed(0)
    report = text(space).report(eps=0.25)
    assert report.space == WORDS[space] == report.to_dict()["space"]
    assert f"within L2 ≤ 0.25 ({WORDS[space]})" in wording.headline(report)
    assert f"within L2 ≤ 0.25 ({WORDS[space]})" in report.summary
    assert f"ball, max norm: {WORDS[space]}." in " ".join(str(report).split())
    for suffix in ("html", "md"):
        page = report.save(tmp_path / f"r.{suffix}").read_text(encoding="utf-8")
        assert page.count(WORDS[space]) >= 2
    assert 0.24 < report.attacks[0].max_norm <= 0.25 * (1 + TOLERANCE)


def test_the_size_of_a_relative_unit_is_told() -> None:
    """The mean norm of the embedding's rows, since another model has another one."""
    torch.manual_seed(0)
    case = text(EmbeddingSpace(relative=True), eps=0.2)
    unit = float(case.module.embed.weight.detach().norm(dim=1).mean())
    notes = case.report().notes
    assert [f"in units of {unit:.4g}, the mean row norm" in note for note in notes] == [True]
    assert text(EmbeddingSpace()).report().notes == ()


def test_inputs_themselves_need_no_word() -> None:
    """A report on pixels is as it was, also one that an older version wrote."""
    torch.manual_seed(0)
    report = segmentation().report()
    assert report.space == "" and "ball, max norm" not in str(report)
    saved = report.to_dict()
    del saved["space"]
    assert Report.from_dict(saved).space == ""


def test_reports_in_different_spaces_do_not_compare() -> None:
    """The same radius means something else per token than per example."""
    torch.manual_seed(0)
    case = text(EmbeddingSpace())
    token = replace(case, options={"space": EmbeddingSpace(per="token")})
    first, second = case.report(), token.report()
    comparison = compare(first, second)
    assert comparison.worst.change is None
    notes = " ".join(comparison.notes)
    assert "not within the same ball" in notes and "per token, embedding space" in notes
    with pytest.raises(ConfigurationError, match="per token, embedding space"):
        over_seeds([first, second])


def test_analyses_of_predictions_take_text(tmp_path: Path) -> None:
    """Accuracy by class and confusions need no inputs; those that attack pixels are refused."""
    torch.manual_seed(0)
    case = text(EmbeddingSpace())
    groups = ["a", "b"] * 5
    analyses = [PerClass(groups=groups), "confusion"]
    report = case.report(analyses=analyses)
    by_class, confusion = report.sections
    rows = {row[0]: row[1:3] for row in by_class.blocks[1].rows}
    for name in "ab":
        members = np.array(groups) == name
        assert rows[name] == (5, pytest.approx(report.correct_clean[members].mean()))
    assert "could not" not in by_class.summary + confusion.summary
    assert report.save(tmp_path / "r.html").exists()
    with pytest.raises(ConfigurationError, match="does not support inputs of several columns"):
        case.report(analyses="calibration")


def test_weak_attacks_on_several_labels_are_noticed() -> None:
    """Nearly no steps leave examples that a longer attack on the model's own loss fools."""
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)), torch.rand(80, 6)
    y = (module(x) > 0).float()
    case = Case(module, x, y, 0.3, options={"criterion": nn.BCEWithLogitsLoss(), "checks": True})
    weak = PGD(eps=0.3, steps=1, step_size=1e-3, random_start=False)
    assert "more steps" in [check.name for check in case.report(attacks={"weak": weak}).reasons]
    strong = case.report(attacks={"strong": PGD(eps=0.3, steps=50)})
    names = [check.name for check in strong.checks]
    assert strong.verdict == "trusted" and {"more steps", "accuracy against radius"} <= set(names)


def test_an_output_that_is_no_perturbation_is_broken() -> None:
    """In a space of hidden states a tensor is no perturbation, and the report says so."""
    torch.manual_seed(0)
    case = text(EmbeddingSpace())

    @dataclass(frozen=True)
    class Bare:
        eps: float = 0.1
        norm: float = 2.0
        whole: bool = False

        def __call__(self, model: Any, x: Any, y: Any, *, space: Any, **_: Any) -> Any:
            z = space.lift(model, x)
            return Perturbed(x, z[:, 1:], space) if self.whole else z

        def with_eps(self, scale: float) -> Bare:
            return replace(self, eps=self.eps * scale)

    report = case.report(attacks={"bare": Bare(), "short": Bare(whole=True)})
    bare, short = report.attacks
    assert "returned Tensor instead of perturbed inputs" in str(bare.broken)
    assert "returned shape (4, 6, 6) for inputs of shape (4, 7, 6)" in str(short.broken)


def test_random_losses_of_a_detector_are_random_outputs() -> None:
    """A model that computes its own losses is asked for them twice, and they differ."""
    torch.manual_seed(0)
    case = detection()

    class Noisy(Detector):
        def losses(self, feature: Tensor, target: dict[str, Tensor]) -> dict[str, Tensor]:
            return super().losses(feature + 0.1 * torch.randn(4), target)

    report = replace(case, module=Noisy()).report(checks=True)
    assert "random outputs" in [check.name for check in report.reasons]
    assert "random outputs" not in [c.name for c in case.report(checks=True).reasons]
