"""Slips of the pen in a training loop: a loss class called as a function, a tensor asked for a key, a list of tensors made a tensor, an index short of an axis."""

import ast
import inspect
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.crash.edits.files import Change, UnknownPlaceError, open_file, write_changes
from cnnprobe.crash.facts.frames import find_frames, list_calls, read_locals, walk_expression
from cnnprobe.crash.facts.source import evaluate
from cnnprobe.crash.training import Crash, Verdict
from cnnprobe.explanation import Repair

_LOSSES = "torch/nn/modules/loss.py"


def explain_slip(crash: Crash) -> Verdict | None:
    """What is wrong with the wording of the failing line of a loop; None where that is not known."""
    checks: tuple[Callable[[Crash], Verdict | None], ...] = (
        _loss_class,
        _asked_for_a_key,
        _list_of_tensors,
        _gathered,
    )
    return next((verdict for check in checks if (verdict := check(crash)) is not None), None)


def _reworded(error: BaseException, old: ast.expr, text: str) -> str:
    """The diff that writes an expression of the failing line otherwise."""

    def written() -> list[Change]:
        frame = find_frames(error)[-1]
        file, shown = open_file(frame.filename), ast.unparse(old)
        first, last = frame.lineno or 0, frame.end_lineno or frame.lineno or 0
        found = [
            n
            for n in ast.walk(file.tree)
            if isinstance(n, ast.expr) and first <= n.lineno <= last and ast.unparse(n) == shown
        ]
        if len(found) != 1:
            raise UnknownPlaceError
        return [file.replace(found[0], text)]

    return write_changes(written)


# -- nn.MSELoss(output, targets) ---------------------------------------------------------------------------------------------


def _loss_class(crash: Crash) -> Verdict | None:
    """A loss that was made from tensors, which are taken for its settings."""
    made = None
    for frame, _ in traceback.walk_tb(crash.error.__traceback__):
        path, module = frame.f_code.co_filename.replace("\\", "/"), frame.f_locals.get("self")
        if (
            path.endswith(_LOSSES)
            and frame.f_code.co_name == "__init__"
            and isinstance(module, nn.Module)
            and made is None
        ):
            made = (
                type(module),
                [
                    frame.f_locals.get(name)
                    for name in list(inspect.signature(frame.f_locals["self"].__class__).parameters)
                ],
            )
    tensors = [v for v in made[1] if isinstance(v, Tensor)] if made is not None else []
    if made is None or len(tensors) < 2:
        return None
    kind = made[0].__name__
    repair = _made_first(crash, made[0], tensors)
    return Verdict(
        diagnosis="call-signature",
        message=f"nn.{kind}(...) makes the loss, and takes the tensors for its settings: the loss is to be called with them",
        arithmetic=f"given {', '.join(str(tuple(t.shape)) for t in tensors)}",
        repairs=(repair,),
        tensors=tuple(tensors),
        raised_in=f"nn.{kind}",
    )


def _made_first(crash: Crash, kind: type[nn.Module], tensors: list[Tensor]) -> Repair:
    tried = ""
    try:
        with torch.no_grad():
            value = kind()(*tensors)
        tried = f"tried: the loss passes and gives {float(value):.4g}"
    except Exception as error:  # the loss finds another fault in them
        tried = f"tried: the loss then raises {type(error).__name__}"
    works = "gives" in tried
    called = next(
        (
            c
            for c in list_calls(crash.error)
            if ast.unparse(c.func).rpartition(".")[2] == kind.__name__
        ),
        None,
    )
    patch = (
        _reworded(crash.error, called.func, f"{ast.unparse(called.func)}()")
        if called is not None and works
        else ""
    )
    title = f"write nn.{kind.__name__}()(output, targets): the first parentheses make the loss"
    return Repair(
        title=title,
        code=f"nn.{kind.__name__}()",
        works=works,
        plausible=works,
        tried=tried,
        patch=patch,
    )


# -- output['logits'] --------------------------------------------------------------------------------------------------------


def _asked_for_a_key(crash: Crash) -> Verdict | None:
    """A tensor that is taken for a dict."""
    if not isinstance(crash.error, IndexError | TypeError):
        return None
    values = read_locals(crash.error)
    for node in walk_expression(crash.error):
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.slice, ast.Constant)
            and isinstance(node.slice.value, str)
        ):
            value, written = evaluate(node.value, values), ast.unparse(node.value)
            if isinstance(value, Tensor):
                patch = _reworded(crash.error, node, written)
                return Verdict(
                    diagnosis="call-signature",
                    message=f"{written} is a tensor of {tuple(value.shape)}, not a dict: it has no {node.slice.value!r}",
                    arithmetic="the model returns the tensor itself",
                    repairs=(
                        Repair(
                            title=f"write {written} instead of {ast.unparse(node)}",
                            code=written,
                            patch=patch,
                        ),
                    ),
                    tensors=(value,),
                )
    return None


# -- torch.tensor([x1, x2]) --------------------------------------------------------------------------------------------------


def _list_of_tensors(crash: Crash) -> Verdict | None:
    """torch.tensor of tensors with more than one element, which are to be stacked."""
    values = read_locals(crash.error)
    for call in list_calls(crash.error):
        value: Any = evaluate(call.args[0], values) if call.args else None
        is_list = (
            isinstance(value, list | tuple)
            and len(value) > 0
            and all(isinstance(v, Tensor) for v in value)
        )
        if (
            ast.unparse(call.func)
            not in ("torch.tensor", "torch.Tensor", "torch.FloatTensor", "torch.LongTensor")
            or not is_list
        ):
            continue
        shapes = list(dict.fromkeys(tuple(v.shape) for v in value))
        if shapes == [()]:
            return None
        text = f"torch.stack({ast.unparse(call.args[0])})"
        works = len(shapes) == 1
        return Verdict(
            diagnosis="not-a-tensor",
            message=f"{ast.unparse(call.func)} makes a tensor of numbers, and was given {len(value)} tensors of {shapes[0]}",
            arithmetic=f"{len(value)} tensors of {len(shapes)} shape{'s' * (len(shapes) != 1)}",
            repairs=(
                Repair(
                    title=f"write {text} instead of {ast.unparse(call)}"
                    + ("" if works else ", once they have one shape"),
                    code=text,
                    works=works,
                    plausible=works,
                    tried=f"tried: it gives {tuple(torch.stack(list(value)).shape)}"
                    if works
                    else "",
                    patch=_reworded(crash.error, call, text) if works else "",
                ),
            ),
            tensors=tuple(value[:2]),
        )
    return None


# -- logp.gather(1, y) -------------------------------------------------------------------------------------------------------


def _gathered(crash: Crash) -> Verdict | None:
    """An index with an axis too few for gather."""
    values = read_locals(crash.error)
    for call in list_calls(crash.error):
        if not isinstance(call.func, ast.Attribute) or call.func.attr != "gather":
            continue
        is_function = isinstance(call.func.value, ast.Name) and call.func.value.id == "torch"
        given = call.args if is_function else [call.func.value, *call.args]
        x, dim, index = (
            (evaluate(node, values) for node in given) if len(given) == 3 else (None, None, None)
        )
        if (
            not isinstance(x, Tensor)
            or not isinstance(index, Tensor)
            or not isinstance(dim, int)
            or index.dim() != x.dim() - 1
        ):
            continue
        written = ast.unparse(given[2])
        return _unsqueezed(crash, given[2], f"{written}.unsqueeze({dim})", parts=(x, dim, index))
    return None


def _unsqueezed(crash: Crash, node: ast.expr, text: str, *, parts: tuple[Any, int, Any]) -> Verdict:
    x, dim, index = parts
    tried = ""
    try:
        tried = f"tried: it gives {tuple(x.detach().gather(dim, index.unsqueeze(dim)).shape)}"
    except (RuntimeError, IndexError):  # the labels are out of range as well
        tried = ""
    return Verdict(
        diagnosis="shape-mismatch",
        message=f"gather wants an index with as many axes as its tensor {tuple(x.shape)}, and {ast.unparse(node)} is {tuple(index.shape)}",
        arithmetic=f"{x.dim()} axes against {index.dim()}",
        repairs=(
            Repair(
                title=f"pass {text} to gather",
                code=text,
                works=bool(tried),
                plausible=bool(tried),
                tried=tried,
                patch=_reworded(crash.error, node, text) if tried else "",
            ),
        ),
        tensors=(x, index),
    )
