"""A convolutional classifier of digits as images, hardened by three lines."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from artplus import AdversarialTrainerPlus, evaluate, wrap

x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32").reshape(-1, 1, 8, 8)  # one channel of 8 x 8 pixels in [0, 1]
x_train, x_test, y_train, y_test = train_test_split(x, y, stratify=y, random_state=0)

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
    nn.Flatten(), nn.Dropout(0.1), nn.Linear(512, 10),
)  # fmt: skip
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

# The three lines.
classifier = wrap(model, x_train, y_train, optimizer=optimizer, clip_values=(0.0, 1.0))
trainer = AdversarialTrainerPlus(classifier, loss="trades", eps=0.1, seed=0)
trainer.fit(x_train, y_train, batch_size=64, nb_epochs=6)

report = evaluate(classifier, x_test[:50], y_test[:50], attacks="quick", eps=0.1)
print(report)
