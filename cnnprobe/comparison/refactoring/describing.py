"""A run of blocks in one line: what repeats, how often, and what varies."""

from collections.abc import Mapping, Sequence

from cnnprobe.comparison.refactoring.branches import Item, Parallel, list_covered
from cnnprobe.comparison.refactoring.layers import Layer
from cnnprobe.comparison.refactoring.patterns import Run, split
from cnnprobe.comparison.refactoring.templates import Template
from cnnprobe.records.differences import Block


def describe(run: Run, template: Template) -> Block:
    """The run as data, with a line such as "[Conv2d 3x3 p1, ReLU, MaxPool2d 2] x 3, channels
    3->32->64->128".
    """
    places = {id(instance): k for k, instance in enumerate(template.instances)}
    rows = [places[id(instance)] for instance in run.instances]
    varying: Mapping[str, tuple[object, ...]] = {
        variable.name: values
        for variable in template.variables
        if len(set(values := tuple(variable.values[k] for k in rows))) > 1
    }
    line = (
        f"[{', '.join(_describe_item(item, template) for item in template.pattern)}] x "
        f"{len(run.instances)}"
    )
    for text in _describe_varying(varying):
        line += f", {text}"
    return Block(
        name=template.name,
        pattern=line,
        repeats=len(run.instances),
        varying=varying,
        operations=tuple(_describe_operations(run)),
    )


def _describe_operations(run: Run) -> list[int]:
    return [
        index for instance in run.instances for item in instance for index in list_covered(item)
    ]


def _describe_varying(varying: Mapping[str, tuple[object, ...]]) -> list[str]:
    left = dict(varying)
    found = []
    for noun in ("channels", "features"):
        first, last = left.get(f"in_{noun}"), left.get(f"out_{noun}")
        if first is not None and last is not None and first[1:] == last[:-1]:
            found.append(f"{noun} " + "->".join(map(str, (*first, last[-1]))))
            del left[f"in_{noun}"], left[f"out_{noun}"]
    return found + [f"{name} {', '.join(map(str, values))}" for name, values in left.items()]


def _describe_item(item: Item, template: Template) -> str:
    if isinstance(item, Layer):
        return _describe_layer(item, template)
    if isinstance(item, Parallel):
        main, shortcut = split(item)
        if shortcut is None:
            return f" {item.join} ".join(
                f"({_describe_items(branch, template)})" for branch in item.branches
            )
        presence = template.presence.get(id(item))
        share = f"({_describe_items(shortcut, template)})" if shortcut else "x"
        some = (
            ""
            if presence is None or all(presence)
            else f" in {sum(presence)} of {len(presence)}, else x"
        )
        joining = template.joining.get(id(item))
        some += (
            "" if joining is None else f" in {sum(joining)} of {len(joining)}, else the chain alone"
        )
        return f"({_describe_items(main, template)}) + {share}{some}"
    return item.text.format(x="x")


def _describe_items(items: Sequence[Item], template: Template) -> str:
    return ", ".join(_describe_item(item, template) for item in items) or "x"


def _describe_layer(layer: Layer, template: Template) -> str:
    terms = template.terms.get(id(layer), {})
    text = ("depthwise " if layer.arguments.get("groups", 1) not in (1, None) else "") + layer.kind
    fixed = {name: term.literal for name, term in terms.items() if term.variable is None}
    kernel, stride, padding = (fixed.get(name) for name in ("kernel_size", "stride", "padding"))
    if kernel is not None and layer.kind.startswith("Conv"):
        sizes = kernel if isinstance(kernel, tuple) else (kernel,) * int(layer.kind[-2])
        text += " " + "x".join(map(str, sizes))
    elif kernel is not None:
        text += f" {kernel}"
    if stride not in (None, 1) and not ("Pool" in layer.kind and stride == kernel):
        text += f" s{stride}"
    if padding not in (None, 0):
        text += f" p{padding}"
    return text + (f" {fixed['p']}" if "p" in fixed else "")
