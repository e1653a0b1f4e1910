"""What every change of a model is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cnnprobe.crash.edits.files import Change
from cnnprobe.crash.model_copy import ModelCopy


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One change. `title` says it, `code` is what to write, `module` what it touches (None: the input), `written` how the user's file changes."""

    title: str
    code: str = ""
    module: str | None = None
    written: Callable[[], list[Change]] | None = (
        None  # None: where `patch` knows it by the kind of the edit
    )

    def apply(self, shadow: ModelCopy) -> None:
        """Make the change in a shadow; what takes it back goes onto `shadow.undo`."""
        raise NotImplementedError


def refill(registry: Any, content: Mapping[str, Any]) -> None:
    """Put content in the place of what a registry holds."""
    registry.clear()
    registry.update(content)
