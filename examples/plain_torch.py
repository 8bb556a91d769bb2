"""Plain PyTorch: your model, your loader and your optimizer, without an ART estimator."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import artplus

x, y = load_digits(return_X_y=True)
images = torch.tensor(x / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)  # pixels in [0, 1]
labels = torch.tensor(y)
train = DataLoader(TensorDataset(images[:1400], labels[:1400]), batch_size=64, shuffle=True)
held_out = (images[1400:1500], labels[1400:1500])

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
    nn.Flatten(), nn.Linear(512, 10),
)  # fmt: skip
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)

history = artplus.fit(
    model, train, optimizer, loss="mart", eps=0.15, epochs=6, validation=held_out, seed=0
)
print(history)
