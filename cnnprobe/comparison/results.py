"""The verdict on two models, and a proven refactoring, as a user holds them: in any format, with
weights carried over. Keeps no model alive.
"""

import weakref
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from cnnprobe.comparison import list_tensors
from cnnprobe.document.layout.comparisons import (
    lay_out_comparison,
    lay_out_refactoring,
    write_verdict,
)
from cnnprobe.document.render import render
from cnnprobe.errors import ProbeError
from cnnprobe.records import schema
from cnnprobe.records.differences import Block, Difference, Outcome, Rewrite
from cnnprobe.records.words import format_counted

__all__ = ["Comparison", "Refactoring"]

_SHOWN = 3  # names in a message; of the others only how many


class Comparison:
    """What `compare` found: `levels` that hold or not, all `differences` (first divergence first),
    the `mapping` of names.

    `outcome` is the same as plain data, with the operations of both models and how they were
    paired.
    """

    def __init__(
        self, outcome: Outcome, actual: nn.Module | None = None, expected: nn.Module | None = None
    ) -> None:
        self.outcome = outcome
        self._models = tuple(
            weakref.ref(model) if model is not None else None for model in (actual, expected)
        )

    @property
    def equivalent(self) -> bool:
        """Whether every level that was compared holds."""
        return all(holds is not False for holds in self.levels.values())

    @property
    def levels(self) -> Mapping[str, bool | None]:
        """Level -> whether it holds; None where it was not compared."""
        return self.outcome.levels

    @property
    def differences(self) -> tuple[Difference, ...]:
        """All differences, in execution order."""
        return self.outcome.differences

    @property
    def mapping(self) -> Mapping[str, str]:
        """Name of a parameter or buffer in the actual model -> its name in the expected one."""
        return self.outcome.mapping

    def transfer(self, *, to: str = "actual", strict: bool = True) -> dict[str, Tensor]:
        """The state_dict of the other model in the names of the `to` model ("actual" or
        "expected"), ready for its `load_state_dict`.

        Args:
            to: whose names; the values are those of the other one, not copied.
            strict: every name must have its counterpart; False leaves those without one out.

        Raises:
            ProbeError: a name has no counterpart or more than one, or one of the models is gone.

        >>> import torch, cnnprobe
        >>> old, new = torch.nn.Linear(2, 1), torch.nn.Sequential(torch.nn.Linear(2, 1))
        >>> new.load_state_dict(cnnprobe.compare(new, old, torch.ones(1, 2)).transfer())
        <All keys matched successfully>
        """
        if to not in ("actual", "expected"):
            raise ProbeError(
                f"no side named {to!r}",
                where="Comparison.transfer",
                fix="to='actual' or to='expected'",
            )
        target, source = self._model(to), self._model("expected" if to == "actual" else "actual")
        given, ours = list_tensors(source), list_tensors(target)
        partners = self._match_partners(to, ours, given)
        found: dict[str, Tensor] = {}
        lost = []
        for name in target.state_dict():
            if name in partners:
                found[name] = given[partners[name]].detach()
            else:
                lost.append(name)
        if lost and strict:
            raise ProbeError(
                (
                    f"{len(lost)} of {len(target.state_dict())} names have no counterpart: "
                    f"{_join_names(lost)}"
                ),
                where=f"transfer to the {to} model, {type(target).__name__}",
                fix="; ".join(
                    (
                        *self.outcome.unmapped[:1],
                        (
                            "transfer(strict=False) transfers the others, for load_state_dict(..., "
                            "strict=False)"
                        ),
                    )
                ),
            )
        return found

    def _model(self, side: str) -> nn.Module:
        reference = self._models[0 if side == "actual" else 1]
        model = reference() if reference is not None else None
        if model is None:
            raise ProbeError(
                f"the {side} model no longer exists, or was a recording without values",
                where="Comparison.transfer",
                fix="compare two models, and keep both while their weights are transferred",
            )
        return model

    def _match_partners(
        self, to: str, ours: Mapping[str, Tensor], given: Mapping[str, Tensor]
    ) -> dict[str, str]:
        """Name in the target -> name in the source, through all aliases of either."""
        if to == "actual":
            return dict(self.mapping)
        known: dict[int, list[str]] = {}
        for actual, expected in self.mapping.items():
            known.setdefault(id(ours[expected]), []).append(actual)
        partners = {}
        for name, tensor in ours.items():
            sources = known.get(id(tensor), [])
            if not sources:
                continue
            if any(
                given[other] is not given[sources[0]]
                and not _is_equal(given[other], given[sources[0]])
                for other in sources[1:]
            ):
                raise ProbeError(
                    (
                        f"{name!r} is one tensor in the expected model, but {_join_names(sources)} "
                        "hold different values in the actual one"
                    ),
                    where="Comparison.transfer",
                    fix="tie them in the actual model as well, or choose one of them yourself",
                )
            partners[name] = sources[0]
        return partners

    def to(self, format: str, *, width: int | None = None) -> str:  # noqa: A002 - the word users type
        """The comparison as "text", "markdown", "html" or "json" (all of it, as plain data).

        Raises:
            UnknownNameError: there is no such format.
        """
        if format == "json":
            return schema.to_text(
                "Comparison", {"equivalent": self.equivalent, **schema.to_plain(self.outcome)}
            )
        return render(lay_out_comparison(self.outcome), format, width=width)

    def __str__(self) -> str:
        return self.to("text").rstrip("\n")

    def __repr__(self) -> str:
        return (
            f"<Comparison of {self.outcome.actual} against {self.outcome.expected}: "
            f"{write_verdict(self.outcome)}>"
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:  # noqa: ARG002
        """The forms in which a notebook shows it."""
        return {"text/plain": str(self), "text/html": self.to("fragment")}


class Refactoring:
    """What `refactor` found, wrote and proved: `source` is "" where nothing folds or the proof
    failed, and `notes` say why.
    """

    def __init__(self, rewrite: Rewrite) -> None:
        self._rewrite = rewrite

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Repeated blocks, in the order of the forward pass."""
        return self._rewrite.blocks

    @property
    def source(self) -> str:
        """Python source of the block classes and of the model that uses them, proven equivalent; ""
        where there is none.
        """
        return self._rewrite.source

    @property
    def class_name(self) -> str:
        """The name of the model's class in `source`."""
        return self._rewrite.class_name

    @property
    def mapping(self) -> Mapping[str, str]:
        """Name in the new model's state_dict -> name in the given model's."""
        return self._rewrite.mapping or {}

    @property
    def comparison(self) -> Comparison | None:
        """The proof: the new model, with the weights of the given one, against that one; None where
        nothing was written.
        """
        return None if self._rewrite.proof is None else Comparison(self._rewrite.proof)

    @property
    def notes(self) -> tuple[str, ...]:
        """Why there is no source, and what else is to be known."""
        return self._rewrite.notes

    def to(self, format: str, *, width: int | None = None) -> str:  # noqa: A002 - the word users type
        """The refactoring as "text", "markdown", "html", "json", or "python" (the source alone).

        Raises:
            UnknownNameError: there is no such format.
            ProbeError: there is no source, and "python" was asked for.
        """
        if format == "python":
            if not self.source:
                raise ProbeError(
                    "; ".join(self.notes),
                    where=f"refactor({self._rewrite.model})",
                    fix="to('text') shows what was found",
                )
            return self.source
        if format == "json":
            return schema.to_text("Refactoring", schema.to_plain(self._rewrite))
        return render(lay_out_refactoring(self._rewrite), format, width=width)

    def __str__(self) -> str:
        return self.to("text").rstrip("\n")

    def __repr__(self) -> str:
        state = "proven equivalent" if self.source else "; ".join(self.notes)
        return (
            f"<Refactoring of {self._rewrite.model}: "
            f"{format_counted(len(self.blocks), 'repeated block')}, {state}>"
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:  # noqa: ARG002
        """The forms in which a notebook shows it."""
        return {"text/plain": str(self), "text/html": self.to("fragment")}


def _is_equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a == b.to(a.device)).all())


def _join_names(names: list[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (
        f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    )
