"""λ-weighted objectives, one method per file; importing this package registers them all."""

from artplus.losses._base import Context as Context
from artplus.losses._base import Inner as Inner
from artplus.losses._base import Objective as Objective
from artplus.losses._base import Terms as Terms
from artplus.losses._base import Weight as Weight
from artplus.losses._base import list_losses as list_losses
from artplus.losses._base import make_loss as make_loss
from artplus.losses._base import register_loss as register_loss
from artplus.losses.at import at as at
from artplus.losses.capo import capo as capo
from artplus.losses.cat import cat as cat
from artplus.losses.creat import creat as creat
from artplus.losses.fare import fare as fare
from artplus.losses.hinge import hinge as hinge
from artplus.losses.input_gradient import input_gradient as input_gradient
from artplus.losses.lat import lat as lat
from artplus.losses.logit_pairing import logit_pairing as logit_pairing
from artplus.losses.mart import mart as mart
from artplus.losses.mix import mix as mix
from artplus.losses.mse import mse as mse
from artplus.losses.r3f import r3f as r3f
from artplus.losses.rerouting import rerouting as rerouting
from artplus.losses.smart import smart as smart
from artplus.losses.trades import trades as trades
from artplus.losses.vat import vat as vat

__all__ = [
    "Context",
    "Inner",
    "Objective",
    "Terms",
    "Weight",
    "at",
    "capo",
    "cat",
    "creat",
    "fare",
    "hinge",
    "input_gradient",
    "lat",
    "list_losses",
    "logit_pairing",
    "make_loss",
    "mart",
    "mix",
    "mse",
    "r3f",
    "register_loss",
    "rerouting",
    "smart",
    "trades",
    "vat",
]
