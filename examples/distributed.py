"""One script for one process or many: plain python, torchrun and accelerate launch run it alike.

python examples/distributed.py
torchrun --nproc_per_node 2 examples/distributed.py
accelerate launch --multi_gpu --num_processes 2 examples/distributed.py
"""

import os

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import artplus
from artplus.distributed import is_main

x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32").reshape(-1, 1, 8, 8)  # pixels in [0, 1]
x_train, x_test, y_train, y_test = train_test_split(x, y, stratify=y, random_state=0)

# Each process has the GPU of its number, where there are any; the launcher says which number.
gpu = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
device = torch.device(gpu if torch.cuda.is_available() else "cpu")
if device.type == "cuda":
    torch.cuda.set_device(device)

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
    nn.Flatten(), nn.Linear(512, 10),
).to(device)  # fmt: skip
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

# All processes give all the data: each takes its part of every batch of 64, and of the evaluation.
history = artplus.fit(
    model, (x_train, y_train), optimizer, loss="trades", eps=0.15, epochs=4, batch_size=64,
    seed=0,
)  # fmt: skip
report = artplus.evaluate(
    model, x_test, y_test, attacks=["apgd", "apgd_t"], eps=0.15, clip_values=(0.0, 1.0)
)
if is_main():  # every process has the same report
    print(history)
    print(report)
