"""Your own training loop: only the line that computes the loss changes."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from artplus import make_method

x, y = load_digits(return_X_y=True)
images = torch.tensor(x / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)  # pixels in [0, 1]
loader = DataLoader(TensorDataset(images, torch.tensor(y)), batch_size=64, shuffle=True)

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(256, 10),
)  # fmt: skip
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
method = make_method("trades", eps=0.1, bounds=(0.0, 1.0))  # attacked pixels stay in [0, 1]

means = []
for epoch in range(4):
    total = 0.0
    for inputs, targets in loader:
        loss = method.loss(model, inputs, targets)  # was: cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(inputs)
    means.append(total / len(images))
    print(f"epoch {epoch + 1}: loss {means[-1]:.3f}")
