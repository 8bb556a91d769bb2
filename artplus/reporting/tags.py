"""Markup from Python: names and attributes in, everything from outside escaped."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape


def tag(name: str, content: str | Iterable[Markup] = "", /, **attributes: object) -> Markup:
    """An element; ``class_`` stands for ``class``, underscores for hyphens.

    Example:
        >>> str(tag("text", "a < b", class_="tick", data_tip='"'))
        '<text class="tick" data-tip="&#34;">a &lt; b</text>'
        >>> str(tag("line", x1=0))
        '<line x1="0"/>'
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
        if value is not None
    )
    inside = escape(content) if isinstance(content, str) else Markup("").join(content)
    if not inside:
        return Markup("<{}{}/>").format(name, written)
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, inside)
