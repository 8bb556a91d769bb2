"""Checks of whether robust accuracy can be believed: each a function of a probe.

A check returns a :class:`~artplus.evaluation.check.Check`, or ``None`` where it has no meaning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from tqdm import tqdm

from artplus.evaluation.check import Check
from artplus.evaluation.indicators.gradients import gradients_at_test_time, unavailable_gradients
from artplus.evaluation.indicators.optimisation import (
    incomplete_optimisation,
    more_steps,
    silent_success,
)
from artplus.evaluation.indicators.outputs import random_outputs, softmax_outputs, squeezed_logits
from artplus.evaluation.indicators.stability import misleading_gradients, unstable_predictions
from artplus.evaluation.indicators.strength import (
    attacks_worked,
    monotone_curve,
    square_beats_white_box,
    unconstrained_attack,
    white_box_strongest,
)
from artplus.evaluation.indicators.transfer import transfer_failure
from artplus.evaluation.probe import Probe

_log = logging.getLogger(__name__)

Indicator = Callable[[Probe], Check | None]

INDICATORS: tuple[Indicator, ...] = (
    attacks_worked,
    unavailable_gradients,
    gradients_at_test_time,
    random_outputs,
    softmax_outputs,
    squeezed_logits,
    unstable_predictions,
    misleading_gradients,
    silent_success,
    incomplete_optimisation,
    more_steps,
    square_beats_white_box,
    white_box_strongest,
    unconstrained_attack,
    monotone_curve,
    transfer_failure,
)

__all__ = ["INDICATORS", "Indicator", "check"]


def check(probe: Probe, *, progress: bool = False) -> tuple[Check, ...]:
    """What every indicator that applies finds, in the order of :data:`INDICATORS`."""
    bar = tqdm(INDICATORS, desc="checks", unit="check", leave=False, disable=not progress)
    found = (_asked(indicator, probe) for indicator in bar)
    return tuple(finding for finding in found if finding is not None)


def _asked(indicator: Indicator, probe: Probe) -> Check | None:
    try:
        return indicator(probe)
    except Exception as error:
        # The attacks may have run for hours, and a model may do anything: what a check stumbles
        # over is a finding, not the end. The traceback goes to the log.
        name = indicator.__name__.replace("_", " ")
        _log.info("check %s raised", name, exc_info=True)
        message = " ".join(str(error).split())[:300]
        return Check(
            name,
            "suspicious",
            None,
            f"This check could not be made: {type(error).__name__}: {message}",
            "See whether the model takes gradients and batches of any size.",
        )
