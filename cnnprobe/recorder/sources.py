"""Which line of the user's made a call: the nearest frame outside torch and cnnprobe."""

import functools
import pathlib
import sys
import sysconfig
import threading
from types import CodeType, FrameType
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from cnnprobe.recorder.rows import ModuleRow

thread_id = threading.get_ident

_TORCH = str(pathlib.Path(torch.__file__).parent)
_LAYERS = str(pathlib.Path(nn.__file__).parent)
_MODULE = nn.Module._call_impl.__code__.co_filename
_WRAPPED = getattr(nn.Module, "_wrapped_call_impl", nn.Module._call_impl).__code__
_TO_WRAPPED = 4  # of_module_call <- hook <- inner <- _call_impl <- _wrapped_call_impl <- the caller
_PYTHONS = sysconfig.get_path("stdlib")
_INSTALLED = ("site-packages", "dist-packages")  # may stand below it
_OURS = str(pathlib.Path(__file__).parent.parent)
# what may stand between a hook and the call of the module
_CALLING = {
    _MODULE,
    *(
        str(pathlib.Path(__file__).with_name(f"{name}.py"))
        for name in ("watching", "threads", "execution")
    ),
}
_COMMAND = str(pathlib.Path(_OURS) / "cli")
# between a function's call and the mode that sees it; more are the user's recursion
_MOST_FRAMES = 24


# Of each code by its id: itself, as another one may have its id later, and the lines that were
# asked for by the place in it. To count the line of a frame costs more than all else that is asked
# of it.
_lines: dict[int, tuple[CodeType, dict[int, str]]] = {}
_MOST_CODES = 8_192


def _line_of(frame: FrameType) -> str:
    """The line that a frame is at, as "net.py:12"."""
    code = frame.f_code
    known = _lines.get(id(code))
    if known is None:
        if len(_lines) >= _MOST_CODES:
            _lines.clear()
        known = _lines[id(code)] = (code, {})
    line = known[1].get(frame.f_lasti)
    if line is None:
        line = known[1][frame.f_lasti] = f"{code.co_filename}:{frame.f_lineno}"
    return line


@functools.lru_cache(maxsize=4_096)
def is_users(filename: str) -> bool:
    """Whether a file is neither torch's nor ours, nor of Python's own library."""
    if filename.startswith(_PYTHONS) and not any(name in filename for name in _INSTALLED):
        return False
    return not filename.startswith((_TORCH, _OURS, "<frozen"))


@functools.lru_cache(maxsize=4_096)
def _is_torchs(filename: str) -> bool:
    return filename.startswith(_TORCH)


def of_module_call(parent: "ModuleRow | None") -> str:
    """The line that called a module, asked by its hook; a call made by torch's own containers is
    that of the container.
    """
    frame: FrameType | None = sys._getframe(_TO_WRAPPED)
    if frame is not None and frame.f_code is not _WRAPPED:
        frame = sys._getframe(2)  # another torch, or a __call__ of the user's
    while frame is not None and frame.f_code.co_filename in _CALLING:
        frame = frame.f_back
    while frame is not None and parent is None and frame.f_code.co_filename.startswith(_OURS):
        if frame.f_code.co_filename.startswith(_COMMAND):
            return ""  # the model was called by the command: there is no line of the user's
        frame = frame.f_back
    if frame is None:
        return ""
    filename = frame.f_code.co_filename
    if filename.startswith(_OURS):
        return find_nearest_line(frame)  # a step of ours calls the model
    if _is_torchs(filename):
        if parent is not None and filename.startswith(_LAYERS):
            return parent.source
        # checkpoint and the like call what a line of the user's gave them
        return find_nearest_line(frame) or (parent.source if parent is not None else "")
    return _line_of(frame)


def of_function_call(frame: FrameType | None, parent: "ModuleRow | None") -> str:
    """The line that called a torch function."""
    return find_nearest_line(frame) or (parent.source if parent is not None else "")


def find_nearest_line(frame: FrameType | None) -> str:
    """The line, as "net.py:12", of the innermost frame that is the user's; "" without one."""
    for _ in range(_MOST_FRAMES):
        if frame is None:
            return ""
        filename = frame.f_code.co_filename
        if filename.startswith(_COMMAND):
            return ""  # beyond it are the lines of the command's own libraries
        if is_users(filename):
            return _line_of(frame)
        frame = frame.f_back
    return ""


def is_ours(filename: str) -> bool:
    """Whether a file belongs to cnnprobe itself."""
    return filename.startswith(_OURS)


def hide_frames(error: BaseException | None) -> None:
    """Take our own frames out of a traceback, but for its first: the user looks for theirs."""
    entry = error.__traceback__ if error is not None else None
    while entry is not None:
        below = entry.tb_next
        while below is not None and is_ours(below.tb_frame.f_code.co_filename):
            below = below.tb_next
        entry.tb_next = below
        entry = below
