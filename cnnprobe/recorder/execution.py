"""How a module runs: as Python, compiled, scripted or exported, and so what hooks see of it."""

import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from cnnprobe.errors import TargetError
from cnnprobe.recorder.inventory import Entry, named_modules
from cnnprobe.recorder.preservation import is_sharded
from cnnprobe.recorder.rows import Closed
from cnnprobe.recorder.values import DEFERRED
from cnnprobe.records.trace import is_within

_COMPILED = "_torchdynamo_orig_callable"  # what torch.compile leaves on a function


def has_compiled_code(module: nn.Module) -> bool:
    """Whether torch.compile was applied to this module: as a whole, in place, or to its forward."""
    kind: type = type(module)
    return (
        kind.__name__ == "OptimizedModule"
        or is_compiled_in_place(module)
        or _has_compiled_forward(kind)
        or hasattr(module.__dict__.get("forward"), _COMPILED)
    )


def is_compiled_in_place(module: nn.Module) -> bool:
    """Whether `module.compile()` was called: its hooks are then part of what is compiled."""
    return module.__dict__.get("_compiled_call_impl") is not None


@functools.lru_cache(maxsize=4096)
def _has_compiled_forward(kind: type) -> bool:
    return hasattr(getattr(kind, "forward", None), _COMPILED)


@functools.lru_cache(maxsize=4096)
def _runs_otherwise(kind: type) -> bool:
    """Whether modules of a class may be scripted or compiled by what the class is."""
    is_whole = kind.__name__ == "OptimizedModule" or issubclass(kind, torch.jit.ScriptModule)
    return is_whole or _has_compiled_forward(kind)


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile has been applied to the model or to one of its modules."""
    return has_compiled(named_modules(model))


def has_compiled(tree: Iterable[Entry]) -> bool:
    """Whether it has been applied to one of these."""
    return any(has_compiled_code(module) for _, module, first in tree if first)


@contextlib.contextmanager
def run_eagerly(tree: Iterable[Entry]) -> Iterator[list[str]]:
    """Compiled code runs eagerly meanwhile: its modules would pass by their hooks."""
    if not has_compiled(tree):
        yield []
        return
    with torch.compiler.set_stance("force_eager"):
        yield ["the model is compiled: its eager code was probed, and the compiled code kept"]


def is_scripted(module: nn.Module) -> bool:
    """Whether a module runs without Python: from torch.jit.script, trace, freeze or load."""
    return isinstance(module, torch.jit.ScriptModule)


def has_scripts(model: nn.Module) -> bool:
    """Whether a model or one of its modules is scripted."""
    return any(is_scripted(module) for _, module, _ in named_modules(model))


def has_fixed_mode(model: nn.Module) -> bool:
    """Whether a model cannot go between train and eval: what torch.export(...).module() gives."""
    return isinstance(model, torch.fx.GraphModule) and "train" in model.__dict__


def switch_mode(model: nn.Module, *, training: bool) -> None:
    """Put a model into train or eval mode; one with a fixed mode stays as it was exported.

    Raises:
        TargetError: its train() raises.
    """
    tree = [module for _, module, first in named_modules(model) if first]
    if any(isinstance(module.__dict__.get("train"), bool) for module in tree):
        # `model.train = True` hides the method
        restore_modes((module, training) for module in tree)
        return
    try:
        model.train(training)
    except NotImplementedError:
        pass
    except RecursionError:  # a module that is below itself, into which torch goes without end
        restore_modes((module, training) for module in tree)
    except Exception as error:
        raise TargetError(
            f"train({training}) of the model raised {type(error).__name__}: {error}",
            where=type(model).__name__,
            fix="let train() and eval() of the model pass",
        ) from error


def list_modes(model: nn.Module) -> list[tuple[nn.Module, bool]]:
    """The modules with their modes; a frozen script has none."""
    modules = [module for _, module, first in named_modules(model) if first]
    return [(m, m.training) for m in modules if getattr(m, "training", None) is not None]


def restore_modes(modes: Iterable[tuple[nn.Module, bool]]) -> None:
    """Put those modes back."""
    for module, mode in modes:
        if module.training is not mode:  # a module may refuse that it is written
            module.training = mode


def find_sealed(tree: Iterable[Entry], *, through_compiled: bool = False) -> dict[str, str]:
    """The outermost modules that hooks cannot look into, by fqn: "compiled" or "scripted"."""
    found: dict[str, str] = {}
    for fqn, module, _ in tree:
        kind: type = type(module)
        attributes = module.__dict__
        if not (
            _runs_otherwise(kind)
            or "forward" in attributes
            or attributes.get("_compiled_call_impl") is not None
        ):
            continue  # as nearly all modules
        if is_scripted(module):
            how = "scripted"
        elif not through_compiled and has_compiled_code(module):
            how = "compiled"
        else:
            continue
        if not is_within(fqn, found):
            found[fqn] = how
    return found


def observable(tree: Sequence[Entry]) -> tuple[list[Entry], dict[str, str]]:
    """The modules whose hooks run as they stand in a model, and how those run that hooks do not
    look into.
    """
    sealed = find_sealed(tree)
    seen = [
        (fqn, module, first)
        for fqn, module, first in tree
        if not is_within(fqn, sealed) and not is_compiled_in_place(module)
    ]
    return seen, sealed


def describe_sealed(sealed: dict[str, str]) -> Iterator[str]:
    """In sentences what was seen from outside only, and what helps."""
    advice = {
        "compiled": "cnnprobe.probe() runs the eager code and sees every layer",
        "scripted": "its inside runs without Python; probe the module that it was made of",
    }
    for how, fix in advice.items():
        names = [f"'{fqn}'" if fqn else "the model" for fqn, kind in sealed.items() if kind == how]
        if names:
            yield f"{how} code was observed from outside only ({', '.join(names)}); {fix}"


def find_exported(tree: Iterable[Entry]) -> list[str]:
    """The exported programs among the modules, by fqn: their functions run flat, and their modules
    are never called.
    """
    return [fqn for fqn, module, first in tree if first and has_fixed_mode(module)]


def describe_exported(names: Sequence[str]) -> Iterator[str]:
    """In a sentence why the modules of exported programs are never called."""
    if names:
        shown = ", ".join(f"'{fqn}'" if fqn else "the model" for fqn in names)
        yield (
            f"exported code was observed by its functions ({shown}): the export is flat, so its "
            "modules are "
            "never called; torch.export.unflatten(program) keeps them"
        )


def list_unsharded(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What stands for the parameters of fully sharded modules in the graph of a forward pass, by
    their fqns.
    """
    for _, module, first in named_modules(model):
        if first and is_sharded(module):
            state: Any = module._get_fsdp_state()  # type: ignore[operator]
            group = getattr(state, "_fsdp_param_group", None)
            for each in getattr(group, "fsdp_params", ()):
                whole = getattr(each, "_unsharded_param", None)
                name = getattr(each, "_param_fqn", None)
                if whole is not None and name is not None:
                    yield name, whole


class CompiledCall:
    """Stands before the compiled code of a module that was compiled in place: hooks would be
    compiled with it.
    """

    def __init__(self, module: nn.Module, watcher: Any) -> None:
        self.module = module
        self.compiled = module.__dict__["_compiled_call_impl"]
        self.watcher = watcher
        module.__dict__["_compiled_call_impl"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the compiled code, and tell the watcher before and after."""
        self.watcher.enter(self.module, args, kwargs)
        try:
            output = self.compiled(*args, **kwargs)
        except BaseException:
            self.watcher.leave(self.module, args, None)
            raise
        self.watcher.leave(self.module, args, output)
        return output

    def remove(self) -> None:
        """Let the module call its compiled code itself again."""
        if self.module.__dict__.get("_compiled_call_impl") is self:
            self.module.__dict__["_compiled_call_impl"] = self.compiled


def describe_postponed(rows: Sequence[Closed]) -> Iterator[str]:
    """What a forward does later, in a sentence."""
    returned = rows[0][-1].returned if rows and rows[0][-1] is not None else ""
    if returned in DEFERRED:
        yield (
            f"the forward gave back a {returned}, which runs when somebody reads it: "
            "cnnprobe.record() around your own code sees its layers, each as a call of its own"
        )
