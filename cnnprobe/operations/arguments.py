"""The arguments of a function's row by their names, however they were given."""

from cnnprobe.operations.catalogue import find_signature
from cnnprobe.operations.info import Signature
from cnnprobe.records.trace import ModuleCall

# Methods take these as one argument or as many: x.view(2, 3), x.view((2, 3)).
_VARIADIC = frozenset({"size", "shape", "dims", "repeats"})
# NumPy's words, which torch takes as well.
_ALSO = {"dim": "axis", "keepdim": "keepdims", "dim0": "axis0", "dim1": "axis1", "input": "x"}
_OWN = {also: name for name, also in _ALSO.items()}


def name_position(signature: Signature, position: int) -> str:
    """The name of a positional argument; "[7]" where the signature has not as many."""
    names = signature.names
    if position < len(names):
        return names[position]
    return names[-1] if names and is_variadic(signature, names[-1]) else f"[{position}]"


def is_variadic(signature: Signature, name: str) -> bool:
    """Whether an argument may be given as several: x.view(2, 3) for x.view((2, 3))."""
    return name in _VARIADIC and signature.names[-1:] == (name,)


def name_keyword(signature: Signature, keyword: str) -> str:
    """The name of an argument that was given by a keyword: "dim" for axis."""
    name = _OWN.get(keyword, keyword)
    return name if keyword not in signature.names and name in signature.names else keyword


def read_argument(call: ModuleCall, name: str, default: object = None) -> object:
    """An argument of a function's row that is no tensor; a tuple as a whole.

    >>> given = {"[1]": 2, "[2]": 0, "[3]": 1}
    >>> kind = "torch.Tensor.permute"
    >>> call = ModuleCall(fqn=None, kind=kind, index=0, parent=None, depth=0, arguments=given)
    >>> read_argument(call, "dims"), read_argument(call, "dim")
    ((2, 0, 1), None)
    """
    for path in (name, _ALSO.get(name, name)):
        if (found := _read(call, path)) is not None:
            return found
    signature = find_signature(call.kind)
    if signature is None or name not in signature.names:
        return default
    position = signature.names.index(name)
    if is_variadic(signature, name) and f"[{position + 1}]" in call.arguments:
        paths = [f"[{k}]" for k in range(position, position + len(call.arguments))]
        return tuple(call.arguments[path] for path in paths if path in call.arguments)
    found = _read(call, f"[{position}]")
    if found is None and position == 0:  # the only one
        found = call.arguments.get("")
    return default if found is None else found


def _read(call: ModuleCall, path: str) -> object:
    """What was given under a path; a tuple was recorded element by element."""
    given = call.arguments
    if path in given:
        return given[path]
    parts: list[object] = []
    while (at := f"{path}[{len(parts)}]") in given:
        parts.append(given[at])
    return tuple(parts) or None
