"""The command line: it parses arguments, calls one function and prints what that returns."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from artplus import __version__
from artplus.commands.files import NotWritten
from artplus.commands.gate import GateClosed
from artplus.errors import ArtplusError, ArtplusWarning

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = ("losses", "tasks", "trainers", "attacks", "suites", "analyses")
OPTIMIZERS = ("adam", "adamw", "sgd")

GATE_CLOSED, WRONG, UNEXPECTED, INTERRUPTED, PIPE_CLOSED = 1, 2, 3, 130, 141

EXIT_CODES = """exit codes:
  0    done
  1    done, and the result is not good enough: --fail-under, and nothing else, gives this code
  2    arguments, files or data that cannot work, or a result that could not be written
  3    unexpected error, with its traceback
  130  interrupted
  141  nobody reads the messages any more
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the entry point of ``artplus``.

    Args:
        argv: Arguments after the program's name; ``None`` takes them from the shell.

    Returns:
        The exit code, as ``artplus --help`` lists them. A line on stderr says why it is not 0.
    """
    try:
        return _run(argv)
    except BrokenPipeError:  # stderr is closed too, so nothing can be said
        return PIPE_CLOSED
    finally:
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)


def _run(argv: Sequence[str] | None) -> int:
    parser = _parser()
    arguments = vars(parser.parse_args(argv))
    if "command" not in arguments:
        parser.exit(WRONG, parser.format_help())
    command: str = arguments.pop("command")
    debug: bool = arguments.pop("debug")
    try:
        with _plain_warnings():
            _show(_function(command)(**arguments))
    except GateClosed as gate:
        _show(gate.text)
        _say(f"failed: {gate}")
        return GATE_CLOSED
    except NotWritten as error:
        _show(error.text)
        _say(str(error))
        return WRONG
    except ArtplusError as error:
        if debug:
            traceback.print_exc()
        _say(str(error))
        return WRONG
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except Exception:  # anything else is a defect, of artplus or of the user's model
        traceback.print_exc()
        _say("unexpected error; if it is not in your own code, please report it")
        return UNEXPECTED
    return 0


def _function(command: str) -> Callable[..., str]:
    """What does the work of a command; imported late, so that ``--help`` answers at once."""
    name = "listing" if command == "list" else command
    function: Callable[..., str] = getattr(import_module(f"artplus.commands.{name}"), name)
    return function


def _show(text: str) -> None:
    """Print, with question marks for what the terminal's encoding lacks (λ, ∞).

    Nothing happens if nobody reads any more, as behind ``| head``.
    """
    if not text:  # all but the first of several processes
        return
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), flush=True)
    except BrokenPipeError:
        _silence(sys.stdout)


def _say(message: str) -> None:
    print(f"artplus: {message}", file=sys.stderr)


def _flush(stream: TextIO) -> None:
    """Write what is left, here rather than at Python's end, which complains about closed pipes."""
    try:
        stream.flush()
    except BrokenPipeError:
        _silence(stream)


def _silence(stream: TextIO) -> None:
    """Send the rest of a stream nowhere."""
    with suppress(OSError, ValueError):  # a stream that tests put there may have no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="artplus",
        description="Harden PyTorch models against adversarial examples and measure the effect.",
        epilog="'artplus COMMAND --help' explains a command. Start with: artplus demo "
        f"--output-dir demo\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"artplus {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_list(commands)
    _add_demo(commands)
    _add_harden(commands)
    _add_evaluate(commands)
    _add_compare(commands)
    return parser


def _command(commands: Any, name: str, text: str) -> Any:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=name)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_list(commands: Any) -> None:
    parser = _command(
        commands, "list", "list the losses, tasks, trainers, attacks, suites and analyses by name"
    )
    parser.add_argument("kind", nargs="?", choices=KINDS, help="only this kind")


def _add_demo(commands: Any) -> None:
    parser = _command(
        commands,
        "demo",
        "harden a small CNN on handwritten digits and compare it with plain training",
    )
    parser.add_argument(
        "--output-dir", type=Path, required=True, metavar="DIR", help="folder for the reports"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of everything random (default: %(default)s)"
    )
    _add_overwrite(parser)


def _add_harden(commands: Any) -> None:
    parser = _command(commands, "harden", "harden your model on your data")
    _add_model(parser)
    _add_data(parser, "--data", "training data")
    parser.add_argument("--validation", type=Path, metavar="NPZ", help="held-out data of the "
                        "same form, measured after each epoch; the best epoch is kept")  # fmt: skip
    parser.add_argument("--weights", type=Path, metavar="FILE", help="state_dict to start from")
    _add_ball(parser)
    parser.add_argument(
        "--loss", default="mix", help="objective; see 'artplus list losses' (default: %(default)s)"
    )
    parser.add_argument(
        "--lam", type=float, help="weight of its adversarial term (default: as published)"
    )
    parser.add_argument("--steps", type=int, help="steps of the PGD attack (default: 10)")
    parser.add_argument(
        "--epochs", type=int, default=20, help="passes over the data (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=128, help="examples per step (default: %(default)s)"
    )
    parser.add_argument(
        "--optimizer",
        choices=OPTIMIZERS,
        default="adam",
        help="optimizer of the weights (default: %(default)s)",
    )
    parser.add_argument(
        "--lr", type=float, default=1e-3, help="learning rate (default: %(default)s)"
    )
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16", "auto"), default="fp32",
        help="floating-point precision; auto measures which is fastest (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--micro-batch", type=int, metavar="N",
        help="largest number of examples in one forward and backward pass (default: the whole "
        "batch, halved if memory runs out)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of everything random (default: %(default)s)"
    )
    parser.add_argument(
        "--output-dir", type=Path, required=True, metavar="DIR",
        help="folder for weights.pt, history.json, history.png and config.json",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint-dir", type=Path, metavar="DIR",
        help="folder to save the run in after each epoch, and on Ctrl-C or SIGTERM",
    )  # fmt: skip
    parser.add_argument(
        "--resume", action="store_true", help="continue from the newest checkpoint in it"
    )
    _add_overwrite(parser)


def _add_evaluate(commands: Any) -> None:
    parser = _command(commands, "evaluate", "attack a model and report its robustness")
    _add_model(parser)
    parser.add_argument(
        "--weights", type=Path, required=True, metavar="FILE", help="state_dict, as harden "
        "writes it; only tensors are read",
    )  # fmt: skip
    _add_data(parser, "--data", "test data")
    parser.add_argument(
        "--attacks", default="quick",
        help="a suite, or attacks separated by commas; see 'artplus list' (default: %(default)s)",
    )  # fmt: skip
    _add_ball(parser)
    parser.add_argument(
        "--threat", type=_threat, action="append", default=[], metavar="EPS:NORM",
        help="radius and norm, such as 8/255:inf or 0.5:2, instead of --eps and --norm; may be "
        "repeated, and the worst case is then over all of them",
    )  # fmt: skip
    parser.add_argument(
        "--batch-size", type=int, default=128, help="examples at once (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of everything random (default: %(default)s)"
    )
    parser.add_argument(
        "--checks", choices=("auto", "on", "off"), default="auto",
        help="look for signs that the attacks failed; auto: for suites only (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--analyses", default="", metavar="NAMES",
        help="further analyses, separated by commas; see 'artplus list analyses'",
    )  # fmt: skip
    parser.add_argument(
        "--before", type=Path, metavar="FILE",
        help="state_dict before hardening, for analyses that compare, such as transfer",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR",
        help="folder to save progress in; the same command given again continues from there",
    )  # fmt: skip
    parser.add_argument(
        "--fail-under", type=float, metavar="SHARE",
        help="exit with 1 if robust accuracy is below this share, such as 0.45, or unknown, or if "
        "the evaluation is broken",
    )  # fmt: skip
    parser.add_argument(
        "--junit", type=Path, metavar="FILE",
        help="write the gates as JUnit .xml: robust accuracy, trusted evaluation, no broken "
        "attack; the exit code depends on --fail-under alone",
    )  # fmt: skip
    parser.add_argument(
        "--card", type=Path, metavar="FILE",
        help="write a model card for a model hub, as .md with metadata",
    )  # fmt: skip
    parser.add_argument("--dataset", metavar="NAME", help="name of the data set, for the card")
    parser.add_argument(
        "--output", type=Path, action="append", default=[], metavar="FILE",
        help="write the report, as .html, .json, .md, .txt or .png; may be repeated",
    )  # fmt: skip
    _add_overwrite(parser)


def _add_compare(commands: Any) -> None:
    parser = _command(commands, "compare", "compare two reports on the same examples")
    parser.add_argument(
        "before", type=Path, help="report that evaluate wrote as .json, for one or several threats"
    )
    parser.add_argument("after", type=Path, help="another one, for instance after hardening")
    parser.add_argument(
        "--output", type=Path, action="append", default=[], metavar="FILE",
        help="write the comparison, as .html, .md or .txt; may be repeated",
    )  # fmt: skip
    _add_overwrite(parser)


def _add_model(parser: Any) -> None:
    parser.add_argument(
        "--model", required=True, metavar="PACKAGE.MODULE:FUNCTION",
        help="function without arguments that returns the torch module",
    )  # fmt: skip


def _add_data(parser: Any, flag: str, what: str) -> None:
    parser.add_argument(
        flag, type=Path, required=True, metavar="NPZ",
        help=f"{what}: arrays x (n, *input) of floats and y (n,) of class numbers",
    )  # fmt: skip
    parser.add_argument(
        "--clip-min",
        type=float,
        default=0.0,
        help="smallest valid value of x (default: %(default)s)",
    )
    parser.add_argument(
        "--clip-max",
        type=float,
        default=1.0,
        help="largest valid value of x (default: %(default)s)",
    )


def _add_ball(parser: Any) -> None:
    parser.add_argument(
        "--eps", type=_radius,
        help="radius of the attack, in the units of x; fractions such as 8/255 work",
    )  # fmt: skip
    parser.add_argument(
        "--norm", type=float, choices=(float("inf"), 2.0, 1.0), default=float("inf"),
        help="norm of the radius (default: %(default)s)",
    )  # fmt: skip


def _add_overwrite(parser: Any) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def _radius(text: str) -> float:
    """A number, or a fraction such as ``8/255``."""
    try:
        return float(text) if "/" not in text else float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is no number such as 0.1 or 8/255") from None


def _threat(text: str) -> tuple[float, float]:
    """``EPS:NORM``, such as ``8/255:inf``."""
    eps, colon, norm = text.partition(":")
    if not colon or norm not in ("inf", "2", "1"):
        raise argparse.ArgumentTypeError(f"{text!r} is no EPS:NORM such as 8/255:inf or 0.5:2")
    return _radius(eps), float(norm)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Our warnings as one line without source code, and none of other libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", ArtplusWarning)
        warnings.showwarning = _show_warning
        yield


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"artplus: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
