"""``artplus demo``: its split, its plain objective, and the story it tells, cut short."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import artplus
from artplus.cli import main
from artplus.commands import demo as story
from artplus.commands import files
from artplus.errors import ConfigurationError
from artplus.evaluation import Report


def test_split_is_a_partition():
    """Every digit is in exactly one part, in [0, 1], with each class in its share."""
    data = story.digits()
    parts = [data.x_train, data.x_val, data.x_test]
    assert [len(part) for part in parts] == [1078, 359, 360]
    rows = np.concatenate(parts).reshape(1797, -1)
    assert len(np.unique(rows, axis=0)) == 1797
    assert rows.min() == 0 and rows.max() == 1 and rows.dtype == np.float32
    for y in (data.y_train, data.y_val, data.y_test):
        shares = np.bincount(y) / len(y)
        assert shares.min() > 0.08 and shares.max() < 0.12


def test_seed_decides_the_split():
    """One seed, one split; another seed, another."""
    a, b, c = (story.digits(seed).y_test for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_plain_objective_is_plain_training():
    """Training by the demo's objective moves the weights as a bare loop does, bit for bit."""
    x, y = torch.rand(32, 4), torch.randint(3, (32,))
    ours, bare = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    bare.load_state_dict(ours.state_dict())
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (ours, bare)]
    artplus.fit(ours, [(x, y)] * 3, optimizers[0], loss=story.plain(), epochs=1, progress=False)
    for _ in range(3):
        optimizers[1].zero_grad()
        torch.nn.functional.cross_entropy(bare(x), y).backward()
        optimizers[1].step()
    assert torch.equal(ours.weight, bare.weight)


def test_demo_hardens(tmp_path, monkeypatch, capsys):
    """The whole story, cut short: robust accuracy rises, everything promised is written."""
    monkeypatch.setattr(story, "PLAIN_EPOCHS", 4)
    monkeypatch.setattr(story, "HARD_EPOCHS", 6)
    whole = story.digits()
    short = story.Digits(
        whole.x_train, whole.y_train, whole.x_val[:50], whole.y_val[:50],
        whole.x_test[:60], whole.y_test[:60],
    )  # fmt: skip
    monkeypatch.setattr(story, "digits", lambda seed: short)
    threads = torch.get_num_threads()
    folder = tmp_path / "demo"

    assert main(["demo", "--output-dir", str(folder)]) == 0

    shown = capsys.readouterr()
    for word in ("clean", "fgsm", "pgd", "apgd", "square", "worst case", "before", "after"):
        assert word in shown.out
    assert [f"{k}/4" in shown.err for k in (1, 2, 3, 4)] == [True] * 4
    assert {path.name for path in folder.iterdir()} == set(story.OUTPUTS)
    before, after = (
        Report.from_json((folder / name).read_text()) for name in ("before.json", "report.json")
    )
    assert before.data_hash == after.data_hash
    assert after.robust_accuracy > before.robust_accuracy + 0.1
    assert "data:image" in (folder / "report.html").read_text()
    assert torch.get_num_threads() == threads

    # The weights and the data that it writes are what its report is about.
    model = story.cnn()
    files.load_weights(model, folder / "weights.pt")
    x, y = files.arrays(folder / "test.npz")
    with torch.no_grad():
        right = (model(torch.from_numpy(x)).argmax(1).numpy() == y).mean()
    assert right == pytest.approx(after.clean_accuracy)


def test_demo_keeps_what_is_there(tmp_path):
    """A second run into the same folder stops before any training, unless told to replace."""
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(ConfigurationError, match="already holds report.html"):
        story.demo(output_dir=tmp_path)
    assert (tmp_path / "report.html").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
