"""Hardening: methods, steps, the one loop and its callbacks."""

from artplus.training.augmentation import random_crop as random_crop
from artplus.training.augmentation import random_flip as random_flip
from artplus.training.callbacks import Callback as Callback
from artplus.training.checkpoint import Resume as Resume
from artplus.training.fit import Run as Run
from artplus.training.fit import fit as fit
from artplus.training.fit import train as train
from artplus.training.history import History as History
from artplus.training.method import Method as Method
from artplus.training.method import make_method as make_method
from artplus.training.state import State as State
from artplus.training.tables import columns as columns
from artplus.training.tables import pixels as pixels

__all__ = [
    "Callback",
    "History",
    "Method",
    "Resume",
    "Run",
    "State",
    "columns",
    "fit",
    "make_method",
    "pixels",
    "random_crop",
    "random_flip",
    "train",
]
