"""Attacks: frozen settings that turn a batch into adversarial examples, on the device."""

from artplus.attacks._base import Attack as Attack
from artplus.attacks._base import Budget as Budget
from artplus.attacks._base import Climb as Climb
from artplus.attacks._base import Inner as Inner
from artplus.attacks._base import Relative as Relative
from artplus.attacks._base import own_loss as own_loss
from artplus.attacks._call import BaseAttack as BaseAttack
from artplus.attacks._problem import Problem as Problem
from artplus.attacks.apgd import APGD as APGD
from artplus.attacks.chain import Chain as Chain
from artplus.attacks.classic import bim as bim
from artplus.attacks.classic import fgm as fgm
from artplus.attacks.classic import mim as mim
from artplus.attacks.combine import Average as Average
from artplus.attacks.combine import Combination as Combination
from artplus.attacks.combine import Cycle as Cycle
from artplus.attacks.combine import WorstOf as WorstOf
from artplus.attacks.combine import members as members
from artplus.attacks.fab import FAB as FAB
from artplus.attacks.fmn import FMN as FMN
from artplus.attacks.microbatched import Microbatched as Microbatched
from artplus.attacks.noise import Noise as Noise
from artplus.attacks.pgd import PGD as PGD
from artplus.attacks.power_iteration import PowerIteration as PowerIteration
from artplus.attacks.smart import SMARTAttack as SMARTAttack
from artplus.attacks.square import Square as Square

__all__ = [
    "APGD",
    "FAB",
    "FMN",
    "PGD",
    "Attack",
    "Average",
    "BaseAttack",
    "Budget",
    "Climb",
    "Combination",
    "Cycle",
    "Inner",
    "Relative",
    "Chain",
    "Microbatched",
    "Noise",
    "PowerIteration",
    "Problem",
    "SMARTAttack",
    "Square",
    "WorstOf",
    "bim",
    "fgm",
    "members",
    "mim",
    "own_loss",
]
