"""A picture of the data as a PNG or JPEG, and how it goes into a document: plain data, without
torch.
"""

from dataclasses import dataclass

from cnnprobe.document.blocks import Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactSheet:
    """A picture that was drawn of the data."""

    name: str  # "training-images"
    title: str
    alt: str  # what it shows, in words
    mime: str  # "image/png" | "image/jpeg"
    data: str  # base64
    width: int
    height: int


def to_picture(sheet: ContactSheet) -> Picture:
    """The picture as a block of a document."""
    size = f'width="{sheet.width}" height="{sheet.height}"'
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {sheet.width} {sheet.height}" '
        f"{size} "
        f'style="max-width:100%;height:auto"><image {size} '
        f'href="data:{sheet.mime};base64,{sheet.data}"/></svg>'
    )
    return Picture(svg=svg, alt=sheet.alt, caption=sheet.title)
