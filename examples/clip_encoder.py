"""Harden the image encoder of a small CLIP model without labels (FARE), judged by its texts."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from transformers import CLIPConfig, CLIPModel

import artplus
from artplus.encoders import ImageFeatures, ZeroShot
from artplus.tasks import features_of
from artplus.trainers import make_recipe

x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32").reshape(-1, 1, 8, 8)  # pixels in [0, 1]
x_train, x_test, y_train, y_test = map(
    torch.as_tensor, train_test_split(x, y, stratify=y, random_state=0)
)

width = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
width |= {"num_attention_heads": 4}
vision = {**width, "image_size": 8, "patch_size": 2, "num_channels": 1}
words = {**width, "vocab_size": 13, "max_position_embeddings": 3}
words |= {"bos_token_id": 10, "pad_token_id": 11, "eos_token_id": 12}
torch.manual_seed(0)
clip = CLIPModel(CLIPConfig(text_config=words, vision_config=vision, projection_dim=32))
captions = torch.tensor([[10, digit, 12] for digit in range(10)])
encoder = ImageFeatures(clip)

# CLIP.from_pretrained(...) comes with this done: images are near the captions that fit them.
optimizer = torch.optim.AdamW(clip.parameters(), lr=2e-3)
for _ in range(12):
    for rows in torch.randperm(len(x_train)).split(64):
        texts = features_of(clip.get_text_features(captions))
        logits = 20 * F.normalize(encoder(x_train[rows])) @ F.normalize(texts).T
        F.cross_entropy(logits, y_train[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()

texts = features_of(clip.get_text_features(captions)).detach()
classifier = ZeroShot(encoder, texts)
threat: dict[str, Any] = {"attacks": ["apgd"], "eps": 0.1, "bounds": (0, 1)}
before = artplus.evaluate(classifier, x_test[:150], y_test[:150], progress=False, **threat)

# Images alone: features under attack stay those of the encoder as it was.
recipe = make_recipe("fare", eps=0.1, steps=4, reference=copy.deepcopy(encoder))
optimizer = torch.optim.AdamW(clip.vision_model.parameters(), lr=1e-3)
history = artplus.fit(
    encoder, x_train, optimizer, **recipe.options(), bounds=(0, 1), epochs=8, batch_size=64,
    seed=0, progress=False,
)  # fmt: skip

report = artplus.evaluate(classifier, x_test[:150], y_test[:150], progress=False, **threat)
for when, result in (("before", before), ("after", report)):
    print(f"{when}: clean {result.clean_accuracy:.1%}, robust {result.robust_accuracy:.1%}")
