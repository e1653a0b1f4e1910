"""Crashes as users post them: the source of a file, what is wrong in it and the line that corrects
it.
"""

from dataclasses import dataclass

HEAD = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n"


@dataclass(frozen=True)
class Post:
    """A file that crashes. `Net` or `make` gives the model; `inputs` its arguments, or `run` the
    user's step.
    """

    name: str
    diagnosis: str
    blames: str | None
    repair: str
    source: str
    corrected: str


POSTS: list[Post] = []


def post(name, diagnosis, blames, *, repair, source, old, new):
    """Register a file that crashes, and with `new` instead of `old` does not."""
    assert old in source
    POSTS.append(
        Post(name, diagnosis, blames, repair, HEAD + source, HEAD + source.replace(old, new))
    )
