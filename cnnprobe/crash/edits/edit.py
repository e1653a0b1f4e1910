"""What every change of a model is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError, write_changes
from cnnprobe.crash.model_copy import ModelCopy


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One change: it can be made in a copy of the model, and written into the user's file."""

    title: str  # what to change, as one sentence
    code: str = ""  # what to write
    module: str | None = None  # fqn of what it touches; None: the input, the loss, the loop
    written: Callable[[], list[TextChange]] | None = None  # how the file changes, where it is known
    steps: int = 1  # forwards with a backward after which it is seen whether it mends a backward

    def apply(self, twin: ModelCopy) -> None:
        """Make the change in a copy; what takes it back goes onto `twin.undo`."""
        raise NotImplementedError

    def write(self, crash: Crash, edits: Sequence["Edit"]) -> list[TextChange]:
        """The change of the user's file, made together with all `edits`.

        Raises:
            UnknownPlaceError: the line to change is not known for certain.
        """
        return self.locate(crash, edits) if self.written is None else self.written()

    def locate(self, crash: Crash, edits: Sequence["Edit"]) -> list[TextChange]:  # noqa: ARG002
        """As `write`, for a kind of edit that finds its place by itself."""
        raise UnknownPlaceError


def write_diff(crash: Crash, edits: Sequence[Edit]) -> str:
    """The unified diff that makes the edits; "" where one of them has no known line."""
    return write_changes(lambda: [c for edit in edits for c in edit.write(crash, edits)])


def refill(registry: Any, content: Mapping[Any, Any]) -> None:
    """Put content in the place of what a registry holds."""
    registry.clear()
    registry.update(content)
