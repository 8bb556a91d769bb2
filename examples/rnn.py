"""A recurrent classifier that reads digits row by row, hardened by the same three lines."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from artplus import AdversarialTrainerPlus, evaluate, wrap

x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32").reshape(-1, 8, 8)  # a sequence of eight rows of eight pixels
x_train, x_test, y_train, y_test = train_test_split(x, y, stratify=y, random_state=0)


class RowReader(nn.Module):
    """A GRU over the rows, ``(batch, 8, 8)`` to logits ``(batch, 10)``."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.read = nn.GRU(8, width, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.read(x)
        logits: Tensor = self.head(states[:, -1])
        return logits


torch.manual_seed(0)
model = RowReader()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

# The three lines.
classifier = wrap(model, x_train, y_train, optimizer=optimizer, clip_values=(0.0, 1.0))
trainer = AdversarialTrainerPlus(classifier, loss="trades", eps=0.1, seed=0)
trainer.fit(x_train, y_train, batch_size=64, nb_epochs=6)

report = evaluate(classifier, x_test[:50], y_test[:50], attacks="quick", eps=0.1)
print(report)
