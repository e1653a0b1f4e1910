"""Inputs of a forward pass from shapes and files: seeded random tensors, saved tensors, numpy
arrays, pictures.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from cnnprobe.errors import TargetError, UnknownNameError, UsageError, suggest
from cnnprobe.loading.checkpoints import detect_kind, read_pickle
from cnnprobe.loading.memory import format_binary, read_available_bytes
from cnnprobe.loading.user_errors import describe_error

FORM = "write a shape such as 1,3,32,32, or name a .pt, .npy, .png or .jpg file"
INTEGERS_BELOW = 8  # random integers are indices to most models: small enough for any vocabulary
_NUMBERED = (
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "complex64",
    "complex128",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "bool",
)
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in _NUMBERED}


def parse_dtype(name: str) -> torch.dtype:
    """The dtype of that name.

    >>> parse_dtype("bfloat16")
    torch.bfloat16
    """
    if name not in DTYPES:
        raise UnknownNameError(
            f"unknown dtype {name!r}", where=f"--dtype {name}", fix=suggest(name, DTYPES)
        )
    return DTYPES[name]


def _list_devices() -> list[str]:
    """The kinds of devices that this machine has."""
    accelerators = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["cpu", *accelerators, *(["mps"] if torch.backends.mps.is_available() else [])]


def parse_device(name: str) -> torch.device:
    """The device of that name, which this machine has to have."""
    try:
        device = torch.device(name)
        if device.type != "meta":
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        reason = reason.split(". ")[0]  # some explain themselves at length
        raise UsageError(
            f"device {name!r} is not available: {reason}",
            where=f"--device {name}",
            fix=f"use --device {', '.join(_list_devices())} or meta",
        ) from error
    return device


def load_inputs(
    specs: Iterable[str],
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> tuple[tuple[object, ...], dict[str, object]]:
    """The positional and the keyword arguments that the specs stand for.

    A spec is `1,3,32,32` or `1x3x32x32` (random: normal, or integers below 8), or the name of a .pt
    file (what torch.save put there, one argument), a .npy file, or a picture (shape (1, 3, H, W),
    in [0, 1]); `name=` before it makes it a keyword argument.

    Args:
        specs: the specs, in the order of the arguments.
        dtype: that of random inputs and of pictures, float32 if None; tensors from .pt and .npy
            files keep theirs.
        device: where the inputs are to be; random numbers are the same on every device.
        seed: of the random inputs; the global generator is left alone.

    Raises:
        UsageError: a malformed, zero, negative or impossibly large shape, a missing file, an
            unknown dtype or device.
        TargetError: a file that cannot be read.

    >>> args, kwargs = load_inputs(["2,3,8,8", "mask=2x8"])
    >>> args[0].shape, kwargs["mask"].shape
    (torch.Size([2, 3, 8, 8]), torch.Size([2, 8]))
    """
    dtype = parse_dtype(dtype) if isinstance(dtype, str) else dtype or torch.float32
    device = parse_device(device) if isinstance(device, str) else device
    generator = torch.Generator().manual_seed(seed)
    args: list[object] = []
    kwargs: dict[str, object] = {}
    for spec in specs:
        name, text = _split(spec)
        place = f"--input {spec}"
        shape = parse_shape(text, place)
        value = (
            draw_random_input(shape, dtype, device, generator)
            if shape
            else load_file(text, place, dtype=dtype, device=device)
        )
        if name in kwargs:
            raise UsageError(f"the input {name!r} is given twice", where=place, fix="give it once")
        if name:
            kwargs[name] = value
        else:
            args.append(value)
    return tuple(args), kwargs


def _split(spec: str) -> tuple[str, str]:
    found = re.fullmatch(r"([A-Za-z_]\w*)=(.*)", spec.strip(), re.DOTALL)
    return (found[1], found[2].strip()) if found and not Path(spec).exists() else ("", spec.strip())


def parse_shape(text: str, place: str) -> tuple[int, ...] | None:
    """The shape that `text` writes; None if it does not look like one, and so is a file. `place` is
    told where it is wrong.

    >>> parse_shape("1x3x32x32", "--input 1x3x32x32")
    (1, 3, 32, 32)
    """
    if not re.fullmatch(r"[-+\d\s.,x×()\[\]*]*", text):
        return None
    if not re.fullmatch(r"-?\d{1,18}(\s*[,x×]\s*-?\d{1,18})*", text):
        raise UsageError(f"{text!r} is not a shape", where=place, fix=FORM)
    shape = tuple(int(size) for size in re.split(r"[,x×]", text))
    if min(shape) < 1:
        raise UsageError(
            f"the shape {shape} has a size of {min(shape)}",
            where=place,
            fix="each size must be at least 1",
        )
    return shape


def draw_random_input(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> Tensor:
    """A random tensor: standard normal, or integers below 8 (bool: both), drawn on the CPU so that
    devices agree.
    """
    if device.type == "meta":
        return torch.empty(shape, dtype=dtype, device=device)
    _check_memory(shape, dtype, device)
    try:
        if dtype.is_floating_point or dtype.is_complex:
            drawn = torch.randn(shape, dtype=dtype, generator=generator)
        else:
            drawn = torch.randint(
                0, 2 if dtype == torch.bool else INTEGERS_BELOW, shape, generator=generator
            ).to(dtype)
        return drawn.to(device)
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise _make_too_large_error(
            shape, dtype, f"allocating it failed ({describe_error(error)})"
        ) from error


def _check_memory(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    needed = _count_bytes(shape, dtype)
    for place in {"cpu", device.type}:
        free = read_available_bytes(torch.device(place))
        if free is not None and needed > free:
            raise _make_too_large_error(
                shape, dtype, f"{format_binary(free)} of memory is free on {place}"
            )


def _count_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    needed = dtype.itemsize
    for size in shape:
        needed *= size
    return needed


def _make_too_large_error(shape: tuple[int, ...], dtype: torch.dtype, why: str) -> UsageError:
    return UsageError(
        f"the shape {shape} takes {format_binary(_count_bytes(shape, dtype))}, but {why}",
        where="--input " + ",".join(str(size) for size in shape),
        fix="use a smaller shape, or --device meta to see only the shapes",
    )


def load_file(text: str, place: str, *, dtype: torch.dtype, device: torch.device) -> object:
    """What a file of tensors or a picture holds, on the device; `dtype` is that of a picture."""
    value = _read_file(text, place, dtype)
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, value)


def _read_file(text: str, place: str, dtype: torch.dtype) -> object:
    path = Path(text)
    read = _READERS.get(path.suffix.lower())
    if not text or (read is None and not path.exists()):
        raise UsageError(f"{text!r} is neither a shape nor a file", where=place, fix=FORM)
    if not path.is_file():
        raise UsageError(
            f"there is no file {text!r}" if not path.is_dir() else f"{text!r} is a folder",
            where=place,
            fix=FORM,
        )
    if read is None:
        raise UsageError(
            f"inputs cannot be read from a {path.suffix or 'suffixless'} file",
            where=place,
            fix=FORM,
        )
    return read(path, dtype)


def _read_saved(path: Path, _: torch.dtype) -> object:
    kind = detect_kind(path)
    if kind not in ("zip", "pickle"):
        raise TargetError(
            f"{path} is {'truncated or damaged' if kind == 'damaged' else 'not a saved tensor'}",
            where=str(path),
            fix="save it with torch.save",
        )
    return read_pickle(path)


def _read_numpy(path: Path, _: torch.dtype) -> Tensor:
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
        return torch.from_numpy(
            np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
        )
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise TargetError(
            f"{path} contains no array that torch can read: {describe_error(error)}",
            where=str(path),
            fix="save numbers with numpy.save",
        ) from error


def _read_picture(path: Path, dtype: torch.dtype) -> Tensor:
    """Shape (1, 3, H, W): in [0, 1] for a floating dtype, 0 to 255 for an integer one."""
    import numpy as np

    try:
        from PIL import Image
    except ImportError as error:
        raise TargetError(
            "reading an image requires Pillow", where=str(path), fix="pip install pillow"
        ) from error
    try:
        with Image.open(path) as picture:
            pixels = torch.from_numpy(np.array(picture.convert("RGB")))
    except Exception as error:  # Pillow raises whatever its decoders do
        raise TargetError(
            f"{path} is not a readable image: {describe_error(error)}",
            where=str(path),
            fix="save it as PNG or JPEG",
        ) from error
    sample = pixels.permute(2, 0, 1).unsqueeze(0).contiguous()
    return sample.to(dtype) / 255 if dtype.is_floating_point else sample.to(dtype)


_READERS: dict[str, Callable[[Path, torch.dtype], object]] = {
    ".pt": _read_saved,
    ".pth": _read_saved,
    ".npy": _read_numpy,
    ".png": _read_picture,
    ".jpg": _read_picture,
    ".jpeg": _read_picture,
}
