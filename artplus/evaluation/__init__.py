"""The honest judge: attacks in, a verdict out that says how far to trust it."""

from artplus.evaluation.analyses import Analysis as Analysis
from artplus.evaluation.analyses import Subject as Subject
from artplus.evaluation.analyses import list_analyses as list_analyses
from artplus.evaluation.analyses import make_analysis as make_analysis
from artplus.evaluation.analyses import register_analysis as register_analysis
from artplus.evaluation.checks._base import Check as Check
from artplus.evaluation.intervals import wilson as wilson
from artplus.evaluation.judge import judge as judge
from artplus.evaluation.minimum_norm import MinimumNorm as MinimumNorm
from artplus.evaluation.named import Threat as Threat
from artplus.evaluation.named import list_attacks as list_attacks
from artplus.evaluation.named import make_attack as make_attack
from artplus.evaluation.named import register_attack as register_attack
from artplus.evaluation.paired import paired_bootstrap as paired_bootstrap
from artplus.evaluation.paired import paired_interval as paired_interval
from artplus.evaluation.report import Report as Report
from artplus.evaluation.result import AttackResult as AttackResult
from artplus.evaluation.result import Examples as Examples
from artplus.evaluation.section import Section as Section
from artplus.evaluation.seeds import OverSeeds as OverSeeds
from artplus.evaluation.seeds import over_seeds as over_seeds
from artplus.evaluation.suites import list_suites as list_suites
from artplus.evaluation.suites import make_suite as make_suite
from artplus.evaluation.suites import register_suite as register_suite
from artplus.evaluation.threats import ThreatReport as ThreatReport

__all__ = [
    "Analysis",
    "AttackResult",
    "Check",
    "Examples",
    "MinimumNorm",
    "OverSeeds",
    "Report",
    "Section",
    "Subject",
    "Threat",
    "ThreatReport",
    "judge",
    "list_analyses",
    "list_attacks",
    "list_suites",
    "make_analysis",
    "make_attack",
    "make_suite",
    "over_seeds",
    "paired_bootstrap",
    "paired_interval",
    "register_analysis",
    "register_attack",
    "register_suite",
    "wilson",
]
