"""A gate for continuous integration: robust accuracy must be known, high enough and sound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from artplus.errors import ConfigurationError

if TYPE_CHECKING:
    from artplus.evaluation import Report
    from artplus.reporting.junit import Case


class GateClosed(Exception):
    """The command did its work, and the result is not good enough.

    Attributes:
        text: What the command has to show all the same.
    """

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(reason)
        self.text = text


def check_threshold(fail_under: float | None) -> None:
    """Refuse a threshold that is not a share, before any work is done.

    Raises:
        ConfigurationError: if it is outside [0, 1].
    """
    if fail_under is not None and not 0 <= fail_under <= 1:
        raise ConfigurationError(
            f"--fail-under is a share in [0, 1], got {fail_under:g}; 45 % is 0.45"
        )


def closed(report: Report, fail_under: float) -> str | None:
    """The reason why a report does not pass; ``None`` if it does.

    A broken evaluation does not pass, because its numbers mean nothing.
    """
    from artplus.evaluation import wording  # heavy; the command line imports this file for --help

    share = report.robust_accuracy
    if report.verdict == "broken":
        names = ", ".join(f.name for f in report.reasons if f.verdict == "broken")
        return f"the evaluation is broken ({names}), so its number says nothing"
    if share is None:
        why = "no attack worked" if report.clean_accuracy is not None else "this is a regression"
        return f"robust accuracy is unknown ({why}), not at least {wording.percent(fail_under)}"
    if share < fail_under:
        # Two decimals, so that 44.96 % under 45 % does not read 45.0 % under 45.0 %.
        return f"robust accuracy {100 * share:.2f}% is under {100 * fail_under:.2f}%"
    return None


def cases(report: Report, fail_under: float | None) -> tuple[Case, ...]:
    """The gates as test cases: robust accuracy (if there is a threshold), trust, no broken attack.

    They are stricter than the exit code: a suspicious evaluation fails too.
    """
    from artplus.evaluation import wording  # heavy, as above
    from artplus.reporting.junit import Case

    gates = []
    if fail_under is not None:
        name = f"robust accuracy is at least {100 * fail_under:.2f}%"
        gates.append(Case(name, failure=closed(report, fail_under)))
    trusted = "the evaluation is trusted"
    if report.verdict is None:
        gates.append(Case(trusted, skipped="no checks were run; --checks on runs them"))
    else:
        doubt = None if report.verdict == "trusted" else wording.trust(report)
        gates.append(Case(trusted, failure=doubt))
    broken = "; ".join(f"{result.name}: {result.broken}" for result in report.broken)
    gates.append(Case("no attack is broken", failure=broken or None))
    return tuple(gates)
