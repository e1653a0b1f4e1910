"""Runs the examples of causes: each is a program in a file of its own, as a user has it."""

import atexit
import functools
import itertools
import linecache
import pathlib
import shutil
import sys
import tempfile
import types

import torch

import cnnprobe

_NUMBERS = itertools.count()


def open_program(text, folder):
    """A program as the module of a file in a folder."""
    number = next(_NUMBERS)
    path = pathlib.Path(folder) / f"program_{number}.py"
    path.write_text(text)
    linecache.checkcache(str(path))
    module = types.ModuleType(f"program_{number}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    torch.manual_seed(0)
    exec(compile(text, str(path), "exec"), module.__dict__)
    return module


def explain_program(module):
    """What is said of a program: of the forward on `args`, or of `run(model)`; None if it runs."""
    torch.manual_seed(0)
    if not hasattr(module, "run"):
        return cnnprobe.probe(module.model, *module.args).explanation
    recording = None
    try:
        with cnnprobe.record(module.model) as recording:
            module.run(module.model)
    except Exception:
        assert recording is not None
        assert recording.explanation is not None
    return recording.explanation


def explain_text(text, folder):
    """What is said of the text of a program."""
    module = open_program(text, folder)
    try:
        return explain_program(module)
    finally:
        del sys.modules[module.__name__]


@functools.cache
def make_folder():
    """One folder for the programs of a process; gone when the process ends."""
    folder = tempfile.mkdtemp(prefix="cnnprobe-examples-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def explain_example(text):
    """What is said of a program, found once for all tests of a process."""
    return explain_text(text, make_folder())
