"""Writes block classes and the model that uses them as a person would: Sequential where the flow is
a chain, a forward where it is not.
"""

import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cnnprobe.comparison.refactoring.branches import Item, Parallel, WrittenStep
from cnnprobe.comparison.refactoring.layers import POSITIONAL, Layer, find_default
from cnnprobe.comparison.refactoring.naming import (
    SWITCHES,
    WIDTH,
    choose_attribute,
    choose_class_name,
    clean,
    name_classes,
    write_docstring,
)
from cnnprobe.comparison.refactoring.patterns import Piece, Run, split
from cnnprobe.comparison.refactoring.templates import Template, Term, find_condition, find_joining


@dataclass(slots=True)
class _Body:
    """The inside of a class while it is written: lines of `__init__`, lines of `forward`, names
    that are taken.
    """

    template: Template | None
    templates: Mapping[str, Template]
    attributes: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    def name(self, wish: str) -> str:
        """`wish`, or the next free name like it."""
        found, k = wish, 2
        while found in self.taken:
            found, k = f"{wish}{k}", k + 1
        self.taken.add(found)
        return found


def write_source(
    model: str, pieces: Sequence[Piece], templates: Mapping[str, Template]
) -> tuple[str, str]:
    """The source of all classes, and the name of the model's class."""
    used = list(templates.values())
    name_classes(used)
    name = choose_class_name(model)
    classes = [_write_block_class(template, templates) for template in used] + [
        _write_model_class(name, model, pieces, templates)
    ]
    body = "\n\n\n".join(classes)
    imports = (
        "import torch\n"
        if "torch.cat(" in body or "torch.flatten(" in body or "torch.Tensor" in body
        else ""
    ) + "from torch import nn\n"
    text = f'"""{clean(model)} in blocks."""\n\n{imports}\n\n{body}\n'
    return "\n".join(_break_line(line) for line in text.split("\n")), name


def _break_line(line: str) -> str:
    """A call that is too long for its line, one argument a line."""
    match = re.match(r"^( +)([\w. =]+)\((.*)\)(,?)$", line)
    if len(line) <= WIDTH or match is None:
        return line
    indent, function, arguments, comma = match.groups()
    parts = re.split(r", (?![^()]*\))", arguments)
    inner = "\n".join(f"{indent}    {part}," for part in parts)
    return f"{indent}{function}(\n{inner}\n{indent}){comma}"


# -- classes ---------------------------------------------------------------------------------------


def _write_block_class(template: Template, templates: Mapping[str, Template]) -> str:
    body = _Body(template, templates)
    if all(isinstance(item, Layer) for item in template.pattern):
        lines = [
            _write_layer(item, template) for item in template.pattern if isinstance(item, Layer)
        ]
        inside = [_write_call("super().__init__", lines, 8, always=True)]
        return "\n".join(
            [
                f"class {template.name}(nn.Sequential):",
                write_docstring(template),
                "",
                _write_signature(template),
                *inside,
            ]
        )
    result = _emit(template.pattern, body, "x", {})
    init = ["        super().__init__()", *body.attributes]
    forward = [
        "    def forward(self, x: torch.Tensor) -> torch.Tensor:",
        *body.statements,
        f"        return {result}",
    ]
    return "\n".join(
        [
            f"class {template.name}(nn.Module):",
            write_docstring(template),
            "",
            _write_signature(template),
            *init,
            "",
            *forward,
        ]
    )


def _write_signature(template: Template) -> str:
    for item in template.pattern:
        if isinstance(item, Parallel):
            (
                find_condition(template, item),
                find_joining(template, item),
            )  # may need an argument of their own
    seen: dict[str, str] = {}
    for variable in sorted(template.variables, key=lambda v: v.default is not None):
        kind = (
            "bool"
            if variable.family in SWITCHES
            else "int"
            if all(isinstance(v, int) for v in variable.values)
            else "int | tuple[int, ...]"
        )
        seen.setdefault(
            variable.name,
            f"{variable.name}: {kind}"
            + (f" = {variable.default!r}" if variable.default is not None else ""),
        )
    line = (
        f"    def __init__(self, {', '.join(seen.values())}) -> None:"
        if seen
        else "    def __init__(self) -> None:"
    )
    if len(line) <= WIDTH:
        return line
    return "\n".join(
        [
            "    def __init__(",
            "        self,",
            *(f"        {part}," for part in seen.values()),
            "    ) -> None:",
        ]
    )


def _write_model_class(
    name: str, model: str, pieces: Sequence[Piece], templates: Mapping[str, Template]
) -> str:
    body = _Body(None, templates)
    positions = {
        id(instance): k
        for template in templates.values()
        for k, instance in enumerate(template.instances)
    }
    result = _emit(pieces, body, "x", positions)
    init = ["        super().__init__()", *body.attributes]
    forward = [
        "    def forward(self, x: torch.Tensor) -> torch.Tensor:",
        *body.statements,
        f"        return {result}",
    ]
    return "\n".join(
        [
            f"class {name}(nn.Module):",
            f'    """{clean(model)} in blocks."""',
            "",
            "    def __init__(self) -> None:",
            *init,
            "",
            *forward,
        ]
    )


# -- statements ------------------------------------------------------------------------------------


def _emit(
    pieces: Sequence[Piece],
    body: _Body,
    value: str,
    positions: Mapping[int, int],
    *,
    wish: str = "",
) -> str:
    """Attributes and statements for a chain of pieces that takes the variable `value`; returns what
    holds its result.
    """
    group: list[str] = []
    kinds: list[str] = []
    top = body.template is None
    first = True

    def close(later: Sequence[Piece]) -> None:
        nonlocal first
        if group:
            last = not _has_layers(later)
            chosen = wish or choose_attribute(kinds, top=top, first=first, last=last)
            attribute = body.name(chosen)
            body.attributes.append(_write_assignment(attribute, group))
            body.statements.append(f"        {value} = self.{attribute}({value})")
            group.clear()
            kinds.clear()
            first = False

    for k, piece in enumerate(pieces):
        if isinstance(piece, Run):
            template = body.templates[piece.sign]
            group += [_write_instance(template, positions[id(one)]) for one in piece.instances]
            kinds += [template.name] * len(piece.instances)
        elif isinstance(piece, Layer) and not (top and piece.kind == "Flatten"):
            group.append(_write_layer(piece, body.template))
            kinds.append(piece.kind)
        else:
            close(pieces[k:])
            _emit_statement(piece, body, value, positions)
    close(())
    ends_here = bool(body.statements) and body.statements[-1].startswith(f"        {value} = ")
    if ends_here and not wish:
        return body.statements.pop().split(" = ", maxsplit=1)[1]
    return value


def _has_layers(pieces: Sequence[Piece]) -> bool:
    return any(
        isinstance(piece, Run | Parallel) or (isinstance(piece, Layer) and piece.kind != "Flatten")
        for piece in pieces
    )


def _emit_statement(piece: Item, body: _Body, value: str, positions: Mapping[int, int]) -> None:
    if isinstance(piece, Layer):
        start, end = piece.arguments["start_dim"], piece.arguments["end_dim"]
        ending = "" if end == -1 else f", {end}"
        body.statements.append(f"        {value} = torch.flatten({value}, {start}{ending})")
    elif isinstance(piece, WrittenStep):
        body.statements.append(f"        {value} = {piece.text.format(x=value)}")
    else:
        results = [
            _write_branch(piece, b, body, value, positions) for b in range(len(piece.branches))
        ]
        condition = find_joining(body.template, piece) if body.template is not None else ""
        if condition:
            attribute = body.name("residual")
            body.attributes.append(f"        self.{attribute} = {condition}")
            inner = next(
                result for result, branch in zip(results, piece.branches, strict=True) if branch
            )
            body.statements += [
                f"        y = {inner}",
                (
                    f"        {value} = "
                    f"{' + '.join('y' if result == inner else result for result in results)} if "
                    f"self.{attribute} else y"
                ),
            ]
            return
        joined = (
            f"torch.cat(({', '.join(results)}), {piece.dim})"
            if piece.join == "cat"
            else f" {piece.join} ".join(results)
        )
        body.statements.append(f"        {value} = {joined}")


def _write_branch(
    parallel: Parallel, b: int, body: _Body, value: str, positions: Mapping[int, int]
) -> str:
    """The expression of one branch."""
    branch = parallel.branches[b]
    _, shortcut = split(parallel)
    is_shortcut = shortcut is not None and branch is shortcut
    if not branch:
        return value
    wish = (
        "shortcut"
        if is_shortcut
        else "body"
        if shortcut is not None
        else "gate"
        if parallel.join == "*"
        else "branch1"
    )
    if not all(isinstance(item, Layer) for item in branch):
        inner = body.name("y" if shortcut is not None else "branch")
        body.statements.append(f"        {inner} = {value}")
        return _emit(branch, body, inner, positions, wish=wish)
    attribute = body.name(wish)
    layers = [_write_layer(item, body.template) for item in branch if isinstance(item, Layer)]
    condition = (
        find_condition(body.template, parallel) if body.template is not None and is_shortcut else ""
    )
    if not condition:
        body.attributes.append(_write_assignment(attribute, layers))
        return f"self.{attribute}({value})"
    body.attributes += [
        f"        self.{attribute} = nn.Identity()",
        f"        if {condition}:",
        "\n".join("    " + line for line in _write_assignment(attribute, layers).split("\n")),
    ]
    return f"self.{attribute}({value})"


def _write_assignment(attribute: str, layers: Sequence[str]) -> str:
    name = attribute + "_" if keyword.iskeyword(attribute) else attribute
    if len(layers) == 1:
        return f"        self.{name} = {layers[0]}"
    return _write_call(f"self.{name} = nn.Sequential", layers, 8)


def _write_call(
    function: str, arguments: Sequence[str], indent: int, *, always: bool = False
) -> str:
    line = " " * indent + f"{function}({', '.join(arguments)})"
    if len(line) <= WIDTH and not always:
        return line
    inner = ",\n".join(" " * (indent + 4) + argument for argument in arguments)
    return " " * indent + f"{function}(\n{inner},\n" + " " * indent + ")"


def _write_layer(layer: Layer, template: Template | None) -> str:
    terms = template.terms.get(id(layer)) if template is not None else None
    written = []
    for name, value in layer.arguments.items():
        term = terms[name] if terms is not None else Term(literal=value)
        if term.variable is None and _is_default(layer, name, term.literal):
            continue
        positional = (
            name in POSITIONAL
            or (name == "kernel_size" and "Pool" in layer.kind)
            or (name == "dim" and layer.kind == "Softmax")
        )
        written.append(term.text() if positional else f"{name}={term.text()}")
    return f"nn.{layer.kind}({', '.join(written)})"


def _is_default(layer: Layer, name: str, value: object) -> bool:
    if name == "stride" and "Pool" in layer.kind:
        return value == layer.arguments.get("kernel_size")
    default = find_default(layer.kind, name)
    return default == value and type(default) is type(value)


def _write_instance(template: Template, k: int) -> str:
    written, skipped = [], False
    for variable in sorted(template.variables, key=lambda v: v.default is not None):
        value = variable.values[k]
        if variable.default is not None and value == variable.default:
            skipped = True
            continue
        by_name = skipped or variable.default is not None or variable.family in SWITCHES
        written.append(f"{variable.name}={value!r}" if by_name else repr(value))
    return f"{template.name}({', '.join(written)})"
