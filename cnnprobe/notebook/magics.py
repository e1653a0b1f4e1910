"""`%load_ext cnnprobe`: `%probe model(x)` and `%%probe model` in IPython and Jupyter. IPython is
only imported by those who are in it.
"""

import ast
import importlib
from typing import Any

from torch import nn

from cnnprobe.api import keep_report, last_report, probe, record
from cnnprobe.errors import UsageError
from cnnprobe.report import Report

_FIX = "write `%probe model(x)`, or `%%probe model` over a cell that calls it"


def load_ipython_extension(shell: Any) -> None:
    """Called by `%load_ext cnnprobe`."""
    shell.register_magic_function(
        lambda line, cell=None: run_magic(shell, line, cell),
        magic_kind="line_cell",
        magic_name="probe",
    )


def run_magic(shell: Any, line: str, cell: str | None) -> Report:
    """What `%probe line` or `%%probe line` over a cell gives: the report, which IPython then shows.

    A line is a call, `model(x, flag=True)`, which is made once, neutrally observed. A cell is run
    as it stands, and the last call in it of the model that the line names is reported; if it
    raises, the report is shown and the exception goes on.

    Raises:
        UsageError: the line does not call a model, or names none, or the cell did not call it.
    """
    return _probe_call(shell, line) if cell is None else _record_cell(shell, line, cell)


def _probe_call(shell: Any, line: str) -> Report:
    try:
        call = ast.parse(line.strip(), mode="eval").body
    except SyntaxError as error:
        raise UsageError(
            f"{line.strip()!r} is not an expression", where="%probe", fix=_FIX
        ) from error
    if not isinstance(call, ast.Call):
        raise UsageError(f"{line.strip()!r} does not call a model", where="%probe", fix=_FIX)
    model = _find_model(shell, ast.unparse(call.func), "%probe")
    taken = ast.unparse(ast.Call(func=ast.Name("_taken"), args=call.args, keywords=call.keywords))
    args, kwargs = eval(taken, {**shell.user_ns, "_taken": lambda *args, **kwargs: (args, kwargs)})  # noqa: S307 - the user's own line
    return probe(model, *args, **kwargs)


def _record_cell(shell: Any, line: str, cell: str) -> Report:
    model = _find_model(shell, line.strip(), "%%probe")
    text = shell.transform_cell(cell)
    code = shell.compile(
        text, shell.compile.cache(text), "exec"
    )  # cached, so that a traceback shows the lines of the cell
    recording = record(model)
    error: BaseException | None = None
    try:
        with recording:
            exec(code, shell.user_ns)  # noqa: S102 - the user's own cell
    except BaseException as raised:
        error = raised
        raise
    finally:
        if recording.traces:
            keep_report(
                model, Report(trace=recording.trace, explanation=recording.explanation, error=error)
            )
            if isinstance(error, Exception):  # above the traceback that IPython is about to print
                importlib.import_module("IPython.display").display(last_report(model))
    if not recording.traces:
        raise UsageError(
            f"the cell did not call {line.strip()}",
            where="%%probe",
            fix="call the model in the cell, or name the one it calls",
        )
    return last_report(model)


def _find_model(shell: Any, name: str, where: str) -> nn.Module:
    if not name:
        raise UsageError("no model was given", where=where, fix=_FIX)
    model = eval(name, shell.user_ns)  # noqa: S307 - the user's own line
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"{name!r} is a {type(model).__name__}, not a model", where=where, fix=_FIX
        )
    return model
