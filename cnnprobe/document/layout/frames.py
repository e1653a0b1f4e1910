"""How documents about a model begin and end: what they are about, and what must be known
besides.
"""

from collections.abc import Iterable

from cnnprobe.document.blocks import Block, Document, Heading, Notice


def frame(model: str, subject: str, blocks: Iterable[Block], notes: Iterable[str] = ()) -> Document:
    """A document on one subject of a model, with its notes at the end.

    >>> [type(block).__name__ for block in frame("Net", "its memory", (), ["no loss"]).blocks]
    ['Heading', 'Notice']
    """
    heading = Heading(text=f"{model}: {subject}", level=1)
    return Document(title=model, blocks=(heading, *blocks, *list_notes(notes)))


def list_notes(notes: Iterable[str]) -> tuple[Notice, ...]:
    """Sentences that a reader has to know, none of them a fault."""
    return tuple(Notice(severity="info", text=note) for note in notes)
