"""A model from a SPEC: found, built from its class or factory, and given its weights."""

import inspect
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from torch import nn

from cnnprobe.errors import ProbeError, TargetError, UnknownNameError, UsageError, suggest
from cnnprobe.loading import checkpoints, exported
from cnnprobe.loading.code import FORMS, find
from cnnprobe.loading.user_errors import describe_error, find_user_line

NO_ARGUMENTS: Mapping[str, object] = MappingProxyType({})


def load_model(
    spec: str,
    *,
    arguments: Mapping[str, object] = NO_ARGUMENTS,
    weights: str | Path | None = None,
    trust_pickle: bool = False,
) -> nn.Module:
    """The model that SPEC names, built with `arguments`, its parameters taken from the file
    `weights` if that is given.

    Args:
        spec: `pkg.mod:attr` or `path/to/file.py:Class` (an instance, a class or a function that
            makes one), `torchvision:NAME`, `timm:NAME` (random weights), or a .pt2 file of
            torch.export. Python code that is named so is run.
        arguments: keyword arguments for the class or function.
        weights: a .safetensors file or a state_dict saved by torch.save; it must fit exactly.
        trust_pickle: allow that reading `weights` or a .pt2 file runs code that the file names.

    Raises:
        UsageError: the SPEC or the arguments cannot be understood, or name nothing that is there.
        TargetError: the user's code raised, or a file cannot be read, is not trusted, or does not
            fit.
    """
    prefix, _, name = spec.partition(":")
    suffix = Path(spec).suffix.lower()
    if prefix in ("torchvision", "timm") and name:
        model = _build_from_zoo(prefix, name, arguments)
    elif suffix == ".pt2":
        model = exported.load(Path(spec), trust_pickle=trust_pickle)
        _refuse_arguments(arguments, spec, "an exported program")
    elif suffix in checkpoints.SUFFIXES:
        checkpoints.refuse_as_model(Path(spec))
    else:
        model = _build(find(spec), spec, arguments)
    if weights is not None:
        checkpoints.load_weights(model, Path(weights), trust_pickle=trust_pickle)
    return model


def _build(target: object, spec: str, arguments: Mapping[str, object]) -> nn.Module:
    if isinstance(target, nn.Module):
        _refuse_arguments(arguments, spec, "an instance")
        return target
    if (
        isinstance(target, ModuleType)
        or not callable(target)
        or (isinstance(target, type) and not issubclass(target, nn.Module))
    ):
        raise _make_no_model_error(spec, f"names {_describe(target)}, not a model")
    _check_signature(target, spec, arguments)
    model = _call(target, spec, arguments)
    if not isinstance(model, nn.Module):
        raise _make_no_model_error(spec, f"was called and returned {_describe(model)}, not a model")
    return model


def _make_no_model_error(spec: str, what: str) -> UsageError:
    return UsageError(
        f"{spec} {what}",
        where=f"SPEC {spec}",
        fix="name a subclass of torch.nn.Module, an instance, or a function that returns one",
    )


def _describe(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, ModuleType):
        return f"the module {value.__name__}"
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


def _refuse_arguments(arguments: Mapping[str, object], spec: str, kind: str) -> None:
    if arguments:
        raise UsageError(
            f"{spec} is {kind} and takes no arguments",
            where=f"--arg {next(iter(arguments))}",
            fix="leave --arg out, or name its class",
        )


def _check_signature(
    target: Callable[..., Any], spec: str, arguments: Mapping[str, object]
) -> None:
    """Names what is missing or unknown before anything is called."""
    try:
        signature = inspect.signature(target)
    except (ValueError, TypeError):  # built in C without a signature: the call itself will tell
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        named = [
            p
            for p in signature.parameters.values()
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        unknown = [name for name in arguments if name not in {p.name for p in named}]
        if unknown:
            raise UnknownNameError(
                f"{spec} takes no argument {unknown[0]!r}",
                where=f"{get_target_name(target)}{signature}",
                fix=suggest(unknown[0], [p.name for p in named]),
            ) from error
        missing = [p.name for p in named if p.default is p.empty and p.name not in arguments]
        raise UsageError(
            (
                f"{spec} needs {'an argument' if len(missing) == 1 else 'arguments'}: "
                f"{', '.join(missing)}"
            ),
            where=f"{get_target_name(target)}{signature}",
            fix="add " + " ".join(f"--arg {name}=..." for name in missing),
        ) from error


def get_target_name(target: object) -> str:
    """The name of a class or function as its user wrote it."""
    return str(getattr(target, "__qualname__", type(target).__name__))


def _call(target: Callable[..., Any], spec: str, arguments: Mapping[str, object]) -> object:
    try:
        return target(**arguments)
    except ProbeError:
        raise
    except MemoryError as error:
        raise TargetError(
            f"building {spec} needs more memory than is available",
            where=find_user_line(error) or spec,
            fix="make it smaller with --arg",
        ) from error
    except (Exception, SystemExit) as error:
        raise TargetError(
            f"building {spec} raised {describe_error(error)}",
            where=find_user_line(error) or spec,
            fix=f"call super().__init__() first in the __init__ of {type(unfinished).__name__}"
            if (unfinished := find_unfinished_module(error)) is not None
            else "correct that line, or give other constructor arguments with --arg",
        ) from error


def find_unfinished_module(error: BaseException) -> nn.Module | None:
    """The module whose attributes were set or read before nn.Module.__init__ ran, from torch's own
    frame of it.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_locals.get("self")
        if (
            frame.f_code.co_name in ("__setattr__", "__getattr__")
            and isinstance(module, nn.Module)
            and "_modules" not in module.__dict__
        ):
            return module
    return None


def _build_from_zoo(package: str, name: str, arguments: Mapping[str, object]) -> nn.Module:
    make = _find_torchvision_builder if package == "torchvision" else _find_timm_builder
    try:
        builder, fixed = make(name)
    except (
        ImportError,
        PackageNotFoundError,
        RuntimeError,
    ) as error:  # RuntimeError: a torchvision built for another torch
        raise TargetError(
            f"{package} could not be imported: {describe_error(error)}",
            where=f"SPEC {package}:{name}",
            fix=f"pip install {package}, in a version that matches this torch",
        ) from error
    _check_signature(builder, f"{package}:{name}", arguments)
    model = _call(builder, f"{package}:{name}", {**fixed, **arguments})
    if not isinstance(model, nn.Module):
        raise _make_no_model_error(f"{package}:{name}", f"returned {_describe(model)}, not a model")
    return model


def _find_torchvision_builder(name: str) -> tuple[Callable[..., Any], dict[str, object]]:
    """The builder, and the arguments that keep it from downloading weights."""
    from torchvision import models

    known = models.list_models()
    if name not in known:
        raise UnknownNameError(
            f"torchvision has no model {name!r}",
            where=f"SPEC torchvision:{name}",
            fix=_suggest_name(name, known, "torchvision"),
        )
    builder = models.get_model_builder(name)
    fixed: dict[str, object] = {"weights": None}
    accepted = inspect.signature(builder).parameters
    if "weights_backbone" in accepted:  # its default is a download
        fixed["weights_backbone"] = None
    if name in (
        "googlenet",
        "inception_v3",
    ):  # the value that their default stands for; saying it silences their warning
        fixed["init_weights"] = True
    return builder, fixed


def _find_timm_builder(name: str) -> tuple[Callable[..., Any], dict[str, object]]:
    import timm

    known = timm.list_models()
    if (
        name.partition(".")[0] not in known
    ):  # "resnet18.a1_in1k": a tag of its weights; "hf-hub:..." would go to the network
        raise UnknownNameError(
            f"timm has no model {name!r}",
            where=f"SPEC timm:{name}",
            fix=_suggest_name(name, known, "timm"),
        )

    def create(**arguments: Any) -> object:
        return timm.create_model(name, **arguments)

    return create, {"pretrained": False}


def _suggest_name(name: str, known: list[str], package: str) -> str:
    fix = suggest(name, known)
    return (
        fix
        if fix.startswith("did")
        else f"{FORMS}; {package}.list_models() lists {len(known)} names"
    )
