"""Other hooks of modules."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cnnprobe.crash.edits.edit import Edit, refill
from cnnprobe.crash.model_copy import ModelCopy


@dataclass(frozen=True, kw_only=True)
class ChangeHook(Edit):
    """Another hook in the place of one of a module's; None takes it off."""

    key: int
    hook: Callable[..., Any] | None
    registry: str = "_forward_hooks"

    def apply(self, twin: ModelCopy) -> None:
        hooks = getattr(twin.module(self.module), self.registry)
        before = dict(hooks)
        if self.hook is None:
            del hooks[self.key]
        else:
            hooks[self.key] = self.hook
        twin.undo.append(lambda: refill(hooks, before))
