"""Callbacks: everything optional around the loop, one idea a file."""

from artplus.training.callbacks._base import Callback as Callback
from artplus.training.callbacks.augment import Augment as Augment
from artplus.training.callbacks.checkpoint import Checkpoint as Checkpoint
from artplus.training.callbacks.clean_floor import CleanFloor as CleanFloor
from artplus.training.callbacks.clipping import GradientClipping as GradientClipping
from artplus.training.callbacks.early_stopping import EarlyStopping as EarlyStopping
from artplus.training.callbacks.ema import EMA as EMA
from artplus.training.callbacks.guards import NonFinite as NonFinite
from artplus.training.callbacks.guards import StuckAtChance as StuckAtChance
from artplus.training.callbacks.keep_best import KeepBest as KeepBest
from artplus.training.callbacks.learning_rate import LearningRate as LearningRate
from artplus.training.callbacks.mlflow import MLflow as MLflow
from artplus.training.callbacks.patience_ramp import PatienceRamp as PatienceRamp
from artplus.training.callbacks.progress import Progress as Progress
from artplus.training.callbacks.steps_ramp import StepsRamp as StepsRamp
from artplus.training.callbacks.teacher import Teacher as Teacher
from artplus.training.callbacks.tensorboard import TensorBoard as TensorBoard
from artplus.training.callbacks.tracking import Tracker as Tracker
from artplus.training.callbacks.validation import Validation as Validation
from artplus.training.callbacks.validation import validation_attack as validation_attack
from artplus.training.callbacks.warm_start import WarmStart as WarmStart
from artplus.training.callbacks.warmup import EpsWarmup as EpsWarmup
from artplus.training.callbacks.warmup import default_warmup as default_warmup

__all__ = [
    "EMA",
    "Augment",
    "Callback",
    "Checkpoint",
    "CleanFloor",
    "EarlyStopping",
    "EpsWarmup",
    "GradientClipping",
    "KeepBest",
    "LearningRate",
    "MLflow",
    "NonFinite",
    "PatienceRamp",
    "Progress",
    "StepsRamp",
    "StuckAtChance",
    "Teacher",
    "TensorBoard",
    "Tracker",
    "Validation",
    "WarmStart",
    "default_warmup",
    "validation_attack",
]
