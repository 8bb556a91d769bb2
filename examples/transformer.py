"""A Transformer over patches of digits, hardened by the same three lines."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from artplus import AdversarialTrainerPlus, evaluate, wrap

x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32").reshape(-1, 1, 8, 8)  # one channel of 8 x 8 pixels in [0, 1]
x_train, x_test, y_train, y_test = train_test_split(x, y, stratify=y, random_state=0)


class TinyViT(nn.Module):
    """Sixteen patches of 2 x 2 pixels, one block of attention: images to logits."""

    def __init__(self, width: int = 32, patches: int = 16) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, kernel_size=2, stride=2)
        self.place = nn.Parameter(0.02 * torch.randn(1, patches, width))
        block = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=64, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, 1, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.place
        logits: Tensor = self.head(self.blocks(tokens).mean(1))
        return logits


torch.manual_seed(0)
model = TinyViT()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

# The three lines.
classifier = wrap(model, x_train, y_train, optimizer=optimizer, clip_values=(0.0, 1.0))
trainer = AdversarialTrainerPlus(classifier, loss="trades", eps=0.1, seed=0)
trainer.fit(x_train, y_train, batch_size=64, nb_epochs=6)

report = evaluate(classifier, x_test[:50], y_test[:50], attacks="quick", eps=0.1)
print(report)
