"""A document as one HTML page: a single file that loads nothing, in light and dark, on paper and read aloud.

Everything that comes from a model goes through Jinja2's autoescape. The page's own policy allows no request, and no script but the one
whose hash it names. Without the script all is there to read; with it tables can be searched, sorted, folded and marked.
"""

import base64
import functools
import hashlib
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from cnnprobe.render.document import Document
from cnnprobe.render.page.views import Beside, arranged, bars, table_view
from cnnprobe.render.units import inert, inert_lines

_PARTS = ("ground.js", "trees.js", "marks.js", "pictures.js")


def render_page(document: Document, *, data: str = "") -> str:
    """The page as text.

    Args:
        document: what is shown.
        data: the JSON of a report whose rows the document shows; the page carries it, and tells of a marked row what it says.
    """
    style, script = _asset("page.css"), _script()
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=document.title or "cnnprobe",
            blocks=arranged(document.blocks),
            data=Markup(data.strip().replace("<", "\\u003c").replace(">", "\\u003e")),  # noqa: S704 - no tag can begin or end in it
            style=Markup(style),  # noqa: S704 - our own files
            script=Markup(script),  # noqa: S704
            script_hash=_hash(script),
        )
    )


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"inert": inert, "lines": inert_lines, "view": table_view, "bars": bars, "kind": _kind}
    return environment


def _kind(block: object) -> str:
    return "Beside" if isinstance(block, Beside) else type(block).__name__


@functools.cache
def _asset(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _script() -> str:
    """The parts of the script in one scope: none of their names can be seen, or overwritten, from outside."""
    return "(() => {\n" + "\n".join(map(_asset, _PARTS)) + "})();\n"


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
