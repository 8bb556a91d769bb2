"""What happens beside the loop, one idea a file."""

from artplus.training.callbacks._base import Callback as Callback
from artplus.training.callbacks.checkpoint import Checkpoint as Checkpoint
from artplus.training.callbacks.clipping import GradientClipping as GradientClipping
from artplus.training.callbacks.early_stopping import EarlyStopping as EarlyStopping
from artplus.training.callbacks.ema import EMA as EMA
from artplus.training.callbacks.guards import NonFinite as NonFinite
from artplus.training.callbacks.guards import StuckAtChance as StuckAtChance
from artplus.training.callbacks.keep_best import KeepBest as KeepBest
from artplus.training.callbacks.learning_rate import LearningRate as LearningRate
from artplus.training.callbacks.patience_ramp import PatienceRamp as PatienceRamp
from artplus.training.callbacks.progress import Progress as Progress
from artplus.training.callbacks.steps_ramp import StepsRamp as StepsRamp
from artplus.training.callbacks.validation import Validation as Validation
from artplus.training.callbacks.validation import validation_attack as validation_attack
from artplus.training.callbacks.warm_start import WarmStart as WarmStart
from artplus.training.callbacks.warmup import EpsWarmup as EpsWarmup
from artplus.training.callbacks.warmup import default_warmup as default_warmup

__all__ = [
    "EMA",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "EpsWarmup",
    "GradientClipping",
    "KeepBest",
    "LearningRate",
    "NonFinite",
    "PatienceRamp",
    "Progress",
    "StepsRamp",
    "StuckAtChance",
    "Validation",
    "WarmStart",
    "default_warmup",
    "validation_attack",
]
