"""A concatenation of tensors of different ranks."""

from collections.abc import Iterator

from torch import Tensor

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.parts import change_part
from cnnprobe.crash.facts.joins import read_cat, write_parts
from cnnprobe.crash.suspect import STRONG, Suspect, propose

EXAMPLE = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.meta = nn.Linear(4, 5)
            self.out = nn.Linear(11, 2)

        def forward(self, image, extra):
            pooled = self.pool(self.conv(image))
            return self.out(torch.cat([pooled, self.meta(extra)], dim=1))


    model, args = Net(), (torch.randn(2, 3, 8, 8), torch.randn(2, 4))
    """,
    old="self.pool(self.conv(image))",
    new="self.pool(self.conv(image)).flatten(1)",
    blames="",
    repair="torch.flatten(pooled, 1)",
)


@cause(
    code="CP032", name="cat-of-different-ranks", family="cat-mismatch", prior=399, examples=EXAMPLE
)
def cat_of_different_ranks(crash: Crash) -> Iterator[Suspect]:
    """Tensors with different numbers of dims are concatenated.

    Why it happens: a feature map of shape (N, C, 1, 1) meets rows of features of shape (N, F).
    What to do: flatten the map first: torch.flatten(x, 1).
    Known exceptions: none.
    Source: documentation of torch.cat.
    """
    cat = read_cat(crash.call)
    ranks = {len(t.shape) for t in cat.parts} if cat is not None else set()
    if cat is None or len(ranks) < 2:
        return
    last = min(ranks) - 1

    def flatten(x: Tensor) -> Tensor:
        return x.flatten(last)

    code = f"torch.flatten({{x}}, {last})"
    larger = [t for t in cat.parts if len(t.shape) > min(ranks)]
    edits = (change_part(crash, cat.call, t, flatten, code, verb="flatten") for t in larger)
    yield Suspect(
        module=crash.owner,
        message=f"{cat.call.kind} in {describe_module(crash, crash.owner)}:"
        " the tensors have different numbers of dims",
        arithmetic=write_parts(crash, cat.parts),
        candidates=(propose(*edits),),
        weight=STRONG,
    )
