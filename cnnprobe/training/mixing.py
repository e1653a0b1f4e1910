"""Sees gradients that are left over from a loss which another optimizer has stepped with, and are
added to those of the next.
"""

from collections.abc import Iterable


class Mixing:
    """Which gradients are whose, while two optimizers take turns (the discriminator and the
    generator of a GAN).
    """

    def __init__(self) -> None:
        self.found: tuple[str, str, int] | None = None
        self._reached: frozenset[str] = frozenset()  # by the latest backward
        self.rivals: dict[
            str, tuple[str, frozenset[str]]
        ] = {}  # a parameter with a gradient: who stepped with the same loss, and what
        self._mixed: dict[
            str, str
        ] = {}  # of these, the ones that a further loss of both was added to

    def backward(self, reached: frozenset[str]) -> None:
        """A backward pass, with the parameters that it reaches."""
        self._reached = reached
        self._mixed |= {
            name: rival
            for name, (rival, used) in self.rivals.items()
            if name in reached and used & reached
        }

    def cleared(self, names: Iterable[str]) -> None:
        """Parameters without a gradient, or with one of zero."""
        for name in names:
            self.rivals.pop(name, None)
            self._mixed.pop(name, None)

    def step(self, optimizer: str, held: Iterable[str]) -> None:
        """An optimizer stepped."""
        held = frozenset(held)
        mixed = [self._mixed[name] for name in held if name in self._mixed]
        if mixed and self.found is None:
            self.found = optimizer, mixed[0], len(mixed)
        used = self._reached & held
        self.rivals = {name: entry for name, entry in self.rivals.items() if name not in held}
        self._mixed = {name: rival for name, rival in self._mixed.items() if name not in held}
        if used:
            self.rivals |= {
                name: (optimizer, used) for name in self._reached - held if name not in self._mixed
            }
