"""A block class before it is written: what all its instances share, and the arguments that they
differ in.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cnnprobe.comparison.refactoring.branches import Item, Parallel
from cnnprobe.comparison.refactoring.layers import ALWAYS, Layer, NotWritableError, find_default
from cnnprobe.comparison.refactoring.patterns import Run, make_sign, split

_CHANNELS = frozenset(
    {
        "in_channels",
        "out_channels",
        "in_features",
        "out_features",
        "num_features",
        "num_channels",
        "groups",
    }
)
_LARGEST_FACTOR = 16  # of one width to another that is written as a product

Values = tuple[object, ...]  # one for each instance; None where it has no such layer


@dataclass(slots=True, eq=False)
class Variable:
    """An argument of the block; its name is chosen when all its uses are known."""

    values: Values
    family: str
    uses: list[str] = field(default_factory=list)
    name: str = ""
    usual: object = ALWAYS  # torch's own default

    @property
    def default(self) -> object:
        """Torch's own default, where an instance has it."""
        return self.usual if self.usual in self.values else None


@dataclass(frozen=True, slots=True)
class Term:
    """What stands for an argument of a layer: a literal, or a variable, perhaps times or divided by
    a number.
    """

    literal: object = None
    variable: Variable | None = None
    suffix: str = ""

    def text(self) -> str:
        """As it is written."""
        return self.variable.name + self.suffix if self.variable is not None else repr(self.literal)

    def values(self, count: int) -> Values:
        """What it is in each of `count` instances."""
        if self.variable is None:
            return (self.literal,) * count
        factor = int(self.suffix.removeprefix(" * ")) if self.suffix.startswith(" * ") else 1
        return tuple(
            value * factor if isinstance(value, int) else value for value in self.variable.values
        )


@dataclass(slots=True)
class Template:
    """A block class: `pattern` is its items, `terms` what their arguments are, `condition` when the
    shortcut has layers.
    """

    sign: str
    instances: tuple[tuple[Item, ...], ...]
    pattern: tuple[Item, ...] = ()
    terms: dict[int, dict[str, Term]] = field(default_factory=dict)
    variables: list[Variable] = field(default_factory=list)
    presence: dict[int, tuple[bool, ...]] = field(
        default_factory=dict
    )  # id of a Parallel of the pattern -> which instances have a shortcut
    joining: dict[int, tuple[bool, ...]] = field(
        default_factory=dict
    )  # id of a Parallel of the pattern -> which instances add it up at all
    name: str = ""


def build_template(runs: Sequence[Run]) -> Template:
    """The template that all instances of runs of one sign share."""
    instances = tuple(instance for run in runs for instance in run.instances)
    template = Template(sign=runs[0].sign, instances=instances)
    template.pattern = tuple(
        _merge([instance[k] for instance in instances], template) for k in range(len(instances[0]))
    )
    for layers in _list_columns(template.pattern, instances):
        _unify(layers, template)
    _choose_name(template)
    return template


def _merge(items: Sequence[Item], template: Template) -> Item:
    """One item of the pattern; of residual blocks one that has layers in its shortcut, if any
    has.
    """
    first = items[0]
    if not isinstance(first, Parallel) or split(first)[1] is None:
        return first
    shortcuts = [split(item)[1] or () for item in items if isinstance(item, Parallel)]
    signs = {" ".join(map(make_sign, shortcut)) for shortcut in shortcuts if shortcut}
    if len(signs) > 1:
        raise NotWritableError(
            "the shortcuts of the repeated block are of several kinds", where="the repeated block"
        )
    presence = tuple(bool(shortcut) for shortcut in shortcuts)
    chosen = items[presence.index(True)] if any(presence) else first
    joining = tuple(isinstance(item, Parallel) and item.joins for item in items)
    if not all(joining):
        template.joining[id(chosen)] = joining
    if any(presence):
        template.presence[id(chosen)] = presence
    return chosen


def _list_columns(
    pattern: Sequence[Item], instances: Sequence[Sequence[Item]]
) -> Iterator[tuple[Layer, list[Layer | None]]]:
    """Each layer of the pattern with those that stand in its place, main branches before
    shortcuts.
    """
    for k, item in enumerate(pattern):
        yield from _list_column(item, [instance[k] for instance in instances])


def _list_column(
    item: Item, others: Sequence[Item | None]
) -> Iterator[tuple[Layer, list[Layer | None]]]:
    if isinstance(item, Layer):
        yield item, [other if isinstance(other, Layer) else None for other in others]
    elif isinstance(item, Parallel):
        order = sorted(range(len(item.branches)), key=lambda b: -len(item.branches[b]))
        for b in order:
            for k, inner in enumerate(item.branches[b]):
                found = [
                    other.branches[b] if isinstance(other, Parallel) else () for other in others
                ]
                yield from _list_column(
                    inner, [branch[k] if k < len(branch) else None for branch in found]
                )


# -- arguments -------------------------------------------------------------------------------------


def _unify(column: tuple[Layer, list[Layer | None]], template: Template) -> None:
    layer, others = column
    terms: dict[str, Term] = {}
    for name in layer.arguments:
        values = tuple(other.arguments.get(name) if other is not None else None for other in others)
        terms[name] = _make_term(layer, name, values, template)
    template.terms[id(layer)] = terms


def _make_term(layer: Layer, name: str, values: Values, template: Template) -> Term:
    given = [value for value in values if value is not None]
    if all(value == given[0] for value in given) if given else True:
        whole = len(given) == len(values)
        known = None if whole else _find_known(name, values, template)
        return known or Term(literal=given[0] if given else None)
    known = _find_known(name, values, template)
    if known is not None:
        return known
    if len(given) < len(values):
        raise NotWritableError(
            f"{name} of the shortcut's {layer.kind} cannot be derived from the rest of the block",
            where="the repeated block",
        )
    variable = Variable(
        values, name, [f"{layer.kind}.{name}"], usual=find_default(layer.kind, name)
    )
    template.variables.append(variable)
    return Term(variable=variable)


def _find_known(name: str, values: Values, template: Template) -> Term | None:
    """A variable that has these values already, or one from which they follow."""
    related = [
        v
        for v in template.variables
        if v.family == name or (v.family in _CHANNELS and name in _CHANNELS)
    ]
    for variable in related:
        if _is_equal(values, variable.values):
            variable.uses.append(name)
            return Term(variable=variable)
    for variable in related if name in _CHANNELS else ():
        for factor in range(2, _LARGEST_FACTOR + 1):
            if _is_equal(
                values, tuple(v * factor if isinstance(v, int) else v for v in variable.values)
            ):
                return Term(variable=variable, suffix=f" * {factor}")
    for variable in template.variables if name == "padding" else ():
        if variable.family == "kernel_size" and _is_equal(
            values, tuple(v // 2 if isinstance(v, int) else v for v in variable.values)
        ):
            return Term(variable=variable, suffix=" // 2")
    return None


def _is_equal(values: Values, others: Values) -> bool:
    return all(value is None or value == other for value, other in zip(values, others, strict=True))


# -- names -----------------------------------------------------------------------------------------


def _choose_name(template: Template) -> None:
    """in_channels for what goes into the first layer, out_channels for what comes out of the last
    one, hidden_channels between.
    """
    widths = [
        template.terms[id(layer)]
        for layer in _list_main_layers(template.pattern)
        if {"in_channels", "in_features"} & set(layer.arguments)
    ]
    taken: set[str] = set()
    noun = "features" if widths and "in_features" in widths[0] else "channels"
    first = widths[0].get(f"in_{noun}") if widths else None
    last = (widths[-1].get("out_channels") or widths[-1].get("out_features")) if widths else None
    for variable in template.variables:
        if variable.family not in _CHANNELS:
            name = variable.family
        elif first is not None and variable is first.variable:
            name = (
                noun
                if last is not None and variable is last.variable and not last.suffix
                else f"in_{noun}"
            )
        elif last is not None and variable is last.variable and not last.suffix:
            name = f"out_{noun}"
        else:
            name = f"hidden_{noun}"
        variable.name = _find_free_name(name, taken)
    template.variables.sort(key=lambda variable: variable.default is not None)


def _list_main_layers(items: Sequence[Item]) -> Iterator[Layer]:
    for item in items:
        if isinstance(item, Layer):
            yield item
        elif isinstance(item, Parallel):
            yield from _list_main_layers(split(item)[0])


def _find_free_name(name: str, taken: set[str]) -> str:
    found, k = name, 2
    while found in taken:
        found, k = f"{name}_{k}", k + 1
    taken.add(found)
    return found


def find_condition(template: Template, parallel: Parallel) -> str:
    """When the block has layers in its shortcut, in terms of its arguments; "" for always. May add
    an argument of its own.
    """
    presence = template.presence.get(id(parallel))
    if presence is None or all(presence):
        return ""
    return _write_condition(template, parallel, presence, ("!=", " or ", "downsample"))


def find_joining(template: Template, parallel: Parallel) -> str:
    """When the block adds its input at all, in terms of its arguments; "" for always. May add an
    argument of its own.
    """
    joining = template.joining.get(id(parallel))
    return (
        ""
        if joining is None
        else _write_condition(template, parallel, joining, ("==", " and ", "residual"))
    )


def _write_condition(
    template: Template, parallel: Parallel, wanted: tuple[bool, ...], words: tuple[str, str, str]
) -> str:
    """Stride and widths say it, or an argument of its own does."""
    sign, word, name = words
    named = {variable.name: variable for variable in template.variables}
    if name in named:
        return name
    holds = sign == "=="
    tests: dict[str, tuple[bool, ...]] = {}
    if "stride" in named:
        tests[f"stride {sign} 1"] = tuple((value == 1) is holds for value in named["stride"].values)
    widths = [
        (layer, template.terms[id(layer)])
        for layer in _list_main_layers((parallel,))
        if layer.kind.startswith("Conv")
    ]
    if widths:
        first, last = widths[0][1]["in_channels"], widths[-1][1]["out_channels"]
        pairs = zip(first.values(len(wanted)), last.values(len(wanted)), strict=True)
        tests[f"{first.text()} {sign} {last.text()}"] = tuple((a == b) is holds for a, b in pairs)
    if len(tests) > 1:
        rows = zip(*tests.values(), strict=True)
        tests[word.join(tests)] = tuple(all(row) if holds else any(row) for row in rows)
    for text in reversed(tests):
        if tests[text] == wanted:
            return text
    template.variables.append(Variable(wanted, name, name=name))
    return name
