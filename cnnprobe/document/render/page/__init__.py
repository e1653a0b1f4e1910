"""A document as one HTML page: a single file that loads nothing, in light and dark, on paper and
read aloud.

Everything that comes from a model goes through Jinja2's autoescape. The page's own policy allows no
request, and no script but those whose hashes it names. Without the script all is there to read;
with it tables can be searched, sorted, folded and marked.
"""

import base64
import functools
import hashlib
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from cnnprobe.document.blocks import Document
from cnnprobe.document.render.page.packing import pack
from cnnprobe.document.render.page.views import arrange, make_bars, view_table, write_column_styles
from cnnprobe.document.render.units import make_inert, split_inert_lines

_PARTS = ("ground.js", "trees.js", "marks.js", "pictures.js")
# A browser takes a second to lay out thousands of rows; where the script will run, it need not do
# so before the script has folded them.
_FIRST = 'if (window.DecompressionStream) document.documentElement.className = "opening";'


def render_page(document: Document, *, data: str = "") -> str:
    """The page as text.

    Args:
        document: what is shown.
        data: the JSON of a report whose rows the document shows; the page carries it compressed,
            and tells of a marked row what it says.
    """
    script = _join_script()
    body = _make_environment().get_template("blocks.html").render(blocks=arrange(document.blocks))
    return (
        _make_environment()
        .get_template("page.html")
        .render(
            title=document.title or "cnnprobe",
            body=Markup(body),  # noqa: S704 - escaped when it was made
            data=pack(data) if data else "",
            style=Markup(_read_asset("page.css")),  # noqa: S704 - our own files
            column_styles=Markup(write_column_styles(body)),  # noqa: S704 - made of column numbers
            script=Markup(script),  # noqa: S704
            first=Markup(_FIRST),  # noqa: S704
            hashes=[_compute_hash(_FIRST), _compute_hash(script)],
        )
    )


@functools.cache
def _make_environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_read_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "inert": make_inert,
        "lines": split_inert_lines,
        "view": view_table,
        "bars": make_bars,
        "kind": _get_kind,
        "pack": pack,
    }
    return environment


def _get_kind(block: object) -> str:
    return type(block).__name__


@functools.cache
def _read_asset(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _join_script() -> str:
    """The parts of the script in one scope: none of their names can be seen, or overwritten, from
    outside. Without comments and indentation.
    """
    lines = (line.lstrip() for part in _PARTS for line in _read_asset(part).splitlines())
    return (
        "(() => {\n"
        + "\n".join(line for line in lines if line and not line.startswith("//"))
        + "\n})();\n"
    )


def _compute_hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
