"""Other forward hooks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cnnprobe.crash.edits.edit import Edit, refill
from cnnprobe.crash.model_copy import ModelCopy


@dataclass(frozen=True, kw_only=True)
class ChangeHook(Edit):
    """Another forward hook in the place of one of a module's; None takes it off."""

    key: int
    hook: Callable[..., Any] | None

    def apply(self, twin: ModelCopy) -> None:
        """Make it."""
        hooks = twin.module(self.module or "")._forward_hooks
        before = dict(hooks)
        if self.hook is None:
            del hooks[self.key]
        else:
            hooks[self.key] = self.hook
        twin.undo.append(lambda: refill(hooks, before))
