"""A sample, and where it stands. Frozen plain data."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Spotted:
    """A sample, and where it stands."""

    batch: int  # of those that were read, from 0
    position: int  # in its batch
    index: int | None = None  # in the data set; None: not known
    name: str = ""  # of its file, where the data set tells it
    label: int | None = None  # where it has one class

    @property
    def place(self) -> str:
        """The place in words: "sample 17 ('cat/003.png')"."""
        where = f"sample {self.position} of batch {self.batch}"
        number = where if self.index is None else f"sample {self.index}"
        return f"{number} ({self.name!r})" if self.name else number


@dataclass(frozen=True, slots=True, kw_only=True)
class SamePicture:
    """Two samples that show the same picture."""

    first: Spotted
    second: Spotted
    exact: bool = True  # equal numbers; False: equal to the eye, re-encoded say
