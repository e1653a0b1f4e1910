"""`cnnprobe graph`: what autograd built, or how the modules are connected; and how one run differs
from the next.
"""

import gc
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cnnprobe.cli.loaded import Loaded, load, send_prints_to_stderr
from cnnprobe.cli.options import (
    InputRequest,
    ModelRequest,
    OutputRequest,
    add_input_options,
    add_model_options,
)
from cnnprobe.cli.output import check_file, write
from cnnprobe.cli.program import tell
from cnnprobe.cli.progress import show_progress
from cnnprobe.document.graph_formats import find_format, list_suffixes, list_text_formats
from cnnprobe.errors import TargetError

if TYPE_CHECKING:
    from cnnprobe.graph import Graph
    from cnnprobe.recorder.autograd import KeptGraph
    from cnnprobe.records.trace import Trace


@click.command(
    "graph", short_help="Draw the graph of modules, or of autograd; show how two runs differ."
)
@add_model_options
@add_input_options
@click.option(
    "--view",
    type=click.Choice(["modules", "autograd"]),
    default="modules",
    show_default=True,
    help="Module calls, or autograd's nodes.",
)
@click.option(
    "--depth",
    type=click.IntRange(1),
    metavar="N",
    help="Open modules N levels deep.  [default: as far as 80 boxes allow]",
)
@click.option("--around", metavar="FQN", help="Show only this module and its neighbours.")
@click.option(
    "--runs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Run N times, and show how the graphs differ.",
)
@click.option(
    "--unreached",
    "missing",
    is_flag=True,
    help="List the parameters that no gradient can reach, and why.",
)
@click.option(
    "--kept", is_flag=True, help="Also run backward, and show what keeps the graph alive after it."
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "own", "dot", "pygraphviz"]),
    default="own",
    show_default=True,
    help="Layout engine for SVG; auto tries dot, then pygraphviz, 10 seconds each.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(list_text_formats()),
    help="Output format.  [default: by the suffix of -o, else text]",
)
@click.option(
    "-o",
    "--output",
    "file",
    metavar="FILE",
    help="Write the graph to this file: " + " ".join(list_suffixes()),
)
def graph_command(
    model: ModelRequest,
    given: InputRequest,
    *,
    view: str,
    depth: int | None,
    around: str | None,
    runs: int,
    missing: bool,
    kept: bool,
    engine: str,
    form: str | None,
    file: str | None,
) -> None:
    """Run the model SPEC and draw its graph.

    \b
      cnnprobe graph torchvision:resnet18 -o graph.svg
      cnnprobe graph net.py:Net --input 1,3,32,32 --view autograd
      cnnprobe graph net.py:Net --input 1,3,32,32 --runs 2 --kept
    """
    wished = OutputRequest(format="text", file=file, width=None)
    check_file(wished)
    if file is not None and form is None:
        find_format(Path(file), where=f"-o {file}")
    with send_prints_to_stderr():
        loaded = load(model, given)
        with show_progress(f"running {model.spec}"):
            passes = [_run_pass(loaded, model) for _ in range(runs)]
            lives = _follow_lives(loaded, model, runs) if kept else []
    graphs = [_choose_graph(autograd, trace, view) for autograd, trace in passes]
    shown = (
        graphs[-1]
        if view == "autograd" and depth is None and around is None
        else graphs[-1].collapse(depth, around=around)
    )
    lines = []
    if missing:
        lines += _list_unreached(*passes[-1])
    if runs > 1:
        lines += _diff_runs(graphs)
    lines += lives
    if lines:
        click.echo("\n".join(lines))
    if file is not None or not lines:
        _put(shown, form, file, engine)


def _run_pass(loaded: Loaded, model: ModelRequest) -> "tuple[Graph, Trace]":
    """One forward pass with autograd on: its graph, and its recording."""
    import torch

    from cnnprobe.api import autograd_graph, record

    with torch.enable_grad(), record(loaded.model, statistics=False) as recording:
        output = _run_forward(loaded, model)
    return autograd_graph(output, loaded.model, trace=recording.trace), recording.trace


def _run_forward(loaded: Loaded, model: ModelRequest) -> object:
    try:
        return loaded.model(*loaded.args, **loaded.kwargs)
    except Exception as error:
        what = f"the forward pass raised {type(error).__name__}: {str(error).strip()}"
        raise TargetError(
            what, where=model.spec, fix="see `cnnprobe probe` with the same arguments"
        ) from error


def _choose_graph(autograd: "Graph", trace: "Trace", view: str) -> "Graph":
    from cnnprobe.graph import build_module_graph

    return autograd if view == "autograd" else build_module_graph(trace)


def _diff_runs(graphs: "list[Graph]") -> list[str]:
    found = []
    for number, (before, after) in enumerate(pairwise(graphs), start=2):
        difference = before.diff(after)
        found += [
            f"run {number} against run {number - 1}:",
            *(f"  {line}" for line in str(difference).splitlines()),
        ]
    return found


def _list_unreached(autograd: "Graph", trace: "Trace") -> list[str]:
    from cnnprobe.graph import find_unreached

    cuts = [str(cut) for cut in find_unreached(autograd, trace)]
    return cuts or ["a gradient can reach every parameter"]


def _follow_lives(loaded: Loaded, model: ModelRequest, runs: int) -> list[str]:
    """What is left of each run's graph after a backward pass from the sum of the outputs, once the
    outputs are dropped.
    """
    import torch

    from cnnprobe.recorder.autograd import GraphWatch

    watch = GraphWatch()
    ends = {}
    for number in range(1, runs + 1):
        with torch.enable_grad():
            output = _run_forward(loaded, model)
            watch.add_whole(output, f"run {number}")
            ends[f"run {number}"] = _run_backward(output, f"run {number}")
        del output
        loaded.model.zero_grad(set_to_none=True)
    gc.collect()
    left = {graph.label: graph for graph in watch.kept()}
    return [
        line
        for label, end in ends.items()
        for line in (*end, _describe_life(label, left.get(label)))
    ]


def _run_backward(output: object, label: str) -> list[str]:
    """Run backward from the sum of all that can be differentiated; what it raised."""
    import torch

    from cnnprobe.recorder.autograd import tensors_in

    ends = [tensor for tensor in tensors_in(output) if tensor.requires_grad]
    try:
        if ends:
            torch.autograd.backward([tensor.abs().sum() for tensor in ends])
    except RuntimeError as error:
        return [f"{label}: backward raised: {str(error).strip().partition('. ')[0]}"]
    return []


def _describe_life(label: str, graph: "KeptGraph | None") -> str:
    """One sentence of a run's graph."""
    from cnnprobe.document.render.units import format_size

    if graph is None:
        return f"{label}: its graph was freed after backward"
    held = [f"{format_size(graph.saved_bytes)} for backward"] if graph.saved_bytes else []
    held += [f"{format_size(graph.tensor_bytes)} of tensors"] if graph.tensor_bytes else []
    keepers = ", ".join(graph.keepers) or "something that Python cannot show"
    return f"{label}: its graph is kept alive by {keepers}" + (
        f": {' and '.join(held)}" if held else ""
    )


def _put(graph: "Graph", form: str | None, file: str | None, engine: str) -> None:
    from cnnprobe.document.graph_files import save_graph

    if file is None or form is not None:
        write(graph.to(form or "text"), OutputRequest(format=None, file=file, width=None))
        return
    failures = save_graph(graph, file, engine=engine)
    tell(
        f"wrote {file}"
        + (f" ({'; '.join(failures)}: another engine took over)" if failures else "")
    )
