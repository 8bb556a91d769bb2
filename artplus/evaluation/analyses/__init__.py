"""What else there is to know about a judged model: one question a file, each answered in a section.

An analysis is ``(Subject) -> Section``. Adding one is a file here with ``@register_analysis``.
"""

from artplus.evaluation.analyses._base import Analysis as Analysis
from artplus.evaluation.analyses._base import Setting as Setting
from artplus.evaluation.analyses._base import Subject as Subject
from artplus.evaluation.analyses._base import list_analyses as list_analyses
from artplus.evaluation.analyses._base import make_analysis as make_analysis
from artplus.evaluation.analyses._base import register_analysis as register_analysis

__all__ = [
    "Analysis",
    "Setting",
    "Subject",
    "list_analyses",
    "make_analysis",
    "register_analysis",
]
