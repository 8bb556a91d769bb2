"""The same random numbers in every test and every example in a docstring, whatever ran before."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    """One seed for each."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
