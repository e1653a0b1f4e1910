"""Holds formulas of shapes against real forward passes at sizes that are drawn at random."""

import random

import torch

import cnnprobe
from cnnprobe.records.sizes import evaluate_dim


def draw_legal(symbol, draw, most):
    """A size that the forward should accept, of moderate cost."""
    if symbol.name == "N":
        return draw.randint(symbol.least, symbol.least + 2)
    end = min(symbol.most or max(most, symbol.least), max(most, symbol.least))
    return symbol.least + symbol.step * draw.randint(0, (end - symbol.least) // symbol.step)


def fill(found, sizes, dtype=torch.float32):
    """Real inputs of these sizes."""
    shapes = [[evaluate_dim(dim, sizes) for dim in dims] for _, dims in found.data.inputs]
    return [
        torch.randint(0, 7, s) if not dtype.is_floating_point else torch.randn(s) for s in shapes
    ]


def count_wrong(model, found, sizes, dtype=torch.float32):
    """Rows whose formula gives other numbers than the forward; and all that have one."""
    with cnnprobe.record(model, statistics=False) as recording, torch.no_grad():
        model(*fill(found, sizes, dtype))
    calls, base = recording.trace.calls, found.data.trace.calls
    assert [(c.fqn, c.kind) for c in calls] == [(c.fqn, c.kind) for c in base]
    wrong, known = [], 0
    for row in found.data.rows:
        for dims, made in zip(row.outputs, calls[row.call].outputs, strict=True):
            if None in dims:
                continue
            known += 1
            if tuple(evaluate_dim(dim, sizes) for dim in dims) != made.shape:
                wrong.append((calls[row.call].fqn, calls[row.call].kind, sizes, made.shape))
    return wrong, known


def draw_sizes(found, seed, most):
    """Legal sizes of all symbols at once."""
    draw = random.Random(seed)
    return {name: draw_legal(symbol, draw, most) for name, symbol in found.symbols.items()}


def is_accepted(model, found, sizes, dtype=torch.float32):
    """Whether a real forward passes."""
    try:
        with torch.no_grad():
            model(*fill(found, sizes, dtype))
    except Exception:
        return False
    return True
