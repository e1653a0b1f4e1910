"""The options that commands share, and the requests into which they are gathered."""

import functools
import importlib.util
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from cnnprobe.cli.program import DEBUG
from cnnprobe.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """Which model, and how it is built."""

    spec: str
    arguments: tuple[str, ...]
    weights: str | None
    trust_pickle: bool
    training: bool | None  # None: that of the command


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRequest:
    """What goes into the model, and where it runs."""

    inputs: tuple[str, ...]
    dtype: str | None
    device: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRequest:
    """In what form the result is wished, and where."""

    format: str | None
    file: str | None
    width: int | None


class _Spec(click.ParamType):  # type: ignore[type-arg,unused-ignore] # generic only since click 8.2
    """A SPEC; completed from files and the prefixes, never by importing anything."""

    name = "spec"

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """The prefixes that fit, and files."""
        prefixes = [
            CompletionItem(prefix)
            for prefix in ("torchvision:", "timm:")
            if incomplete and prefix.startswith(incomplete)
        ]
        return prefixes or [CompletionItem(incomplete, type="file")]


class _Format(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """One of the formats of the room `render`; its help is made without importing that room."""

    name = "format"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002
        """The names of the formats."""
        return "[" + "|".join(list_known_formats()) + "]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, if there is such a format."""
        if value not in list_known_formats():
            self.fail(
                f"no format named {value!r}; known formats: {', '.join(list_known_formats())}",
                param,
                ctx,
            )
        return str(value)

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """The names that fit."""
        return [
            CompletionItem(name) for name in list_known_formats() if name.startswith(incomplete)
        ]


@functools.cache
def list_known_formats() -> tuple[str, ...]:
    """The names of the files `render/as_<name>.py` that render a document, found without importing
    them.

    >>> "text" in list_known_formats()
    True
    """
    room = importlib.util.find_spec("cnnprobe.document.render")
    folders = list(room.submodule_search_locations or ()) if room else []
    names = sorted(
        found.name for found in pkgutil.iter_modules(folders) if found.name.startswith("as_")
    )
    sources = {name: Path(folder, f"{name}.py") for folder in folders for name in names}
    return tuple(
        name.removeprefix("as_")
        for name, path in sources.items()
        if "def render_document(" in path.read_text(encoding="utf-8")
    )


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[DEBUG] = value


_debug = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_remember_debug,
    help="Show tracebacks.",
)

_MODEL = (
    click.argument("spec", type=_Spec()),
    click.option(
        "--arg",
        "arguments",
        multiple=True,
        metavar="NAME=VALUE",
        help="Constructor argument; repeatable. A Python literal, or text.",
    ),
    click.option(
        "--weights",
        metavar="FILE",
        help="A .safetensors file or a saved state_dict; must fit exactly.",
    ),
    click.option(
        "--trust-pickle",
        is_flag=True,
        help="Allow a weights file or a .pt2 to run the code that it names.",
    ),
    click.option(
        "--train/--eval",
        "training",
        default=None,
        help="Run the model in train or eval mode.  [default: eval; train for diagnose]",
    ),
)
_INPUT = (
    click.option(
        "--input",
        "inputs",
        multiple=True,
        metavar="[NAME=]SHAPE|FILE",
        help="Input: 1,3,32,32 (random) or a .pt, .npy, .png, .jpg; repeatable.",
    ),
    click.option(
        "--dtype",
        metavar="NAME",
        help=(
            "Dtype of random inputs; a floating one also converts the model. [default: the model's]"
        ),
    ),
    click.option(
        "--device",
        default="cpu",
        show_default=True,
        metavar="NAME",
        help="Device: cpu, cuda, cuda:1, mps, or meta for shapes only.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, 2**63 - 1),
        default=0,
        show_default=True,
        metavar="N",
        help="Seed for random weights and inputs.",
    ),
)
_OUTPUT = (
    click.option(
        "--format",
        type=_Format(),
        help="Output format.  [default: by the suffix of -o, else text]",
    ),
    click.option(
        "-o",
        "--output",
        "file",
        metavar="FILE",
        help="Write the result to this file instead of stdout.",
    ),
    click.option(
        "--width",
        type=click.IntRange(40, 1000),
        metavar="N",
        help="Width of text in columns.  [default: the terminal's]",
    ),
    _debug,
)

fail_on_option = click.option(
    "--fail-on",
    multiple=True,
    metavar="RULE|SEVERITY",
    help="Exit with 1 if this rule or severity is found.  [default: warning]",
)
rules_option = click.option(
    "--rules",
    "files",
    multiple=True,
    metavar="FILE",
    help="A Python file or folder with additional rules; the code is run.",
)


def add_model_options(command: Command) -> Command:
    """SPEC and what builds it, as the argument `model`."""
    return _gather(command, ModelRequest, "model", _MODEL)


def add_input_options(command: Command) -> Command:
    """Inputs, dtype, device and seed, as the argument `given`."""
    return _gather(command, InputRequest, "given", _INPUT)


def add_output_options(command: Command) -> Command:
    """Format and file of the result, as the argument `wished`; the file is checked before anything
    runs.
    """
    return _gather(command, OutputRequest, "wished", _OUTPUT)


def _gather(
    command: Command, kind: Callable[..., Any], name: str, options: tuple[Callable[[Any], Any], ...]
) -> Command:
    """The command with these options, whose values reach it as one argument `name` of type
    `kind`.
    """
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]

    @functools.wraps(command)
    def gathering(**values: Any) -> Any:
        return command(**{name: kind(**{n: values.pop(n) for n in names})}, **values)

    decorated: Any = gathering
    for option in reversed(options):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def choose_format(wished: OutputRequest) -> str:
    """The format by name, or by the suffix of the file, or text.

    Raises:
        UsageError: no format has that suffix.
    """
    if wished.format or not wished.file:
        return wished.format or "text"
    from cnnprobe.document.render import map_suffixes

    if Path(wished.file).is_dir():
        raise UsageError(
            f"{wished.file!r} is a folder",
            where=f"-o {wished.file}",
            fix=f"name a file in it: -o {Path(wished.file) / 'report.html'}",
        )
    suffix = Path(wished.file).suffix.lower()
    if suffix not in map_suffixes():
        known = ", ".join(map_suffixes())
        raise UsageError(
            f"no format has the suffix {suffix!r}",
            where=f"-o {wished.file}",
            fix=f"use one of the suffixes {known}, or add --format",
        )
    return map_suffixes()[suffix]
