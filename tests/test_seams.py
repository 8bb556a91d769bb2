"""Only trees, tasks, spaces and the bridge to ART look inside inputs, targets and predictions.

What does so elsewhere works for one tensor of floats and one label an example, and fails or, worse,
is wrong in silence for token ids with a mask, lists of images or maps of labels.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import artplus

PACKAGE = Path(artplus.__file__).parent

VALUES = {
    *("x", "x_adv", "y", "inputs", "targets", "predictions", "logits"),
    *("batch.x", "batch.y", "ctx.x", "ctx.x_adv", "ctx.y", "problem.inputs", "problem.targets"),
}
"""What holds a batch's inputs, targets or predictions."""

LOOKS = {"shape", "ndim", "flatten", "view", "reshape", "argmax"}

INSIDE = (
    *("tree.py", "tasks/", "spaces/", "bridge/"),
    "training/columns.py",  # makes trees of what loaders give
    *("functional.py", "criterion.py", "geometry.py"),  # by definition about tensors
    *("evaluation/analyses/", "reporting/"),  # of plain inputs only, which they check first
)
"""Where it is allowed."""

TENSORS = "a tensor by definition"
CLASSES = "class logits, which it asks for first"
REASONS = {
    "_checks.py": TENSORS,
    "mapped.py": TENSORS,
    "convolution.py": TENSORS,
    "interval_bounds.py": TENSORS,
    "evaluation/images.py": TENSORS,
    "training/augmentation.py": "images alone; anything else is refused",
    "training/callbacks/augment.py": "images alone; anything else is refused",
    "commands/evaluate.py": "arrays from files",
    "attacks/_goal.py": CLASSES,
    "attacks/fab.py": CLASSES,
    "attacks/square.py": CLASSES,
    "evaluation/checks/outputs.py": CLASSES,
    "evaluation/checks/strength.py": "class numbers of a report",
    "evaluation/threats.py": "class numbers of a report",
    "evaluation/checks/_probe.py": "a radius for each example, of plain inputs",
    "evaluation/settings.py": "a radius for each feature, of plain inputs",
    "evaluation/validation.py": "what users give, before it is a tree",
}
"""Files that may all the same, and why."""


def looks(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every look inside."""
    for node in ast.walk(ast.parse(source)):
        value: ast.expr | None = None
        if isinstance(node, ast.Attribute) and node.attr in LOOKS:
            value = node.value
        elif isinstance(node, ast.Subscript):
            value = node.value
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "len" and node.args:
            value = node.args[0]
        if value is not None and ast.unparse(value) in VALUES:
            yield node.lineno, ast.unparse(node)


def test_nothing_else_looks_inside():
    """Each exception has its reason, and none is left over."""
    violations, used = [], set()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith(INSIDE):
            continue
        for line, text in looks(path.read_text(encoding="utf-8")):
            used.add(name)
            if name not in REASONS:
                violations.append(f"{name}:{line}: {text}")
    assert not violations, (
        "inputs, targets and predictions are trees: use artplus.tree (size, take, leaves), or let "
        "the task or the space do it\n" + "\n".join(violations)
    )
    assert used == REASONS.keys(), "an exception that is no longer needed"


@pytest.mark.parametrize(
    "line",
    [
        "n = len(x)",
        "n = len(batch.x) + len(y)",
        "part = batch.y[rows]",
        "shape = tuple(x_adv.shape[1:])",
        "wrong = predictions.argmax(1) != y",
        "def craft(x):\n    def inner():\n        return x.flatten(1)\n    return inner",
        "rows = [logits[k] for k in range(3)]",
        "z = inputs.view(-1)",
        "assert targets.ndim == 1",
    ],
)
def test_a_planted_look_is_found(line):
    """Wherever it stands in the tree of syntax."""
    assert list(looks(line))


@pytest.mark.parametrize(
    "line",
    [
        "n = size(x)",
        "part = take(y, rows)",
        "shape = z.shape",
        "n = len(losses)",
        "x = model(inputs)",
        "table['x'] = 1",
        "xs[0].shape",
        "batch.index[rows]",
        "device = x.device",
    ],
)
def test_what_asks_the_tree_is_no_look(line):
    """Nor is anything about other variables."""
    assert not list(looks(line))
