"""Harden an ART classifier and measure it: the code of the README, word for word."""

import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from artplus import AdversarialTrainerPlus, evaluate

x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32").reshape(-1, 1, 8, 8)  # pixels in [0, 1]
x_train, x_test, y_train, y_test = train_test_split(x, y, stratify=y, random_state=0)

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
    nn.Flatten(), nn.Linear(512, 10),
)  # fmt: skip
classifier = PyTorchClassifier(
    model=model,
    loss=nn.CrossEntropyLoss(),
    optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
    input_shape=(1, 8, 8),
    nb_classes=10,
    clip_values=(0.0, 1.0),
)
attack = ProjectedGradientDescent(classifier, eps=0.15, eps_step=0.04, max_iter=7)

trainer = AdversarialTrainerPlus(classifier, attack, loss="trades", lam=6.0, seed=0)
history = trainer.fit(x_train, y_train, batch_size=64, nb_epochs=20)

report = evaluate(classifier, x_test, y_test, attacks="quick", eps=0.15)
print(report)
