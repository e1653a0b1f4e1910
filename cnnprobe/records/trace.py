"""What happened in one forward pass, as plain frozen data: no torch, no tensor, no model is kept.

A `Trace` is a list of calls in the order in which they started. A call is that of a module (`fqn`
set) or that of a torch function which a module's own forward called (`fqn` None, `kind` such as
"torch.flatten").
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cnnprobe.errors import UnknownNameError, suggest

Source = int | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How many values there are of each magnitude and sign; zeros, NaN and Inf are in no bucket.

    Bucket `k` holds the values with `2**(lowest + k) <= abs(x) < 2**(lowest + k + 1)`. Nothing
    needs to be known of the range beforehand, so that histograms of different tensors, steps and
    ranks add up bucket by bucket. Exponent -127 holds all that is nonzero and below 2**-126,
    exponent 127 all from 2**127 up. Empty buckets at both ends are left out.
    """

    lowest: int = 0
    negative: tuple[int, ...] = ()
    positive: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """A tensor as it was when it passed: sizes in elements, `nbytes` in bytes (of its own elements,
    not its storage).
    """

    shape: tuple[int, ...]
    dtype: str
    device: str
    nbytes: int
    requires_grad: bool
    # None: the layout has none (sparse, nested, quantized per channel)
    strides: tuple[int, ...] | None = None
    # where in a nested value: "", "[0]", "['logits']", ".hidden"; for inputs "0", "x", "0[1]"
    path: str = ""
    # index of the call that made it, fqn of the parameter or buffer, None: from outside
    source: Source = None
    # None: not asked for, or not available for this kind of tensor
    stats: Mapping[str, float | int] | None = None
    histogram: Histogram | None = None  # None: not asked for, or not available


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleInfo:
    """A registered module, called or not. `config` holds its constructor-like attributes as plain
    values.
    """

    fqn: str
    kind: str  # class name; the original one where a parametrization or FSDP has replaced the class
    aliases: tuple[str, ...] = ()  # further names of the same module object
    config: Mapping[str, object] = field(default_factory=dict)
    training: bool = False
    parameters: tuple[
        str, ...
    ] = ()  # fqns of its own parameters and buffers, not those of its children
    is_stock: bool = False  # a class of torch.nn itself
    is_container: bool = False  # Sequential, ModuleList, ModuleDict, ParameterList, ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleCall:
    """One call of a module or of a torch function, with everything that went in and came out."""

    fqn: str | None  # None: a torch function; `parent` is then the call that it was made in
    # class name, or the function's public name: "torch.flatten", "torch.nn.functional.relu",
    # "torch.Tensor.view"
    kind: str
    index: int  # k-th call of this module (or of this function in its parent call), from 0
    parent: int | None  # index into `Trace.calls`
    depth: int
    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()
    arguments: Mapping[str, object] = field(
        default_factory=dict
    )  # the inputs that are no tensors, by path, as plain values
    # type name of what came back: "Tensor", "tuple", "dict", "NoneType"; "" where nothing did
    returned: str = ""
    # own multiply-accumulates of a row without rows below; None: no formula for it
    macs: int | None = 0
    seconds: float = 0.0
    source: str = ""  # "file.py:12", the user's line that made the call; "" unknown
    completed: bool = True
    recomputed: bool = False  # made again during the backward pass by activation checkpointing
    # autograd's sequence numbers at start and end: the nodes made by this call
    sequence: tuple[int, int] | None = None
    thread: str = ""  # the name of the thread that made it; "" is the one of the recording


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterInfo:
    """A parameter or buffer; tied ones stand once, with their further names in `aliases`."""

    fqn: str
    shape: tuple[int, ...]
    dtype: str
    numel: int
    nbytes: int
    trainable: bool
    kind: str  # "parameter" | "buffer"
    aliases: tuple[str, ...] = ()
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Where and what was raised. `call` is the index of the innermost row that did not complete."""

    kind: str  # class name of the exception
    message: str
    module: str  # fqn of the innermost module, "" = the root
    operation: str  # the function or module class that raised
    source: str  # the user's line, "file.py:12"
    traceback: str
    stage: str = "forward"  # "forward" | "loss" | "backward" | "step"
    call: int | None = None

    @property
    def error(self) -> str:
        """The exception as Python writes it: its class alone where it has no message."""
        return f"{self.kind}: {self.message.strip()}".removesuffix(": ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One forward pass: every module, every call, every parameter, and the failure if it raised."""

    model: str
    modules: tuple[ModuleInfo, ...] = ()
    calls: tuple[ModuleCall, ...] = ()
    parameters: tuple[ParameterInfo, ...] = ()
    failure: Failure | None = None
    device: str = "cpu"
    mode: str = "eager"  # "eager" | "meta"
    torch: str = ""
    notes: tuple[str, ...] = ()  # what could not be observed, in sentences
    opaque: tuple[str, ...] = ()  # fqns of the modules that no hook looks into: scripted, compiled

    def __getitem__(self, fqn: str) -> ModuleCall:
        """The first call of the module `fqn` ("" is the root); raises UnknownNameError where there
        is none.
        """
        for call in self.calls:
            if call.fqn == fqn:
                return call
        registered = any(fqn == m.fqn or fqn in m.aliases for m in self.modules)
        raise UnknownNameError(
            f"no recorded call of a module named {fqn!r}",
            where=f"trace of {self.model}",
            fix="it is registered but was never called"
            if registered
            else suggest(fqn, (c.fqn for c in self.calls if c.fqn)),
        )

    def calls_of(self, fqn: str) -> tuple[ModuleCall, ...]:
        """All calls of the module `fqn`, in order; empty if it was never called."""
        return tuple(call for call in self.calls if call.fqn == fqn)

    def module(self, fqn: str) -> ModuleInfo:
        """The registered module `fqn`, by its name or one of its aliases."""
        for module in self.modules:
            if module.fqn == fqn or fqn in module.aliases:
                return module
        raise UnknownNameError(
            f"no module named {fqn!r}",
            where=f"trace of {self.model}",
            fix=suggest(fqn, (m.fqn for m in self.modules)),
        )

    @property
    def never_called(self) -> tuple[str, ...]:
        """Fqns of the registered modules that no call reached; not containers, nor what lies inside
        opaque modules.
        """
        called = {call.fqn for call in self.calls}
        return tuple(
            m.fqn
            for m in self.modules
            if m.fqn not in called and not m.is_container and not is_within(m.fqn, self.opaque)
        )


def is_within(fqn: str, outer: Iterable[str]) -> bool:
    """Whether a module lies inside one of those.

    >>> is_within("layer1.0.conv", ["layer1"]), is_within("layer10", ["layer1"]), is_within("fc", [""])
    (True, False, True)
    """  # noqa: E501
    return any(fqn.startswith(f"{each}.") if each else fqn != "" for each in outer)
