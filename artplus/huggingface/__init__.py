"""Adversarial training inside a Hugging Face ``Trainer``: one class in front of the user's own."""

from artplus.huggingface.mixin import AdversarialTrainerMixin

__all__ = ["AdversarialTrainerMixin"]
