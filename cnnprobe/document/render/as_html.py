"""A document as one HTML page for a browser: a single file, no network, no server. `as_fragment` is
the piece for notebooks.
"""

from cnnprobe.document.blocks import Document

SUFFIXES = (".html", ".htm")


def render_document(document: Document, *, width: int | None = None, colour: bool = False) -> str:  # noqa: ARG001
    """A whole page, see `cnnprobe.document.render.page`."""
    from cnnprobe.document.render.page import render_page  # jinja2 is for those who want a page

    return render_page(document)
