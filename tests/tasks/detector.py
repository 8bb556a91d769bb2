"""A detector of torchvision's form: lists of images and boxes in, a dictionary of losses out."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 3


class Detector(nn.Module):
    """One box and class for each image, compared with all true ones.

    In train mode it returns losses and in evaluation mode predictions.
    """

    def __init__(
        self,
        normalised_by: Literal["images", "boxes"] = "images",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.normalised_by = normalised_by
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4) if batch_norm else nn.GroupNorm(2, 4)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(4, 5 + CLASSES)

    def forward(self, images: Any, targets: Any = None) -> Any:
        rows = [
            self.dropout(self.norm(self.conv(image[None])).tanh().mean((2, 3))) for image in images
        ]
        out = self.head(torch.cat(rows))
        if not self.training:
            return [{"boxes": row[None, :4], "labels": row[5:].argmax()[None]} for row in out]
        boxes, classes = out.new_zeros(()), out.new_zeros(())
        for row, target in zip(out, targets, strict=True):
            boxes = boxes + (row[:4] - target["boxes"]).abs().sum()
            wanted = target["labels"]
            scores = row[5:].expand(len(wanted), CLASSES)
            classes = classes + F.cross_entropy(scores, wanted, reduction="sum")
        full = torch.tensor([float(len(target["labels"]) > 0) for target in targets])
        objects = F.binary_cross_entropy_with_logits(out[:, 4], full, reduction="sum")
        count = len(images)
        if self.normalised_by == "boxes":
            count = max(1, sum(len(target["labels"]) for target in targets))
        return {"boxes": boxes / count, "classes": classes / count, "objects": objects / count}


def scenes(n: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images of different sizes in [0, 1], with no to two boxes that their brightness tells."""
    generator = torch.Generator().manual_seed(0)
    images, targets = [], []
    for k in range(n):
        count, level = k % 3, k % 4 % CLASSES
        noise = torch.rand(1, 6 + k % 3, 8 - k % 2, generator=generator)
        images.append((level + noise) / CLASSES)
        boxes, labels = torch.full((count, 4), level / CLASSES), torch.full((count,), level)
        targets.append({"boxes": boxes, "labels": labels})
    return images, targets
