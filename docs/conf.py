"""The site, built by ``make docs``: pages in Markdown (MyST), the reference from docstrings."""

from __future__ import annotations

import ast
import dataclasses
import re
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.inspect import object_description
from sphinx.util.logging import getLogger
from sphinx.writers.html5 import HTML5Translator

import artplus

project = "artplus"
author = copyright = "artplus contributors"
version = release = artplus.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
nitpicky = True  # a cross reference that leads nowhere is a warning, and `make docs` has none
nitpick_ignore_regex = [("py:.*", r"(art|collections|numpy|pathlib|torch)\..*")]

myst_heading_anchors = 3
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # signatures show the types
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
toc_object_entries_show_parents = "hide"
copybutton_prompt_text = ">>> "

html_theme = "furo"
html_title = f"artplus {release}"
html_copy_source = False
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]

logger = getLogger(__name__)


def shorten(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, args: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Make signatures readable: arrays by their short name, no default that is no Python."""
    for field in dataclasses.fields(obj) if args and dataclasses.is_dataclass(obj) else ():
        default = object_description(field.default)
        if "<" in default:  # a function or an object, by its address
            args = args.replace(f" = {default}", f" = {type(field.default).__name__}(...)")
    if args:
        args = args.replace("<factory>", "...")
        args = re.sub(
            r"~numpy\.ndarray\[tuple\[~typing\.Any, \.\.\.\], ~numpy\.dtype\[(.+?\]?)\]\]",
            r"~numpy.typing.NDArray[\1]",
            args,
        )
    return args, returns


def keep_prose(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep Napoleon from reading "Whether it holds: ..." as a type and a description."""
    if what in {"attribute", "data", "property"}:
        lines[:0] = ["..", ""]  # an empty comment: only the first line is looked at


def papers(text: str) -> dict[str, str]:
    """The papers that a text defines, as links by their keys."""
    entries = re.findall(r"^ *\.\. \[(\w+)\]((?:.+\n?)+?)(?=^ *\.\. \[|\n|\Z)", text, re.M)
    found = {key: re.search(r"https?://[^\s\"]+", entry) for key, entry in entries}
    return {key: f"`[{key}] <{url[0]}>`__" if url else f"[{key}]" for key, url in found.items()}


@cache
def all_papers() -> dict[str, str]:
    """Those of the whole package: a method may cite what its class or module defines."""
    sources = Path(artplus.__file__).parent.rglob("*.py")
    return papers("\n\n".join(path.read_text(encoding="utf-8") for path in sorted(sources)))


def link_papers(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Turn citations into links to the papers: a citation of reStructuredText is one per site."""
    text = "\n".join(lines)
    for key, link in (all_papers() | papers(text)).items():
        text = text.replace(f"[{key}]_", link)
    lines[:] = re.sub(r"^( *)\.\. (\[\w+\]) ", r"\1*  \2 ", text, flags=re.M).split("\n")


@cache
def defined() -> set[str]:
    """Names of the package's modules, and of everything that they define."""
    package = Path(artplus.__file__).parent
    names = set()
    for path in package.rglob("*.py"):
        names.add(path.with_suffix("").name if path.stem != "__init__" else path.parent.name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    return names


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.reference | nodes.TextElement | None:
    """Find an object by the end of its name: the reference has ``artplus.Report.verdict``.

    A type in a signature that has no entry stays plain text, and so does a name that the code has
    and the reference leaves out. Anything else is reported.
    """
    if node.get("refdomain") != "py":
        return None
    target, python = node["reftarget"], env.domains.python_domain
    end = target.rsplit(".", 1)[-1] if target.startswith("artplus.") else target
    places = {
        (entry.docname, entry.node_id): name
        for name, entry in python.objects.items()
        if f".{name}".endswith(f".{end}")
    }
    if len(places) == 1:
        (name,) = places.values()
        return python.resolve_xref(
            env, node["refdoc"], app.builder, node["reftype"], name, node, contnode
        )
    signature = not isinstance(contnode, nodes.literal)
    return contnode if places or signature or end.split(".")[-1] in defined() else None


def math(visitor: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Write an equation as MathML, which browsers draw without a script."""
    text = node.astext().replace(r"\arg\max", r"\argmax").replace(r"\arg\min", r"\argmin")
    block = isinstance(node, nodes.math_block)
    if block and "&=" in text:
        text = rf"\begin{{split}}{text}\end{{split}}"
    mathml = convert(text, display="block" if block else "inline")
    if "\\" in mathml:
        logger.warning("MathML has no form of this equation: %s", text, location=node)
    visitor.body.append(mathml)
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("autodoc-process-docstring", keep_prose, priority=400)  # before Napoleon, at 500
    app.connect("autodoc-process-docstring", link_papers, priority=450)
    app.connect("autodoc-process-signature", shorten)
    app.connect("missing-reference", resolve)
    app.add_html_math_renderer("mathml", (math, None), (math, None))
