"""How many channels the failing layer expects, and what it got."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from cnnprobe.crash.crash import Crash, find_once
from cnnprobe.crash.edits.build import is_root_input
from cnnprobe.crash.facts.windows import count_dims
from cnnprobe.crash.facts.words import get_tensor, read_argument, read_tensor
from cnnprobe.operations import find, find_layer
from cnnprobe.recorder.inventory import class_of
from cnnprobe.records.trace import ModuleCall, TensorInfo

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
_UNPOOL = nn.modules.pooling._MaxUnpoolNd


@dataclass(frozen=True, kw_only=True)
class ChannelMismatch:
    """A layer or function with channels, and the tensor it got."""

    x: TensorInfo
    expected: int
    module: str
    kind: Literal["conv", "norm", "prelu", "pool", "unpool"]
    setting: str = ""  # the layer's argument; "": it is a function with a weight
    dims: int = 0  # spatial dims it is for; 0: any number of them
    ranks: tuple[int, ...] = ()  # numbers of dims that it takes; (): any
    is_first: bool = False  # it works on what the model was given

    @property
    def rank(self) -> int:
        """Number of dims of what it got."""
        return len(self.x.shape)

    @property
    def is_unbatched(self) -> bool:
        """Whether torch takes what it got for one sample."""
        return self.kind == "conv" and self.rank == self.dims + 1

    @property
    def dim(self) -> int:
        """Where it looks for the channels."""
        return self.rank - self.dims - 1 if self.kind == "conv" else 1

    @property
    def got(self) -> int:
        """Channels that it got; -1 where there is no such dim."""
        return self.x.shape[self.dim] if 0 <= self.dim < self.rank else -1

    @property
    def is_rank_right(self) -> bool:
        """Whether it takes that number of dims."""
        return not self.ranks or self.rank in self.ranks


@find_once
def find_expected(crash: Crash) -> ChannelMismatch | None:
    """The failing call as one that has channels."""
    call, layer = crash.call, crash.leaf
    if call is None or not call.inputs:
        return None
    x = get_tensor(call, 0, "input") or call.inputs[0]
    first = is_root_input(crash, x)
    if call.fqn is None:
        return _read_function(crash, call, x, is_first=first)
    if isinstance(layer, nn.modules.conv._ConvNd):
        dims = count_dims(layer)
        return ChannelMismatch(
            x=x, expected=layer.in_channels, module=call.fqn, kind="conv", setting="in_channels",
            dims=dims, ranks=(dims + 1, dims + 2), is_first=first,
        )  # fmt: skip
    if isinstance(layer, NORMS):
        setting = "num_channels" if isinstance(layer, nn.GroupNorm) else "num_features"
        return ChannelMismatch(
            x=x, expected=int(getattr(layer, setting)), module=call.fqn, kind="norm",
            setting=setting, dims=count_dims(layer), ranks=_list_ranks(layer), is_first=first,
        )  # fmt: skip
    if isinstance(layer, nn.PReLU) and layer.num_parameters > 1:
        return ChannelMismatch(
            x=x, expected=layer.num_parameters, module=call.fqn, kind="prelu",
            setting="num_parameters", is_first=first,
        )  # fmt: skip
    if isinstance(layer, _UNPOOL) and len(call.inputs) > 1 and len(call.inputs[1].shape) > 2:
        return ChannelMismatch(
            x=x, expected=call.inputs[1].shape[1], module=call.fqn, kind="unpool"
        )
    info = find_layer(class_of(layer).__name__) if layer is not None else None
    if layer is not None and info is not None and info.family == "pooling" and x.shape:
        dims = count_dims(layer)
        return ChannelMismatch(
            x=x, expected=-1, module=call.fqn, kind="pool", dims=dims, ranks=(dims + 1, dims + 2)
        )
    return None


def find_mismatch(crash: Crash) -> ChannelMismatch | None:
    """The failing call where it got another number of channels than it expects."""
    if (found := find_expected(crash)) is None or found.kind == "pool" or not found.is_rank_right:
        return None
    return found if found.got != found.expected else None


def _list_ranks(layer: nn.Module) -> tuple[int, ...]:
    if not (dims := count_dims(layer)):
        return ()
    is_instance = isinstance(layer, nn.modules.instancenorm._InstanceNorm)
    return (dims + 1, dims + 2) if is_instance or dims == 1 else (dims + 2,)


def _read_function(
    crash: Crash, call: ModuleCall, x: TensorInfo, *, is_first: bool
) -> ChannelMismatch | None:
    info = find(call)
    weight = read_tensor(call, "weight")
    if info is None:
        return None
    if info.name in ("batch_norm", "instance_norm", "group_norm") and len(x.shape) > 1:
        others = [t for t in call.inputs[1:] if len(t.shape) == 1]
        wrong = next((t for t in others if t.shape[0] != x.shape[1]), None)
        expected = wrong.shape[0] if wrong is not None else x.shape[1]
        owner = _find_owner(crash, others if wrong is None else [wrong])
        return ChannelMismatch(x=x, expected=expected, module=owner, kind="norm", is_first=is_first)
    if info.group not in ("conv", "conv_transpose") or weight is None or len(weight.shape) < 3:
        return None
    dims, groups = len(weight.shape) - 2, int(read_argument(call, "groups") or 1)
    is_transposed = info.group == "conv_transpose"
    return ChannelMismatch(
        x=x, expected=weight.shape[0] if is_transposed else weight.shape[1] * groups, dims=dims,
        module=_find_owner(crash, [weight]), kind="conv", ranks=(dims + 1, dims + 2),
        is_first=is_first,
    )  # fmt: skip


def _find_owner(crash: Crash, weights: Iterable[TensorInfo]) -> str:
    names = [t.source for t in weights if isinstance(t.source, str)]
    return crash.owner_of_parameter(names[0]) if names else crash.owner
