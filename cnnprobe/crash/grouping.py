"""A number of heads or groups, an attribute of the user's own, that does not divide the channels which a view takes apart by it."""

import math
from collections.abc import Iterator

from torch import nn

from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.attributes import SetAttribute
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.facts.words import operation, quote
from cnnprobe.crash.suspect import STRONG, USUAL, Candidate, Suspect
from cnnprobe.trace import ModuleCall, TensorInfo

_MOST_SHOWN = 2  # other numbers that are tried


def undivided(
    crash: Crash, call: ModuleCall, x: TensorInfo, sizes: tuple[int, ...]
) -> Iterator[Suspect]:
    """`x.view(b, self.heads, c // self.heads, n)` where heads does not divide c: c is what the elements that are there leave for the two."""
    owner = crash.modules.get(crash.owner)
    for name, parts in _whole_numbers(owner) if owner is not None else ():
        for each in dict.fromkeys(sizes):
            channels, rest = (
                divmod(math.prod(x.shape) * parts * each, math.prod(sizes))
                if min(sizes) > 0
                else (0, 1)
            )
            if parts not in sizes or rest or channels // parts != each or not channels % parts:
                continue
            yield Suspect(
                diagnosis="shape-mismatch",
                module=crash.owner,
                message=f"{describe_module(crash, crash.owner)} takes {channels} channels apart by {name}={parts}, which does not divide them",
                arithmetic=f"{channels} = {parts} x {each} + {channels % parts}; {operation(call)}{sizes} of {x.shape}",
                candidates=tuple(_other_numbers(crash, name, parts, each=each, channels=channels)),
                weight=STRONG,
            )
            return


def _whole_numbers(module: nn.Module) -> list[tuple[str, int]]:
    return [
        (name, value) for name, value in module.__dict__.items() if type(value) is int and value > 1
    ]


def _other_numbers(
    crash: Crash, name: str, parts: int, *, each: int, channels: int
) -> Iterator[Candidate]:
    """First the number of groups that a layer beside it has, then the nearest that divide the channels."""
    owner = crash.modules[crash.owner]
    beside = [
        m.groups
        for m in owner.modules()
        if isinstance(m, nn.modules.conv._ConvNd) and 1 < m.groups < channels
    ]
    fitting = [n for n in range(2, channels) if channels % n == 0]
    best = [n for n in dict.fromkeys(beside) if n in fitting]
    nearest = sorted((n for n in fitting if n not in best), key=lambda n: (abs(n - parts), -n))
    alike = [
        fqn
        for fqn, m in crash.modules.items()
        if type(m) is type(owner) and m.__dict__.get(name) == parts
    ]
    kept = [
        other
        for other, value in _whole_numbers(owner)
        if value == each and other != name and "dim" in other
    ]  # head_dim
    for number in [*best, *nearest][:_MOST_SHOWN]:
        values = {name: number, **dict.fromkeys(kept, channels // number)}
        edits = tuple(_set(fqn, key, value) for fqn in alike for key, value in values.items())
        texts = ", ".join(f"{key}={value}" for key, value in values.items())
        places = (
            quote(alike[0])
            if len(alike) == 1
            else f"the {len(alike)} modules like {quote(crash.owner)}"
        )
        yield Candidate(
            edits=edits,
            weight=STRONG if number in best else USUAL,
            summary=f"set {texts} in {places} (now {name}={parts})",
        )


def _set(fqn: str, name: str, value: int) -> Edit:
    return SetAttribute(
        title=f"set {name}={value} in {quote(fqn)}",
        code=f"{name}={value}",
        module=fqn,
        name=name,
        value=lambda _module: value,
    )
