"""The modules of a model as one recording watches them: which there are, and whether any has come
or gone.
"""

import operator
from collections.abc import Iterator

from torch import nn

from cnnprobe.recorder.inventory import named_modules


class ModuleTree:
    """What `named_modules` gives, kept for one recording.

    Lists side by side, as thousands of tuples that hold modules are thousands of objects for the
    garbage collector to search.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.fqns: list[str] = []
        self.modules: list[nn.Module] = []
        self.firsts: list[bool] = []
        self.left_out: frozenset[int] = frozenset()  # places that are not to be watched
        self._families: list[tuple[nn.Module, list[str], list[nn.Module | None]]] = []
        self._childless: list[nn.Module] = []
        for fqn, module, first in named_modules(model):
            self.fqns.append(fqn)
            self.modules.append(module)
            self.firsts.append(first)
            children = module._modules
            if not children and type(children) is dict:
                self._childless.append(module)
            elif isinstance(children, dict):
                self._families.append((module, list(children), list(children.values())))
            # those of a script are no dict, and can neither come nor go

    def __iter__(self) -> Iterator[tuple[str, nn.Module, bool]]:
        return zip(self.fqns, self.modules, self.firsts, strict=True)

    def append(self, fqn: str, module: nn.Module) -> int:
        """Take in a module that was registered later; its place."""
        self.fqns.append(fqn)
        self.modules.append(module)
        self.firsts.append(True)
        return len(self.fqns) - 1

    def watched(self) -> Iterator[tuple[int, nn.Module]]:
        """Places and modules, each module once."""
        for place, module in enumerate(self.modules):
            if self.firsts[place] and place not in self.left_out:
                yield place, module

    def names_of_tensors(self) -> dict[int, str]:
        """The parameters and buffers as they are now: id -> first name."""
        names: dict[int, str] = {}
        for fqn, module, first in self:
            for registry in (module._parameters, module._buffers) if first else ():
                for name, tensor in registry.items():
                    if tensor is not None:
                        names.setdefault(id(tensor), f"{fqn}.{name}" if fqn else name)
        return names

    def is_current(self) -> bool:
        """Whether no module has come, gone or moved meanwhile: five times as fast as to look at all
        of them anew.
        """
        for module in self._childless:
            if module._modules:
                return False
        for module, names, children in self._families:
            now = module._modules
            if (
                len(now) != len(names)
                or list(now) != names
                or not all(map(operator.is_, now.values(), children))
            ):
                return False
        return True
