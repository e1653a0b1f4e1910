"""A dim that a tensor does not have."""

from collections.abc import Callable, Iterator
from typing import Any

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.edits.calls import Rewrite
from cnnprobe.crash.facts.words import get_argument, shorten
from cnnprobe.crash.suspect import Suspect, propose
from cnnprobe.operations import find_signature, resolve_name
from cnnprobe.trace import ModuleCall

EXAMPLE = Example(
    """
    model = nn.Sequential(nn.Linear(8, 4), nn.Softmax(dim=2))
    args = (torch.randn(3, 8),)
    """,
    old="dim=2",
    new="dim=1",
    blames="1",
    repair="set dim=-1 in '1'",
    on_meta=False,  # softmax takes any dim there
)


@cause(code="CP011", name="dim-out-of-range", family="shape-mismatch", prior=200, examples=EXAMPLE)
def dim_out_of_range(crash: Crash) -> Iterator[Suspect]:
    """An operation works on a dim that its tensor does not have.

    Why it happens: it was written for maps or sequences and got a table, or the batch dim is
    missing, or a flatten or a reduction before it dropped a dim.
    What to do: check the shape that arrives; dim=-1 is the last dim of any tensor.
    Known exceptions: none.
    Source: docs of the operation; dims are counted from 0, and from -1 backwards.
    """
    call = crash.call
    if call is None or not call.inputs:
        return
    dim = _read_dim(call) if crash.leaf is None else getattr(crash.leaf, "dim", None)
    x = call.inputs[0]
    room = len(x.shape) + (resolve_name(call.kind) in ("unsqueeze", "stack"))
    if type(dim) is not int or -room <= dim < room:
        return
    edit = configure(crash, call.fqn, dim=-1) if call.fqn is not None else _take_last(crash, call)
    yield Suspect(
        module=call.fqn if call.fqn is not None else crash.owner,
        message=f"{crash.describe_call(call)} works on dim {dim}, which {x.shape} does not have",
        arithmetic=f"{x.shape} from {crash.describe_origin(x)} has dims 0 to {len(x.shape) - 1}",
        candidates=(propose(edit),),
    )


def _find_position(call: ModuleCall) -> int | None:
    signature = find_signature(call.kind) if call.fqn is None else None
    names = signature.names if signature is not None else ()
    return names.index("dim") if "dim" in names else None


def _read_dim(call: ModuleCall) -> object:
    position = _find_position(call)
    return None if position is None else get_argument(call, position, "dim")


def _take_last(crash: Crash, call: ModuleCall) -> Rewrite:
    """The same call with dim=-1."""
    position = _find_position(call) or 1

    def rewrite(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if "dim" in kwargs:
            return func(*args, **{**kwargs, "dim": -1})
        return func(*args[:position], -1, *args[position + 1 :], **kwargs)

    return Rewrite(
        title=f"use the last dim at {shorten(call.source)}: dim=-1",
        code="dim=-1",
        module=crash.owner,
        kind=call.kind,
        source=call.source,
        function=rewrite,
        keyword=("dim", -1, position),
    )
