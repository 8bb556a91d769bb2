"""The networks that are raced, from a tabular perceptron to a small vision transformer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from tests.benchmarks import nets
from tests.benchmarks.contenders import Task

TASKS = {
    "tabular_mlp": Task(nets.tabular_mlp, (30,), classes=2),
    "digits_cnn": Task(nets.digits_cnn, (1, 8, 8)),
    "mnist_net": Task(nets.mnist_net, (1, 28, 28)),
    "cnn28": Task(nets.cnn28, (1, 28, 28)),
    "preact_resnet18": Task(partial(nets.PreActResNet, 16, 2), (3, 32, 32), batch=64),
    "vit": Task(nets.ViT, (3, 32, 32), batch=64),
}

WORDS = {
    "tabular_mlp": "multilayer perceptron, 30 features",
    "digits_cnn": "CNN, 1×8×8",
    "mnist_net": "CNN of Wong and Kolter, 1×28×28",
    "cnn28": "CNN with BatchNorm, 1×28×28",
    "preact_resnet18": "pre-activation ResNet-18, a quarter as wide, 3×32×32",
    "vit": "vision transformer, 4 blocks of 64, 3×32×32",
}

STEPS = {k: replace(TASKS["mnist_net"], steps=k) for k in (1, 2, 3, 5, 7, 10, 15, 20)}
"""By the attack's steps."""

BATCH = {n: replace(TASKS["mnist_net"], batch=n) for n in (16, 32, 64, 128, 256, 512)}
"""By the batch size."""

SIZE = {
    n: Task(partial(nets.PreActResNet, 8, 1), (3, n, n), batch=32, steps=5)
    for n in (16, 32, 48, 64)
}
"""By the height and width of the images."""
