"""The losses that raised, as calls that can be made again, and what was differentiated."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from cnnprobe import operations
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.outside import ChangeLoss
from cnnprobe.crash.facts.frames import get_path, list_frames, read_frame
from cnnprobe.crash.facts.own_losses import find_own_call
from cnnprobe.crash.model_copy import hush
from cnnprobe.crash.suspect import Candidate, Suspect

_FUNCTIONAL, _LOSSES = "torch/nn/functional.py", "torch/nn/modules/loss.py"
COMPARED = ("input1", "input2", "x1", "x2", "anchor", "positive", "negative")  # as torch has them
_TARGETS = ("target", "targets")
_STRICT = ("binary_cross_entropy", "binary_cross_entropy_with_logits", "multilabel_margin_loss")


@dataclass(frozen=True, kw_only=True)
class FailingLoss:
    """A call of a loss that raised, which can be made again."""

    name: str  # of torch's operation; "" where the loss is the user's own
    shown: str  # as the user knows it: nn.MSELoss, F.mse_loss, FocalLoss
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    names: tuple[str, str]  # of the arguments that are the output and the targets; "": none
    outer: "FailingLoss | None" = None  # the user's own loss that called it
    is_whole: bool = True  # False: the part of a line that failed

    @property
    def input(self) -> Any:
        """The model's output, as a rule."""
        return self.arguments.get(self.names[0])

    @property
    def target(self) -> Any:
        """The targets."""
        return self.arguments.get(self.names[1])

    @property
    def is_own(self) -> bool:
        """Whether it is a function of the user's, so that nothing is known of what it expects."""
        return not self.name

    @property
    def takes_classes(self) -> bool:
        """Whether its targets are class indices."""
        info = operations.find_function(self.name) if self.name else None
        return info is not None and "classes" in info.traits

    @property
    def is_elementwise(self) -> bool:
        """Whether it compares output and targets value by value."""
        info = operations.find_function(self.name) if self.name else None
        if info is None or info.traits & {"classes", "product"}:
            return False
        return info.signature.names[:2] == ("input", "target")

    @property
    def class_shape(self) -> tuple[int, ...]:
        """The shape of one class index for each sample or pixel."""
        x = self.input
        return (x.shape[0], *x.shape[2:]) if x.dim() > 1 else ()

    @property
    def needs_one_shape(self) -> bool:
        """Whether output and targets differ in shape, and it does not broadcast them."""
        if not self.is_elementwise or self.input.shape == self.target.shape:
            return False
        return self.name in _STRICT or not is_broadcast(self.input.shape, self.target.shape)

    @property
    def compared(self) -> list[Tensor]:
        """The outputs that it compares with each other, where it is such a loss."""
        found = [self.arguments[name] for name in COMPARED if name in self.arguments]
        return found if all(isinstance(t, Tensor) for t in found) else []

    def give(
        self, code: str, *, title: str = "", other: str = "", options: Mapping[str, Any] = {}
    ) -> ChangeLoss:
        """An edit that gives it something else. What `code` says is what is tried.

        The code reads `output` or `targets`: "targets.long()". With options, or where it is that
        of another loss, it is only shown.
        """

        def run(output: Any, targets: Any) -> tuple[Any, Any]:
            if options or (other and code.startswith("nn.")):
                return output, targets
            names = {"torch": torch, "F": F, "output": output, "targets": targets}
            value = eval(code, names | {self.names[0]: output})  # noqa: S307 - a cause wrote it
            is_target = re.search(r"\btargets\b", code) is not None
            return (output, value) if is_target else (value, targets)

        return ChangeLoss(
            title=title or f"pass {code}",
            code=code,
            function=run,
            other=other,
            options=options,
            loss=self,
        )

    def call(self, changes: Iterable[ChangeLoss] = (), outputs: Mapping[str, Any] = {}) -> Any:
        """The loss with other arguments; raises what the loss raises."""
        given = {**self.arguments, **outputs}
        options: dict[str, Any] = {}
        other, (name, target_name) = "", self.names
        for change in changes:
            given[name] = _detach(given[name])
            x, target = change.function(given[name], _detach(given.get(target_name)))
            given |= {name: x} | ({target_name: target} if target_name else {})
            options |= change.options
            other = change.other or other
        if self.outer is not None and not options and not other and self._is_handed_on():
            renamed = dict(
                zip(self.outer.names, (given[name], given.get(target_name)), strict=True)
            )
            return self.outer.call((), renamed)
        function = getattr(F, other) if other else self.function
        if other:
            known = inspect.signature(function).parameters
            given = {key: value for key, value in given.items() if key in known}
        with torch.enable_grad(), hush():
            value = function(**tree_map(_detach, {**given, **options}))
            ends = [
                t.sum() for t in tree_leaves(value) if isinstance(t, Tensor) and t.requires_grad
            ]
            torch.autograd.backward(ends)  # a wrong dtype or size may show no earlier
        return tree_map(_detach, value)

    def fails(self) -> bool:
        """Whether it raises as it was called, in its forward or its backward."""
        try:
            self.call()
        except Exception:  # whatever it is
            return True
        return False

    def _is_handed_on(self) -> bool:
        """Whether the user's own loss has given it output and targets as they arrived."""
        if self.outer is None:
            return False
        pairs = ((self.input, self.outer.input), (self.target, self.outer.target))
        return all(a is b or _describe(a) == _describe(b) for a, b in pairs)


def _detach(value: Any) -> Any:
    """A copy, which requires a gradient where the value did."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().clone().requires_grad_(value.requires_grad)


def _describe(value: Any) -> Any:
    return (value.shape, value.dtype) if isinstance(value, Tensor) else type(value)


def is_broadcast(a: torch.Size, b: torch.Size) -> bool:
    """Whether two shapes broadcast."""
    pairs = zip(reversed(a), reversed(b), strict=False)
    return all(m == n or 1 in (m, n) for m, n in pairs)


# -- finding them ----------------------------------------------------------------------------------


def list_losses(crash: Crash) -> list[FailingLoss]:
    """The losses that raised: torch's, and the user's own that called it or that stands alone."""
    if crash.stage == "backward":
        return [loss for loss in _find_differentiated_loss(crash) if loss.fails()]
    call = find_own_call(crash)
    own = FailingLoss(name="", **vars(call)) if call is not None else None
    found = _find_torch_loss(crash.error, own)
    if found is not None and own is not None and not own.is_whole:
        own = None
    return [loss for loss in (found, own) if loss is not None]


def _find_torch_loss(error: BaseException, own: FailingLoss | None) -> FailingLoss | None:
    module, found = None, None
    for frame in list_frames(error):
        path, name = get_path(frame), frame.f_code.co_name
        info = operations.find_function(name)
        if path.endswith(_LOSSES) and name == "forward":
            module = frame.f_locals["self"]
            function = module
            info = operations.find_layer(type(module).__name__)
        elif path.endswith(_FUNCTIONAL) and info is not None and info.family == "loss":
            function = getattr(F, name)
        else:
            continue
        names = inspect.signature(function if function is not module else module.forward).parameters
        given = {key: frame.f_locals[key] for key in names if key in frame.f_locals}
        found = FailingLoss(
            name=info.name if info is not None else "",
            shown=_show(module, name),
            function=function,
            arguments=given,
            names=(next(iter(names)), next((n for n in _TARGETS if n in names), "")),
            outer=own,
        )
        if path.endswith(_FUNCTIONAL):
            return found
    return found


def _find_differentiated_loss(crash: Crash) -> Iterator[FailingLoss]:
    """The loss whose backward was asked for, by what it has saved: some refuse no earlier."""
    tensor = differentiated(crash)
    node = tensor.grad_fn if tensor is not None else None
    words = re.findall("[A-Z][a-z]*", type(node).__name__.partition("Backward")[0])
    if (info := operations.find_function("_".join(words).lower())) is None or info.family != "loss":
        return
    try:
        x, target = (getattr(node, f"_saved_{name}", None) for name in ("self", "target"))
    except RuntimeError:  # they were freed: its backward has passed
        return
    if not isinstance(x, Tensor) or not isinstance(target, Tensor):
        return
    before = type(node.next_functions[0][0]).__name__ if node is not None else ""
    # Given what log_softmax made, cross_entropy is nll_loss; given logits, it is what was called.
    name = "cross_entropy" if before.startswith("LogSoftmax") else info.name
    yield FailingLoss(
        name=info.name,
        shown=f"F.{name}",
        function=getattr(F, name),
        arguments={"input": x.detach().requires_grad_(), "target": target},
        names=("input", "target"),
    )


def _show(module: nn.Module | None, name: str) -> str:
    if module is None:
        return f"F.{name}"
    kind = type(module)
    return f"nn.{kind.__name__}" if kind.__module__.startswith("torch.") else kind.__name__


def list_comparisons(crash: Crash) -> Iterator[tuple[FailingLoss, Tensor, Tensor]]:
    """The losses that raised with their output and their targets, where both are tensors."""
    for found in list_losses(crash):
        if isinstance(found.input, Tensor) and isinstance(found.target, Tensor):
            yield found, found.input, found.target


def suspect_loss(
    found: FailingLoss, message: str, candidates: Iterable[Candidate] = (), **more: Any
) -> Suspect:
    """A suspect with what the loss was given; its own candidates prove one of the user's own."""
    given = tuple(t for t in (found.input, found.target) if isinstance(t, Tensor))
    shapes = ", targets ".join(str(tuple(t.shape)) for t in given)
    arithmetic = f"output {shapes}" if len(given) > 1 else ""
    usual = {"arithmetic": arithmetic, "needs_proof": found.is_own, "tensors": given, **more}
    return Suspect(message=message, candidates=tuple(candidates), raised_in=found.shown, **usual)


# -- the backward ----------------------------------------------------------------------------------


def differentiated(crash: Crash) -> Tensor | None:
    """The tensor whose backward was asked for."""
    found = read_frame(crash.error, "torch/_tensor.py", "backward")
    if found is not None and isinstance(found.get("self"), Tensor):
        return found["self"]  # type: ignore[no-any-return]
    found = read_frame(crash.error, "torch/autograd/__init__.py", "backward")
    tensors = [t for t in tree_leaves((found or {}).get("tensors")) if isinstance(t, Tensor)]
    return tensors[0] if tensors else crash.loss if isinstance(crash.loss, Tensor) else None


def range_of(value: Any) -> tuple[float, float] | None:
    """Least and greatest value; None where they cannot be read."""
    if not isinstance(value, Tensor) or not value.numel() or value.is_meta or value.is_complex():
        return None
    try:
        with torch.no_grad():
            low, high = torch.aminmax(value.detach())
            return float(low), float(high)
    except RuntimeError:  # an earlier assertion on the device, or a dtype without an order
        return None
