"""Examples in docstrings draw the same random numbers at every run, as tests do."""

from __future__ import annotations

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def seeded_examples() -> None:
    """One seed for each."""
    np.random.seed(0)
    torch.manual_seed(0)
