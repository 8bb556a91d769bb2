"""What else there is to know about a judged model: one question a file, each answered in a section.

An analysis is ``(Subject) -> Section``. Adding one is a file here with ``@register_analysis``.
"""

from artplus.evaluation.analyses._base import Analysis as Analysis
from artplus.evaluation.analyses._base import Setting as Setting
from artplus.evaluation.analyses._base import Subject as Subject
from artplus.evaluation.analyses._base import list_analyses as list_analyses
from artplus.evaluation.analyses._base import make_analysis as make_analysis
from artplus.evaluation.analyses._base import register_analysis as register_analysis
from artplus.evaluation.analyses.calibration import Calibration as Calibration
from artplus.evaluation.analyses.confusion import Confusion as Confusion
from artplus.evaluation.analyses.corruptions import Corruptions as Corruptions
from artplus.evaluation.analyses.embedding import Embedding as Embedding
from artplus.evaluation.analyses.epsilon_curve import EpsilonCurve as EpsilonCurve
from artplus.evaluation.analyses.interval import IntervalBounds as IntervalBounds
from artplus.evaluation.analyses.minimum_norm import MinimumNorms as MinimumNorms
from artplus.evaluation.analyses.per_class import PerClass as PerClass
from artplus.evaluation.analyses.saliency import Saliency as Saliency
from artplus.evaluation.analyses.smoothing import Smoothing as Smoothing
from artplus.evaluation.analyses.spectrogram import Spectrogram as Spectrogram
from artplus.evaluation.analyses.surface import LossSurface as LossSurface
from artplus.evaluation.analyses.tokens import Tokens as Tokens
from artplus.evaluation.analyses.transfer import Transfer as Transfer
from artplus.evaluation.analyses.vulnerable import Vulnerable as Vulnerable
from artplus.evaluation.analyses.words import Words as Words

__all__ = [
    "Analysis",
    "Calibration",
    "Confusion",
    "Corruptions",
    "Embedding",
    "EpsilonCurve",
    "IntervalBounds",
    "LossSurface",
    "MinimumNorms",
    "PerClass",
    "Saliency",
    "Setting",
    "Smoothing",
    "Spectrogram",
    "Subject",
    "Tokens",
    "Transfer",
    "Vulnerable",
    "Words",
    "list_analyses",
    "make_analysis",
    "register_analysis",
]
