"""How data flows between the rows of a trace: who made a tensor, who reads it, and what lies
between.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator

from cnnprobe.diagnosis.evidence.groups import ARRANGING, CREATING, operation
from cnnprobe.records.trace import ModuleCall, TensorInfo, Trace


class Flow:
    """Lookups over one trace: producers, consumers, the rows that compute by themselves."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.calls = trace.calls
        parents = {call.parent for call in trace.calls}
        self.is_primitive = [i not in parents for i in range(len(trace.calls))]
        self.readers: dict[int, list[int]] = defaultdict(list)
        for i, call in enumerate(trace.calls):
            if self.is_primitive[i]:
                for source in dict.fromkeys(
                    t.source for t in call.inputs if isinstance(t.source, int) and t.source != i
                ):
                    self.readers[source].append(i)

    def primitives(self, operations: Collection[str] | None = None) -> Iterator[int]:
        """Rows without rows below them, in order; recomputed ones left out."""
        for i, call in enumerate(self.calls):
            if (
                self.is_primitive[i]
                and not call.recomputed
                and call.completed
                and (operations is None or operation(call) in operations)
            ):
                yield i

    def producer(self, info: TensorInfo | None) -> int | None:
        """The row that made a tensor; None where it came from outside or is a parameter."""
        return info.source if info is not None and isinstance(info.source, int) else None

    def origin(self, info: TensorInfo, through: Collection[str] = ARRANGING) -> int | None:
        """The row whose values these are, behind those that only hand them on."""
        index = self.producer(info)
        while index is not None and operation(self.calls[index]) in through:
            data = self.data(index)
            index = self.producer(data)
        return index

    def data(self, index: int) -> TensorInfo | None:
        """The first input of a row."""
        inputs = self.calls[index].inputs
        return inputs[0] if inputs else None

    def outer(self, info: TensorInfo, through: Collection[str] = ARRANGING) -> TensorInfo:
        """The tensor at the beginning of a chain that only hands values on: from outside, a
        parameter, or a computing row's input to it.
        """
        while (index := self.producer(info)) is not None and operation(
            self.calls[index]
        ) in through:
            before = self.data(index)
            if before is None:
                return info
            info = before
        return info

    def owner(self, index: int | None) -> str | None:
        """The fqn of the module that a row is or lies in; None in the loop or the loss."""
        while index is not None:
            call = self.calls[index]
            if call.fqn is not None:
                return call.fqn
            index = call.parent
        return None

    def before(self, index: int) -> set[int]:
        """All rows that the row's values come from, directly or not: not those that only gave the
        shape of zeros_like and its kind.
        """
        seen: set[int] = set()
        stack = [index]
        while stack:
            call = self.calls[stack.pop()]
            for info in () if operation(call) in CREATING else call.inputs:
                source = self.producer(info)
                if source is not None and source not in seen:
                    seen.add(source)
                    stack.append(source)
        return seen

    def after(self, index: int) -> set[int]:
        """All rows that read what the row made, directly or not."""
        seen: set[int] = set()
        stack = [index]
        while stack:
            for reader in self.readers.get(stack.pop(), ()):
                if reader not in seen:
                    seen.add(reader)
                    stack.append(reader)
        return seen

    def passes_on(self, index: int, through: Collection[str] = ARRANGING) -> list[int]:
        """The computing rows that read what the row made, behind those that only hand it on."""
        found: list[int] = []
        stack = list(self.readers.get(index, ()))
        while stack:
            reader = stack.pop()
            if operation(self.calls[reader]) in through:
                stack.extend(self.readers.get(reader, ()))
            else:
                found.append(reader)
        return sorted(set(found))

    def line(self, index: int | None) -> str:
        """The user's line of a row."""
        return "" if index is None else self.calls[index].source

    def roots(self) -> list[int]:
        """The calls of the model itself."""
        return [i for i, call in enumerate(self.calls) if call.fqn == ""]


def sources_read(trace: Trace) -> set[str]:
    """The fqns of parameters, buffers and hidden tensors that a function's row read."""
    return {t.source for call in trace.calls for t in call.inputs if isinstance(t.source, str)}


def describe(call: ModuleCall) -> str:
    """How a row is spoken of: "conv1 (Conv2d)", "F.relu"."""
    if call.fqn is not None:
        return f"'{call.fqn}' ({call.kind})" if call.fqn else f"the model ({call.kind})"
    return call.kind.replace("torch.nn.functional.", "F.").replace("torch.Tensor.", "Tensor.")
