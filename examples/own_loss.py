"""A loss of your own, registered from outside: then its name works wherever 'trades' does."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import artplus
from artplus.losses import Context, Objective, Terms


@artplus.register_loss("cosine_pairing")
def cosine_pairing(*, lam: float = 2.0) -> Objective:
    """Clean loss plus λ times one minus the cosine of clean and attacked logits."""

    def terms(ctx: Context) -> Terms:
        clean, adversarial = ctx.pair()
        angle = 1 - torch.cosine_similarity(clean, adversarial)  # (batch,), nothing is averaged
        return Terms(fixed=ctx.loss(clean), scaled=angle, clean=clean, adversarial=adversarial)

    return Objective("cosine_pairing", terms, lam=lam)


x, y = load_digits(return_X_y=True)
data = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

print(", ".join(artplus.list_losses()))
history = artplus.fit(model, data, optimizer, loss="cosine_pairing", eps=0.1, epochs=5, seed=0)
print(history)
