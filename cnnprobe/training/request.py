"""What a diagnosis is asked about, and how all of it is kept while its steps run."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.errors import TargetError
from cnnprobe.recorder import is_compiled
from cnnprobe.recorder.inventory import has_values, named_modules, refuse_offloaded
from cnnprobe.recorder.peers import without_peers
from cnnprobe.recorder.values import leaves
from cnnprobe.records.trace import Trace
from cnnprobe.training.keeping import kept
from cnnprobe.training.surroundings import Surroundings, arguments_of, look_around


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What `diagnose` was given. `names` are the caller's variables for the roles "model",
    "optimizer", "scheduler", "loss_fn".
    """

    model: nn.Module
    inputs: Any
    targets: Any = None
    loss_fn: Callable[..., Any] | None = None
    optimizer: Any = None
    train_step: Callable[..., Any] | None = None
    scheduler: Any = None
    steps: int = 6
    names: Mapping[str, str] = field(default_factory=dict)
    caller: str = ""  # the file that asked
    space: Mapping[str, Any] = field(default_factory=dict)  # the variables that it can name
    # inputs and targets as one batch, where the loader gives it in its own form
    assemble: Callable[[Any, Any], Any] | None = None
    # told what raised, and of which request, while the tensors are as they were then: weights that
    # are put back count as changed in place. It must not hold the request, which would then live on
    # with all that the caller's variables hold until the collector comes.
    when_raised: "Callable[[Raised, Request], None]" = lambda _raised, _request: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """What the forward, the loss, the backward or the step raised, with the forward before it."""

    error: Exception
    trace: Trace | None  # of the model's latest forward; None: it was not called
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    output: Any = None  # that the standard step gave to the loss


def find_arguments(request: Request) -> tuple[list[Any], dict[str, Any]]:
    """What the train_step is called with."""
    assert request.train_step is not None  # noqa: S101  (the caller has looked)
    roles = ("model", "inputs", "targets", "optimizer", "loss_fn", "scheduler")
    available = {role: getattr(request, role) for role in roles}
    return arguments_of(request.train_step, available | {"batch": _make_batch(request), "index": 0})


def _make_batch(request: Request) -> Any:
    """The batch as one: of inputs alone where there are no targets, else as the loader gives it."""
    if request.assemble is not None:
        return request.assemble(request.inputs, request.targets)
    alone = request.targets is None
    return request.inputs if alone else (request.inputs, request.targets)


@contextlib.contextmanager
def keep_request(request: Request) -> Iterator[tuple[Surroundings, list[Any]]]:
    """What a request's step works with, and what restores it meanwhile; all of it is afterwards as
    before.
    """
    given = {
        request.names.get(role, role): getattr(request, role)
        for role in ("model", "optimizer", "scheduler", "loss_fn")
    }
    around = look_around(request.train_step, given)
    around.add("loss_fn", request.loss_fn)
    tensors = [
        leaf for _, leaf in leaves((request.inputs, request.targets)) if isinstance(leaf, Tensor)
    ]
    eager = (
        torch.compiler.set_stance("force_eager")
        if any(is_compiled(m) for _, m in around.models.values())
        else contextlib.nullcontext()
    )
    with contextlib.ExitStack() as stack:
        for _, model in around.models.values():
            stack.enter_context(without_peers(named_modules(model)))
        states = stack.enter_context(kept(around, tensors))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(eager)
        warnings.simplefilter("ignore")
        yield around, states


def check_values(request: Request) -> None:
    """Refuse a batch or a whole model on meta: a diagnosis is made of values."""
    batch = [leaf for _, leaf in leaves((request.inputs, request.targets))]
    parameters = list(request.model.parameters())
    subjects = (("model", parameters), ("batch", [t for t in batch if isinstance(t, Tensor)]))
    for name, tensors in subjects:
        if tensors and not any(map(has_values, tensors)):
            refuse_offloaded(request.model, type(request.model).__name__)
            raise TargetError(
                f"the {name} has no values: it is on the meta device, or fake",
                where=type(request.model).__name__,
                fix="make it on a real device; model.to_empty(device='cpu') gives a model memory",
            )
