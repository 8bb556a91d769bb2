"""What can go wrong, as types a caller may want to catch."""

from __future__ import annotations


class ArtplusError(Exception):
    """Base of every error that artplus raises on purpose."""


class ConfigurationError(ArtplusError, ValueError):
    """An argument has a value that cannot work, alone or beside the others."""


class DataError(ArtplusError, ValueError):
    """Inputs or labels have a wrong shape, dtype, range or content."""


class UnknownNameError(ArtplusError, ValueError):
    """A registered name was asked for that does not exist; the message lists those that do."""


class UnsupportedEstimatorError(ArtplusError, TypeError):
    """The estimator or model cannot be hardened as it is; the message says what to change."""


class TrainingDivergedError(ArtplusError, RuntimeError):
    """The training loss stopped being a number; the last sound weights were put back."""


class CheckpointError(ArtplusError, RuntimeError):
    """A checkpoint is missing, damaged, foreign or of another run; the message says which."""


class ArtplusWarning(UserWarning):
    """Base of every warning that artplus gives."""


class SlowPathWarning(ArtplusWarning):
    """The work is right but takes a slow path; the message names the fast one."""


class StuckAtChanceWarning(ArtplusWarning):
    """The model predicts no better than by guessing; the message says what usually helps."""


class ConversionWarning(ArtplusWarning):
    """An input was converted (dtype, label format) before use."""
