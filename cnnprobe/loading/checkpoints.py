"""Weights from a file into a model. Reading one never runs code, unless the user trusts the file's
pickle by name.

A file is recognised by what it holds, not by its suffix. `torch.load(weights_only=True)` is what
refuses code; the listing of globals only serves the message.
"""

import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from cnnprobe.errors import TargetError, UsageError, suggest
from cnnprobe.loading.user_errors import TargetWarning, describe_error

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
_NESTS = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "weights",
)  # where training scripts keep it, likeliest first
_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel and DistributedDataParallel; torch.compile
_SAFE_SINCE = (2, 10)  # CVE-2026-24747: below it a crafted file gets past weights_only=True
_SHOWN = 4


def load_weights(model: nn.Module, path: Path, *, trust_pickle: bool = False) -> None:
    """The tensors in the file `path` become those of `model`, which they have to fit exactly: by
    names and by shapes.

    Prefixes that DistributedDataParallel and torch.compile put before names are taken off.

    Raises:
        UsageError: there is no such file.
        TargetError: the file cannot be read, wants code to be run, or does not fit.
    """
    model = getattr(model, "_orig_mod", model)
    state = _strip_wrappers(read_state(path, trust_pickle=trust_pickle), set(model.state_dict()))
    wrong_shapes = _list_wrong_shapes(model, state)
    for name in wrong_shapes:
        del state[name]
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise TargetError(
            f"{path} does not fit {type(model).__name__}: {error}", where=str(path), fix=_FIT
        ) from error
    missing = [name for name in missing if name not in wrong_shapes]
    if missing or unexpected or wrong_shapes:
        counts = (
            f"{len(missing)} missing, {len(unexpected)} unexpected, {len(wrong_shapes)} with a "
            "different shape"
        )
        named = [
            _describe_names("missing", missing),
            _describe_names("unexpected", unexpected),
            "; ".join(list(wrong_shapes.values())[:_SHOWN]),
        ]
        raise TargetError(
            f"{path} does not fit {type(model).__name__}: {counts}",
            where=f"{path}: " + "; ".join(part for part in named if part),
            fix=_FIT,
        )


_FIT = (
    "build the model with the arguments it had when these weights were saved (--arg name=value), "
    "or give weights that fit"
)


def _describe_names(kind: str, names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{kind} " + ", ".join(repr(name) for name in names[:_SHOWN]) + more if names else ""


def _list_wrong_shapes(model: nn.Module, state: Mapping[str, object]) -> dict[str, str]:
    lazy = UninitializedParameter | UninitializedBuffer
    wanted = {
        name: value
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor) and not isinstance(value, lazy)
    }
    wrong = {}
    for name, value in state.items():
        if name in wanted and isinstance(value, Tensor) and value.shape != wanted[name].shape:
            wrong[name] = (
                f"{name!r} is {tuple(value.shape)} in the file and {tuple(wanted[name].shape)} in "
                "the model"
            )
    return wrong


def _strip_wrappers(state: Mapping[str, object], wanted: set[str]) -> dict[str, object]:
    """The state under the model's own names, where a wrapper has put its prefix before them or
    within them.
    """
    renamed = {name: value for name, value in state.items() if isinstance(name, str)}
    while prefix := next(
        (p for p in _WRAPPERS if renamed and all(name.startswith(p) for name in renamed)), None
    ):
        if any(name.startswith(prefix) for name in wanted):
            break
        renamed = {name.removeprefix(prefix): value for name, value in renamed.items()}
    if not any("_orig_mod." in name for name in wanted):
        renamed = {
            name.replace("._orig_mod.", ".").removeprefix("_orig_mod."): value
            for name, value in renamed.items()
        }
    return renamed


def read_state(path: Path, *, trust_pickle: bool = False) -> Mapping[str, object]:
    """The state_dict in a file, also where it lies under "state_dict", "model" and the like."""
    kind = detect_kind(path)
    if kind == "safetensors":
        return _read_safetensors(path)
    if kind == "torchscript":
        raise TargetError(
            f"{path} is TorchScript, whose modules cannot be observed",
            where=str(path),
            fix="save the Python model's state_dict()",
        )
    if kind in ("zip", "pickle"):
        return _find_state(read_pickle(path, trust_pickle=trust_pickle), path)
    raise TargetError(
        f"{path} {_NO_CHECKPOINT[kind]}",
        where=str(path),
        fix="give a .safetensors file, or a state_dict saved by torch.save",
    )


_NO_CHECKPOINT = {
    "empty": "is empty",
    "damaged": "is truncated or damaged",
    "pt2": "is an exported program; name it as the SPEC",
    "lfs": "is a Git LFS pointer, not the file itself (git lfs pull fetches it)",
    "unknown": "is not a checkpoint",
}


def detect_kind(path: Path) -> str:
    """What a file holds, by its content: "safetensors", "torchscript", "pt2", "zip", "pickle", or
    why it is none of them.

    Raises:
        UsageError: there is no such file, or it cannot be opened.
    """
    if not path.is_file():
        near = (
            [str(p) for p in path.parent.glob("*") if p.suffix in SUFFIXES]
            if path.parent.is_dir()
            else []
        )
        what = "is a folder" if path.is_dir() else "is not there"
        raise UsageError(
            f"the file {str(path)!r} {what}",
            where="the file of weights",
            fix=suggest(str(path), near) if near else "check the path",
        )
    try:
        with path.open("rb") as file:
            head = file.read(40)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", where=str(path), fix="check its permissions"
        ) from error
    if head[:4] == b"PK\x03\x04":
        return _detect_zip_kind(path)
    if head[8:9] == b"{":
        return "safetensors"
    if head[:1] == b"\x80":
        return "pickle"
    if not head:
        return "empty"
    return "lfs" if head.startswith(b"version https://git-lfs") else "unknown"


def _detect_zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError):
        return "damaged"
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return "torchscript"
    if "archive_format" in names or "models/model.json" in names:
        return "pt2"
    return "zip" if "data.pkl" in names else "unknown"


def _read_safetensors(path: Path) -> Mapping[str, object]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise TargetError(
            "reading .safetensors requires the package safetensors",
            where=str(path),
            fix="pip install safetensors",
        ) from error
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise TargetError(
            f"{path} is truncated or damaged: {describe_error(error)}",
            where=str(path),
            fix="copy or download it again",
        ) from error


def read_pickle(path: Path, *, trust_pickle: bool = False) -> object:
    """What torch.save put into a file; code in it is run only under `trust_pickle`, after its
    globals were named in a warning.
    """
    if (torch_version := _read_version()) < _SAFE_SINCE:
        warnings.warn(
            f"torch {'.'.join(map(str, torch_version))} lets a crafted checkpoint past "
            "weights_only (CVE-2026-24747): "
            f"read {path} only if you trust it, or use torch >= 2.10 or safetensors",
            TargetWarning,
            stacklevel=2,
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Detected pickle protocol"
            )  # where that matters it fails, and is told below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = ", ".join(find_unsafe_globals(path)) or _find_global(error)
        if not wanted:
            raise _make_unreadable_error(path, error) from error
        if not trust_pickle:
            raise TargetError(
                f"{path} would run code when it is read: it names {wanted}",
                where=str(path),
                fix=(
                    "save model.state_dict() instead; or add --trust-pickle if you trust whoever "
                    "made the file"
                ),
            ) from error
        warnings.warn(
            f"{path} is trusted and may run code: it names {wanted}", TargetWarning, stacklevel=2
        )
    except Exception as error:
        raise _make_unreadable_error(path, error) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise _make_unreadable_error(path, error) from error


def _read_version() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", torch.__version__)
    return (int(found[1]), int(found[2])) if found else _SAFE_SINCE


def _make_unreadable_error(path: Path, error: BaseException) -> TargetError:
    return TargetError(
        f"{path} is truncated or damaged: {describe_error(error)}",
        where=str(path),
        fix="copy or download it again",
    )


def _find_global(error: BaseException) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return found[1] if found else ""


def find_unsafe_globals(path: Path) -> list[str]:
    """The functions and classes beyond tensors that a pickle names, read without running it; for
    messages only.
    """
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (
        ValueError,
        RuntimeError,
    ):  # a bare pickle, or the older format of torch.save, which is several in a row
        return sorted(
            name
            for name in _list_pickle_globals(path)
            if not name.startswith(("torch._utils.", "collections.OrderedDict"))
        )


def _list_pickle_globals(path: Path) -> set[str]:
    found: set[str] = set()
    with path.open("rb") as file:
        try:
            while file.peek(1):
                found.update(_list_globals(pickletools.genops(file)))
        except Exception:  # past the pickles lie raw numbers; genops raises many kinds there
            return found
    return found


def _list_globals(
    operations: Iterable[tuple[pickletools.OpcodeInfo, object, int | None]],
) -> set[str]:
    found, strings, memo = set(), [""], dict[object, str]()
    for operation, argument, _ in operations:
        if operation.name in ("GLOBAL", "INST"):
            found.add(str(argument).replace(" ", "."))
        elif operation.name == "STACK_GLOBAL":
            found.add(".".join(strings[-2:]))
        elif operation.name == "MEMOIZE":
            memo[len(memo)] = strings[-1]
        elif "PUT" in operation.name:
            memo[argument] = strings[-1]
        elif "GET" in operation.name:
            strings.append(memo.get(argument, ""))
        elif isinstance(argument, str):
            strings.append(argument)
    return found


def _find_state(saved: object, path: Path) -> Mapping[str, object]:
    if isinstance(saved, nn.Module):
        return saved.state_dict()
    while isinstance(saved, Mapping):
        nested = next(
            (saved[name] for name in _NESTS if isinstance(saved.get(name), Mapping | nn.Module)),
            None,
        )
        if nested is None:
            break
        saved = nested.state_dict() if isinstance(nested, nn.Module) else nested
    if isinstance(saved, Mapping) and any(isinstance(value, Tensor) for value in saved.values()):
        return saved
    held = f"a {type(saved).__name__}" + (
        f" of {', '.join(repr(k) for k in list(saved)[:_SHOWN])}"
        if isinstance(saved, Mapping)
        else ""
    )
    raise TargetError(
        f"{path} contains {held}, not a state_dict",
        where=str(path),
        fix="save model.state_dict(), alone or under 'state_dict'",
    )


def refuse_as_model(path: Path) -> NoReturn:
    """A file of weights alone does not name a model: says which kind it is, and what to give
    instead.
    """
    if detect_kind(path) == "torchscript":
        raise TargetError(
            f"{path} is TorchScript, whose modules cannot be observed",
            where=f"SPEC {path}",
            fix="name the Python class: path/to/file.py:Class",
        )
    raise UsageError(
        f"{path} contains weights, not a model",
        where=f"SPEC {path}",
        fix=f"name the model's class, and add --weights {path}",
    )
