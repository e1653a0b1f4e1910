"""What a monitor is asked for, checked before anything is hooked."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import get_args

from cnnprobe.errors import UnknownNameError, UsageError, suggest
from cnnprobe.records.history import What

EVERYTHING: tuple[What, ...] = get_args(What)
_WHERE = "monitor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The choices of one monitor; see `cnnprobe.monitor`."""

    every: int = 1
    budget: float | None = None
    modules: tuple[str, ...] = ("*",)
    what: tuple[str, ...] = EVERYTHING
    fraction: float = 1.0
    histograms: bool = False
    window: int = 10
    raise_on_nan: bool = False

    def check(self) -> None:
        """Raises UsageError for what makes no sense."""
        if type(self.every) is not int or self.every < 1:
            raise UsageError(
                f"every={self.every!r} observes no step",
                where=_WHERE,
                fix="give every=10 for each tenth step",
            )
        if self.budget is not None and not 0 < self.budget < 1:
            raise UsageError(
                f"budget={self.budget!r} is not a fraction of the time",
                where=_WHERE,
                fix="give budget=0.01 for one percent",
            )
        if not 0 < self.fraction <= 1:
            raise UsageError(
                f"fraction={self.fraction!r} reads nothing",
                where=_WHERE,
                fix="give fraction=0.25 for a quarter of each batch",
            )
        if self.window < 2:
            raise UsageError(
                f"window={self.window!r} is too short to call a channel dead",
                where=_WHERE,
                fix="give window=10 or so",
            )
        unknown = next((what for what in self.what if what not in EVERYTHING), None)
        if unknown is not None:
            raise UnknownNameError(
                f"nothing named {unknown!r} can be watched",
                where=_WHERE,
                fix=suggest(unknown, EVERYTHING),
            )

    def chosen(self, fqn: str) -> bool:
        """Whether a module's name fits one of the patterns; "" is the model itself."""
        return any(fnmatchcase(fqn, pattern) for pattern in self.modules)
