"""Small traces made by hand, with shapes and costs that are worked out on paper."""

import math

from cnnprobe.records.trace import Failure, ModuleCall, ModuleInfo, ParameterInfo, TensorInfo, Trace


def tensor(*shape, dtype="float32", **fields):
    sizes = {"float32": 4, "float16": 2, "int64": 8}
    return TensorInfo(
        shape=shape,
        dtype=dtype,
        device="cpu",
        nbytes=math.prod(shape) * sizes[dtype],
        requires_grad=False,
        **fields,
    )


def weight(fqn, *shape, dtype="float32", trainable=True, kind="parameter", **fields):
    size = {"float32": 4, "float16": 2, "int64": 8}[dtype]
    numel = math.prod(shape)
    trainable = trainable and kind == "parameter"
    return ParameterInfo(
        fqn=fqn,
        shape=shape,
        dtype=dtype,
        numel=numel,
        nbytes=numel * size,
        trainable=trainable,
        kind=kind,
        **fields,
    )


def module(fqn, kind, *, stock=True, container=False, **fields):
    return ModuleInfo(fqn=fqn, kind=kind, is_stock=stock, is_container=container, **fields)


def call(fqn, kind, given=None, made=None, *, parent=0, depth=1, index=0, **fields):
    return ModuleCall(
        fqn=fqn,
        kind=kind,
        index=index,
        parent=parent,
        depth=depth,
        inputs=() if given is None else (given,),
        outputs=() if made is None else (made,),
        returned="" if made is None else "Tensor",
        **fields,
    )


def tiny():
    """Conv2d(3, 8, 3, padding=1), ReLU, torch.flatten, Linear(8 * 8 * 8, 10) on (2, 3, 8, 8): 224 +
    5130 parameters.

    MACs: conv 2 * 8 * 8 * 8 * 3 * 3 * 3 = 27,648; linear 2 * 512 * 10 = 10,240.
    """
    image, maps, flat, logits = (
        tensor(2, 3, 8, 8),
        tensor(2, 8, 8, 8),
        tensor(2, 512),
        tensor(2, 10),
    )
    return Trace(
        model="Tiny",
        modules=(
            module("", "Tiny", stock=False),
            module("conv", "Conv2d", parameters=("conv.weight", "conv.bias")),
            module("relu", "ReLU"),
            module("fc", "Linear", parameters=("fc.weight", "fc.bias")),
        ),
        calls=(
            call("", "Tiny", image, logits, parent=None, depth=0),
            call("conv", "Conv2d", image, maps, macs=27_648),
            call("relu", "ReLU", maps, maps, macs=None),
            call(None, "torch.flatten", maps, flat),
            call("fc", "Linear", flat, logits, macs=10_240),
        ),
        parameters=(
            weight("conv.weight", 8, 3, 3, 3),
            weight("conv.bias", 8),
            weight("fc.weight", 10, 512),
            weight("fc.bias", 10),
        ),
        torch="2.15.0",
    )


def failing(message="mat1 and mat2 shapes cannot be multiplied (16x8 and 512x10)"):
    """`tiny` without its flatten: the Linear raises, and a ReLU after it is not reached."""
    whole = tiny()
    maps = tensor(2, 8, 8, 8)
    calls = (
        call("", "Tiny", tensor(2, 3, 8, 8), parent=None, depth=0, completed=False),
        *whole.calls[1:3],
        call("fc", "Linear", maps, completed=False, macs=None),
    )
    failure = Failure(
        kind="RuntimeError",
        message=message,
        module="fc",
        operation="Linear",
        source="net.py:12",
        traceback="",
        call=3,
    )
    return Trace(
        model="Tiny",
        modules=(*whole.modules, module("last", "Linear", parameters=("last.weight",))),
        calls=calls,
        parameters=(*whole.parameters, weight("last.weight", 5, 10)),
        failure=failure,
    )


def blocks(copies, *, config=None):
    """`copies` blocks named 0, 1, ... each of a Linear(4, 4) without bias and a ReLU; `config` is
    that of the last Linear.
    """
    rows = tensor(2, 4)
    modules, calls, parameters = (
        [module("", "Net", stock=False)],
        [call("", "Net", rows, rows, parent=None, depth=0)],
        [],
    )
    for i in range(copies):
        last = config if config is not None and i == copies - 1 else {"in_features": 4}
        modules += [
            module(f"{i}", "Block", stock=False),
            module(f"{i}.fc", "Linear", config=last, parameters=(f"{i}.fc.weight",)),
        ]
        modules.append(module(f"{i}.relu", "ReLU"))
        block = len(calls)
        calls.append(call(f"{i}", "Block", rows, rows))
        calls.append(call(f"{i}.fc", "Linear", rows, rows, parent=block, depth=2, macs=32))
        calls.append(call(f"{i}.relu", "ReLU", rows, rows, parent=block, depth=2, macs=None))
        parameters.append(weight(f"{i}.fc.weight", 4, 4))
    return Trace(
        model="Net", modules=tuple(modules), calls=tuple(calls), parameters=tuple(parameters)
    )


def nested(levels):
    """One Linear(4, 4) without bias inside `levels` Sequentials."""
    rows = tensor(2, 4)
    modules, calls, fqn = [], [], ""
    for i in range(levels):
        modules.append(module(fqn, "Sequential", container=True))
        calls.append(call(fqn, "Sequential", rows, rows, parent=i - 1 if i else None, depth=i))
        fqn = f"{fqn}.0" if fqn else "0"
    modules.append(module(fqn, "Linear", parameters=(f"{fqn}.weight",)))
    calls.append(call(fqn, "Linear", rows, rows, parent=levels - 1, depth=levels, macs=32))
    return Trace(
        model="Sequential",
        modules=tuple(modules),
        calls=tuple(calls),
        parameters=(weight(f"{fqn}.weight", 4, 4),),
    )


HOSTILE = (
    "<script>alert(1)</script>",
    "[red]",
    '"];',
    "a|b",
    "\x1b[31mred\x1b[0m",
    "\u202egnp",
    "line\nbreak",
    "`tick`",
    "名前" * 30,
    "x" * 300,
)


def hostile():
    """A model whose every name is an attack or a nuisance."""
    row = tensor(2, 4)
    calls = [call("", HOSTILE[0], row, row, parent=None, depth=0)]
    modules = [module("", HOSTILE[0], stock=False, parameters=HOSTILE)]
    for name in HOSTILE:
        modules.append(module(name, name))
        calls.append(call(name, name, row, row, macs=None))
    message = "\n".join(HOSTILE)
    failure = Failure(
        kind=HOSTILE[0],
        message=message,
        module=HOSTILE[4],
        operation=HOSTILE[1],
        source=HOSTILE[5],
        traceback=message,
        call=len(calls),
    )
    calls.append(call("broken", HOSTILE[2], row, completed=False))
    return Trace(
        model=HOSTILE[0],
        modules=tuple(modules),
        calls=tuple(calls),
        parameters=tuple(weight(name, 2, 2, aliases=(HOSTILE[0],)) for name in HOSTILE),
        failure=failure,
        device=HOSTILE[4],
        notes=HOSTILE,
    )
