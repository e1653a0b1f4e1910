"""`cnnprobe compare` and `cnnprobe refactor`: whether two models are the same, and a model in
blocks that is proven to be.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from cnnprobe.cli.loaded import Loaded, load, send_prints_to_stderr
from cnnprobe.cli.options import (
    InputRequest,
    ModelRequest,
    OutputRequest,
    add_input_options,
    add_model_options,
    add_output_options,
    choose_format,
)
from cnnprobe.cli.output import check_file, write
from cnnprobe.cli.program import tell
from cnnprobe.cli.progress import show_progress
from cnnprobe.errors import CheckError, UsageError
from cnnprobe.records.differences import LEVELS

if TYPE_CHECKING:
    from cnnprobe.comparison.results import Comparison


@click.command("compare", short_help="Show whether two models are the same, and where they differ.")
@add_model_options
@click.argument("expected")
@add_input_options
@click.option("--level", type=click.Choice(LEVELS), help="Compare only this level.  [default: all]")
@click.option(
    "--transfer",
    is_flag=True,
    help="First copy the weights of the second model into the first, matching renamed modules.",
)
@click.option(
    "--expected-arg",
    "expected_arguments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Like --arg, for the second model.",
)
@click.option("--expected-weights", metavar="FILE", help="Like --weights, for the second model.")
@click.option(
    "--rtol",
    type=click.FloatRange(0),
    metavar="X",
    help="Relative tolerance.  [default: torch.testing's, by dtype]",
)
@click.option(
    "--atol",
    type=click.FloatRange(0),
    metavar="X",
    help="Absolute tolerance.  [default: torch.testing's, by dtype]",
)
@add_output_options
def compare_command(
    model: ModelRequest,
    expected: str,
    given: InputRequest,
    wished: OutputRequest,
    *,
    level: str | None,
    transfer: bool,
    expected_arguments: tuple[str, ...],
    expected_weights: str | None,
    rtol: float | None,
    atol: float | None,
) -> None:
    """Compare the model SPEC with the model EXPECTED, on the same inputs.

    \b
    Either may be a report that `cnnprobe probe -o report.json` has saved, both too:
    then statistics of each activation are compared in place of its values.

    Exit code 1: they differ (with --level: at that level).
    """
    check_file(wished)
    with send_prints_to_stderr():
        first: Any = model.spec if _is_saved(model.spec) else load(model, given)
        second = replace(
            model, spec=expected, arguments=expected_arguments, weights=expected_weights
        )
        other: Any = expected if _is_saved(expected) else load(second, given)
        comparison = _compare(
            first, other, transfer=transfer, options={"rtol": rtol, "atol": atol, "level": level}
        )
    write(comparison.to(choose_format(wished), width=wished.width), wished)
    holds = comparison.equivalent if level is None else comparison.levels[level]
    if not holds:
        if wished.file is not None:
            tell(f"they differ: {comparison!r}")
        click.get_current_context().exit(CheckError.exit_code)


def _is_saved(spec: str) -> bool:
    return spec.endswith(".json")


def _compare(
    first: Loaded | str, other: Loaded | str, *, transfer: bool, options: dict[str, Any]
) -> "Comparison":
    from cnnprobe.api import compare

    actual, expected = (side if isinstance(side, str) else side.model for side in (first, other))
    given = next(
        ((side.args, side.kwargs) for side in (first, other) if not isinstance(side, str)), ((), {})
    )
    with show_progress("comparing"):
        if transfer:
            if isinstance(first, str) or isinstance(other, str):
                raise UsageError(
                    "a saved report has no weights to transfer",
                    where="--transfer",
                    fix="name both models by their SPEC",
                )
            carried = compare(
                first.model,
                other.model,
                *first.args,
                **{**options, "level": "operations"},
                **first.kwargs,
            ).transfer()
            first.model.load_state_dict(carried)
        return compare(actual, expected, *given[0], **options, **given[1])


@click.command(
    "refactor", short_help="Rewrite a model as reusable blocks, and prove the result equivalent."
)
@add_model_options
@add_input_options
@add_output_options
def refactor_command(model: ModelRequest, given: InputRequest, wished: OutputRequest) -> None:
    """Find what repeats in the model SPEC, write it as block classes, and prove the result
    equivalent.

    \b
    -o blocks.py writes the source alone. Exit code 1: nothing folds, or the proof failed.
    """
    is_source = wished.file is not None and wished.file.endswith(".py") and wished.format is None
    if not is_source:
        check_file(wished)
    with send_prints_to_stderr():
        loaded = load(model, given)
        from cnnprobe.api import refactor

        with show_progress("refactoring"):
            refactoring = refactor(loaded.model, *loaded.args, **loaded.kwargs)
    if is_source and refactoring.source:
        write(refactoring.source, wished)
        tell("\n".join(block.pattern for block in refactoring.blocks))
        tell(f"proven: {refactoring.comparison!r}")
    elif not is_source:
        write(refactoring.to(choose_format(wished), width=wished.width), wished)
    if not refactoring.source:
        raise CheckError(
            "; ".join(refactoring.notes) if is_source else "the model was not rewritten",
            where=f"refactor {model.spec}",
            fix="write it by hand, or refactor a part of it",
        )
