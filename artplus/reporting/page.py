"""What every page has in common: the template engine, colours, a policy that names its script."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from artplus.evaluation import wording
from artplus.reporting import palette, views


def render(template: str, **content: object) -> str:
    """The page, complete in itself.

    Everything that comes from outside, such as names of models, attacks and classes, is escaped,
    and no script runs but the page's own, which its policy names by hash.

    Args:
        template: Name of the file.
        content: What it shows.
    """
    script = _script()
    return (
        _environment()
        .get_template(template)
        .render(
            script=script,
            script_hash=b64encode(sha256(script.encode()).digest()).decode(),
            wording=wording,
            light=palette.light(),
            dark=palette.dark(),
            series=palette.SERIES,
            levels=palette.LEVELS,
            strengths=views.STRENGTHS,
            **content,
        )
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("artplus.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _script() -> Markup:
    return Markup("\n" + _environment().get_template("report.js").render())
