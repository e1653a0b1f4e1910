"""What a page carries without showing it: compressed, and written in letters, so that a large
report makes no large page.
"""

import base64
import gzip
import re

_CARRIED = re.compile(r'<script type="application/gzip" id="data">([A-Za-z0-9+/=]*)</script>')


def pack(text: str) -> str:
    """The text compressed and in base64; the same text gives the same letters.

    >>> unpack(pack("a < b"))
    'a < b'
    """
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def unpack(packed: str) -> str:
    """What was packed.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return gzip.decompress(base64.b64decode(packed, validate=True)).decode()
    except (OSError, EOFError) as error:
        raise ValueError(str(error)) from error


def extract_data(page: str) -> str | None:
    """The JSON that a page carries, or None if it carries none.

    Raises:
        ValueError: it is damaged.
    """
    found = _CARRIED.search(page)
    return unpack(found.group(1)) if found else None
