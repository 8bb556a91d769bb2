"""Where a perturbation is added."""

from artplus.spaces.input import InputSpace as InputSpace

__all__ = ["InputSpace"]
