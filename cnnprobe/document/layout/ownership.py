"""Which row each parameter belongs to, and which modules no call reached. One pass up and one down
the list of modules.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cnnprobe.records.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Indices all: calls, modules and parameters of one trace."""

    parameters: Mapping[int, tuple[int, ...]]  # call -> the parameters that are counted at it
    unreached: Mapping[
        int | None, tuple[int, ...]
    ]  # call -> modules in it, uppermost only, that no call reached
    borrowed: frozenset[int]  # unreached modules whose parameters a function used all the same
    module_index: Mapping[str, int]
    elements_below: tuple[
        int, ...
    ]  # by module: elements of the parameters counted in it and in the modules below
    has_parameters: tuple[
        bool, ...
    ]  # by module: whether it, or a module below, uses any, tied ones included

    def is_shared(self, call: int | None, module: int | None) -> bool:
        """Whether a row without parameters to count has some that are counted at another row."""
        return call is not None and module is not None and self.has_parameters[module]


def assign_owners(trace: Trace) -> Ownership:
    """Every parameter at the first call of its module, or where that was never called, at the row
    that stands for it.

    A stock layer may use the parameters of modules in it without calling them
    (`nn.MultiheadAttention.out_proj`), and containers of parameters are never called: what they
    hold belongs to the nearest called module above.
    """
    return _Reckoning(trace).result()


class _Reckoning:
    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.index = {module.fqn: i for i, module in enumerate(trace.modules)}
        for i, module in enumerate(trace.modules):
            for alias in module.aliases:
                self.index.setdefault(alias, i)
        self.weights = {
            name
            for p in trace.parameters
            if p.kind == "parameter" and p.numel
            for name in (p.fqn, *p.aliases)
        }
        self.first: dict[int, int] = {}
        for c, call in enumerate(trace.calls):
            if call.fqn in self.index and not call.recomputed:
                self.first.setdefault(self.index[call.fqn], c)
        self.parent = [self._find_parent(i, module.fqn) for i, module in enumerate(trace.modules)]
        self.reached = self._propagate_upwards([i in self.first for i in range(len(trace.modules))])
        self.has_layer = self._propagate_upwards(
            [not module.is_container for module in trace.modules]
        )

    def _find_parent(self, i: int, fqn: str) -> int | None:
        above = None if fqn == "" else self.index.get(fqn.rpartition(".")[0], self.index.get(""))
        return above if above is not None and above < i else None

    def _propagate_upwards(self, flags: list[bool]) -> list[bool]:
        for i in range(len(flags) - 1, -1, -1):  # modules stand before the modules in them
            above = self.parent[i]
            if flags[i] and above is not None:
                flags[above] = True
        return flags

    def result(self) -> Ownership:
        anchor, top = self._place_modules()
        parameters: dict[int, list[int]] = {}
        elements = [0] * len(self.trace.modules)
        used = {
            tensor.source
            for call in self.trace.calls
            if call.fqn is None
            for tensor in call.inputs
            if isinstance(tensor.source, str)
        }
        borrowed: set[int] = set()
        for p, owner in self._list_owners():
            stand_in, call = top[owner], anchor[owner]
            elements[owner] += self.trace.parameters[p].numel
            if stand_in is not None:
                if used & {self.trace.parameters[p].fqn, *self.trace.parameters[p].aliases}:
                    borrowed.add(stand_in)
            elif call is not None:
                parameters.setdefault(call, []).append(p)
        unreached: dict[int | None, list[int]] = {}
        for i, stand_in in enumerate(top):
            if stand_in == i:
                unreached.setdefault(anchor[i], []).append(i)
        return Ownership(
            parameters={call: tuple(ps) for call, ps in parameters.items()},
            unreached={call: tuple(ms) for call, ms in unreached.items()},
            borrowed=frozenset(borrowed),
            module_index=self.index,
            elements_below=tuple(self._add_up(elements)),
            has_parameters=tuple(
                self._propagate_upwards([self._uses_parameters(i) for i in range(len(elements))])
            ),
        )

    def _place_modules(self) -> tuple[list[int | None], list[int | None]]:
        """For each module the nearest call, its own or above, and the unreached module that stands
        for it in the table (None: none does).
        """
        anchor: list[int | None] = []
        top: list[int | None] = []
        inside: list[
            bool
            # whether the nearest called module is a stock layer, whose inside is its own business
        ] = []
        for i, module in enumerate(self.trace.modules):
            above = self.parent[i]
            if i in self.first:
                anchor.append(self.first[i])
                top.append(None)
                inside.append(module.is_stock and not module.is_container)
                continue
            anchor.append(None if above is None else anchor[above])
            inside.append(above is not None and inside[above])
            if above is not None and top[above] is not None:
                top.append(top[above])
            else:
                absent = (
                    not self.reached[i]
                    and not inside[i]
                    and (self.has_layer[i] or anchor[i] is None)
                )
                top.append(i if absent else None)
        return anchor, top

    def _list_owners(self) -> Iterator[tuple[int, int]]:
        """Each parameter (no buffers) with the module that it is registered in."""
        for p, parameter in enumerate(self.trace.parameters):
            owner = self.index.get(parameter.fqn.rpartition(".")[0], self.index.get(""))
            if parameter.kind == "parameter" and owner is not None:
                yield p, owner

    def _add_up(self, elements: list[int]) -> list[int]:
        for i in range(len(elements) - 1, -1, -1):
            above = self.parent[i]
            if above is not None:
                elements[above] += elements[i]
        return elements

    def _uses_parameters(self, i: int) -> bool:
        return any(fqn in self.weights for fqn in self.trace.modules[i].parameters)
