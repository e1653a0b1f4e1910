"""From a Document to text, Markdown, an HTML page or fragment, or JSON. A format is one file
`as_<name>.py` in this folder, and needs no other change.

Such a file has `SUFFIXES` (the file name endings that mean it) and `render_document(document, *,
width, colour) -> str`.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType

from cnnprobe.document.blocks import (
    Block,
    Cell,
    Code,
    Column,
    Document,
    Emphasis,
    Facts,
    Folded,
    Heading,
    Notice,
    Picture,
    Row,
    Severity,
    Share,
    Shares,
    Spread,
    Table,
    Text,
    Trend,
    Unit,
)
from cnnprobe.errors import UnknownNameError, suggest

__all__ = [
    "Block",
    "Cell",
    "Code",
    "Column",
    "Document",
    "Emphasis",
    "Facts",
    "Folded",
    "Heading",
    "Notice",
    "Picture",
    "Row",
    "Severity",
    "Share",
    "Shares",
    "Spread",
    "Table",
    "Text",
    "Trend",
    "Unit",
    "list_formats",
    "map_suffixes",
    "render",
]

_PREFIX = "as_"


def render(
    document: Document,
    format: str,  # noqa: A002
    *,
    width: int | None = None,
    colour: bool = False,
) -> str:
    """The document in one of the `list_formats()`.

    Args:
        document: what is shown.
        format: a name of `list_formats()`.
        width: columns of the terminal; None asks the terminal. Formats without columns take no
            notice of it.
        colour: whether the terminal shows colours.

    Raises:
        UnknownNameError: there is no such format.

    >>> render(Document(blocks=(Text(text="a < b"),)), "fragment").startswith('<div class="cnnprobe">')
    True
    """  # noqa: E501
    # the others are not loaded: what draws graphs takes longer than the text of a report
    module = _import_format(format) if format in _list_names() else None
    if module is None:
        raise UnknownNameError(
            f"no format named {format!r}", where="render", fix=suggest(format, list_formats())
        )
    return str(module.render_document(document, width=width, colour=colour))


def list_formats() -> tuple[str, ...]:
    """The names of the formats in which a document can be had, in alphabetical order.

    >>> list_formats()
    ('fragment', 'html', 'json', 'markdown', 'text')
    """
    return tuple(_import_formats())


def map_suffixes() -> Mapping[str, str]:
    """File name ending to format: `{".md": "markdown", ...}`."""
    return {
        suffix: name for name, module in _import_formats().items() for suffix in module.SUFFIXES
    }


def _list_names() -> list[str]:
    """Of the files in this folder; some render graphs."""
    found = (each.name for each in pkgutil.iter_modules(__path__))
    return sorted(name.removeprefix(_PREFIX) for name in found if name.startswith(_PREFIX))


def _import_format(name: str) -> ModuleType | None:
    """The module of a format of documents; None for one of graphs."""
    module = importlib.import_module(f"{__name__}.{_PREFIX}{name}")
    return module if hasattr(module, "render_document") else None


def _import_formats() -> dict[str, ModuleType]:
    modules = {name: _import_format(name) for name in _list_names()}
    return {name: module for name, module in modules.items() if module is not None}
