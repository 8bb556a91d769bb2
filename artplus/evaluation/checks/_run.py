"""All checks, and how they are run."""

from __future__ import annotations

import logging

from tqdm import tqdm

from artplus.evaluation.checks._base import Check, CheckFunction
from artplus.evaluation.checks._probe import Probe
from artplus.evaluation.checks.gradients import gradients_at_test_time, unavailable_gradients
from artplus.evaluation.checks.optimisation import (
    incomplete_optimisation,
    more_steps,
    silent_success,
)
from artplus.evaluation.checks.outputs import random_outputs, softmax_outputs, squeezed_logits
from artplus.evaluation.checks.stability import misleading_gradients, unstable_predictions
from artplus.evaluation.checks.strength import (
    attacks_worked,
    monotone_curve,
    right_without_attack,
    square_beats_white_box,
    unconstrained_attack,
    white_box_strongest,
)
from artplus.evaluation.checks.transfer import transfer_failure

_log = logging.getLogger(__name__)

CHECKS: tuple[CheckFunction, ...] = (
    attacks_worked,
    right_without_attack,
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


def run_checks(probe: Probe, *, progress: bool = False) -> tuple[Check, ...]:
    """The results of all checks that apply, in the order of :data:`CHECKS`."""
    bar = tqdm(CHECKS, desc="checks", unit="check", leave=False, disable=not progress)
    results = [_run(function, probe) for function in bar]
    return tuple(result for result in results if result is not None)


def _run(function: CheckFunction, probe: Probe) -> Check | None:
    try:
        return function(probe)
    except Exception as error:
        # The attacks may have run for hours, and a model may do anything: an exception in a check
        # is reported as its result. The traceback goes to the log.
        name = function.__name__.replace("_", " ")
        _log.info("check %s raised", name, exc_info=True)
        message = " ".join(str(error).split())[:300]
        return Check(
            name,
            "suspicious",
            None,
            f"This check could not be made: {type(error).__name__}: {message}",
            "See whether the model takes gradients and batches of any size.",
        )
