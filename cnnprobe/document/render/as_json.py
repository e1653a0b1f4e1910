"""A document as JSON: its blocks with their numbers, for programs; the JSON of a report that can be
loaded again is that of `Report.save`.
"""

from cnnprobe.document.blocks import Document
from cnnprobe.records import schema

SUFFIXES = (".json",)


def render_document(document: Document, *, width: int | None = None, colour: bool = False) -> str:  # noqa: ARG001
    """One JSON object: `schema_version`, `type`, `title` and `blocks`, each with its own `type`."""
    return schema.to_text(Document.__name__, schema.to_plain(document))
