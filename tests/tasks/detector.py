"""A detector of torchvision's form: lists of images and boxes in, a dictionary of losses out."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 3


class Detector(nn.Module):
    """One box and class for each image, compared with all true ones.

    In train mode it returns losses and in evaluation mode predictions. Dropout and batch statistics
    show whether evaluation mode is kept where it matters.
    """

    def __init__(self, normalised_by: Literal["images", "boxes"] = "images", dropout: float = 0.0):
        super().__init__()
        self.normalised_by = normalised_by
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
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


def scenes(n: int, *, seed: int = 0) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images of different sizes in [0, 1], with no, one or two boxes."""
    generator = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for k in range(n):
        images.append(torch.rand(1, 6 + k % 3, 8 - k % 2, generator=generator))
        count = k % 3
        targets.append({
            "boxes": torch.rand(count, 4, generator=generator),
            "labels": torch.randint(CLASSES, (count,), generator=generator),
        })  # fmt: skip
    return images, targets
