"""The verb of a whole training run."""

import functools
import os
import sys
from collections.abc import Sequence
from typing import Any

from torch import nn

from cnnprobe.monitoring import EVERYTHING, Settings
from cnnprobe.monitoring.runs import Monitor, start
from cnnprobe.recorder.peers import needs_all_ranks
from cnnprobe.records.explanation import Explanation


def monitor(
    model: nn.Module,
    optimizer: Any = None,
    *,
    every: int = 1,
    budget: float | None = None,
    modules: Sequence[str] = ("*",),
    what: Sequence[str] = EVERYTHING,
    fraction: float = 1.0,
    histograms: bool = False,
    window: int = 10,
    loss_fn: Any = None,
    raise_on_nan: bool = False,
    log: str | os.PathLike[str] | None = None,
    resume: bool | int = False,
    tensorboard: Any = None,
    live: bool = False,
) -> Monitor:
    """A context manager around the user's own training loop, of which nothing is changed: the
    weights come out equal to the bit.

    It sees activations, their gradients, parameters and their gradients, updates, learning rate,
    loss, the first NaN, dead channels, and graphs that live on. An exception gains its explanation
    as notes, as under `record`. `history` has them as arrays over
    the steps, `findings` what the rules say, `report` both; each as of now. A step ends with the
    optimizer's step; without an optimizer when the model is called again after a backward pass.

    Args:
        model: the model, as the loop calls it.
        optimizer: its optimizer; several in a list, of which the last one's step ends a step.
        every: only each `every`-th step is observed, from the first on; the others cost a few
            microseconds.
        budget: the part of the time that may be spent (0.01 is one percent); `every` is then chosen
            by itself.
        modules: patterns of module names that are observed: `("layer1.*", "fc")`; "" is the model
            itself.
        what: of "activation", "gradient", "parameter" and "update", those that are observed.
        fraction: the part of each batch that is read of the activations.
        histograms: also keep how the values lie, by magnitude, at each observed step.
        window: observed steps over which a channel must be zero to be called dead.
        loss_fn: the loss module, whose calls then tell the loss. Left out, a stock one among the
            caller's variables is taken; or say `monitor.loss(loss)`.
        raise_on_nan: stop at the first NaN of an observed step, before the optimizer spoils the
            weights; on a GPU at the end of the step.
        log: a file for JSON lines, which `cnnprobe.load` reads back; a run that is killed keeps
            what it had. Beyond 64 MiB it begins anew with the run so far in short, and the file
            before stays beside it with ".1" behind its name. A full disk, or a folder that cannot
            be written to, is said once, and the training goes on. With several ranks each writes a
            file of its own: in the folder that this names, or beside "run.jsonl" as
            "run.rank0.jsonl".
        resume: go on in the log of an earlier run, after its last step; or at a step that is given,
            as that of a checkpoint: later ones are replaced. Without such a file a new one begins.
        tensorboard: a folder for TensorBoard, or a SummaryWriter.
        live: show a line of progress, in a terminal or in a notebook.

    Raises:
        TargetError: `model` is no nn.Module, `optimizer` no optimizer, or TensorBoard is not
            installed.
        UsageError: `every`, `budget`, `fraction`, `window` or `resume` make no sense.
        ProbeError: the log cannot be written, or the one to resume cannot be read.
        NonFiniteError: in the loop, with `raise_on_nan`.

    >>> import torch
    >>> from torch import nn
    >>> model, loss_fn = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), nn.CrossEntropyLoss()
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with monitor(model, optimizer, every=10) as watched:
    ...     for step in range(30):
    ...         optimizer.zero_grad()
    ...         loss_fn(model(torch.ones(3, 4)), torch.tensor([0, 1, 0])).backward()
    ...         optimizer.step()
    >>> watched.history.steps, len(watched.history.of("1", "gradient")["norm"])
    ((0, 10, 20), 3)
    """  # noqa: E501
    settings = Settings(
        every=every, budget=budget, modules=tuple(modules), what=tuple(what), fraction=fraction,
        histograms=histograms, window=window, raise_on_nan=raise_on_nan,
    )  # fmt: skip
    caller = sys._getframe(1)
    outputs = {
        "log": log, "resume": resume, "tensorboard": tensorboard, "live": live,
        "place": (caller.f_code.co_filename, caller.f_lineno),
    }  # fmt: skip
    watched = start(
        model,
        optimizer,
        settings,
        loss_fn=loss_fn,
        outputs=outputs,
        around=caller.f_locals,
    )
    if not needs_all_ranks(
        model
    ):  # it is explained by passes, which other ranks would have to make
        watched.explain = functools.partial(_explain, model)
    return watched


def _explain(model: nn.Module, error: Exception) -> Explanation | None:
    from cnnprobe.crash import explain_unseen  # most trainings do not crash

    return explain_unseen(model, error)
