"""How the weights move on one batch."""

from artplus.training.steps.standard import Step as Step
from artplus.training.steps.standard import standard as standard

__all__ = ["Step", "standard"]
