"""Two forward passes side by side: each stops where it has made a tensor that the other one has to
be compared with.

No activation is kept: the first pass waits on a thread of its own, with the tensor in its hands,
until the second has made and compared its counterpart. One of the two runs at any time, each with
the random generators in its own state.
"""

import ctypes
import random
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.recorder import Observation

Run = Callable[["Leader | Follower"], Observation]
Compare = Callable[[Tensor, Tensor, int], None]  # actual, expected, number of the expected one
_MT19937 = 4 * 624 + 4  # bytes: its key, and the position in it
KEPT = "kept"  # stands among a tensor's statistics: the number under which a witness saw it


def can_run_side_by_side(actual: nn.Module, expected: nn.Module) -> bool:
    """Whether two passes can take turns: on the CPU, without shared modules or tensors, under no
    mode that belongs to the caller's thread.
    """
    parts = [
        {
            id(part)
            for module in model.modules()
            for part in (module, *module._parameters.values(), *module._buffers.values())
        }
        - {id(None)}
        for model in (actual, expected)
    ]
    devices = {
        t.device.type
        for model in (actual, expected)
        for t in (*model.parameters(), *model.buffers())
    }
    modes = torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack()
    contexts = torch.is_inference_mode_enabled() or torch.is_autocast_enabled("cpu")
    return (
        not parts[0] & parts[1]
        and devices <= {"cpu"}
        and not modes
        and not contexts
        and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    )


class Turns:
    """Whose turn it is, and the state of the random generators of whoever waits."""

    def __init__(self) -> None:
        self._turn = {side: threading.Semaphore(0) for side in ("leader", "follower")}
        self._waiting: dict[str, Any] = {
            side: (*_list_generators(), _read_numpy_state()) for side in ("leader", "follower")
        }
        # While NumPy's generator is so, neither side has drawn from it; but the second of two
        # normal numbers may be waiting elsewhere.
        self._untouched = (
            None if _has_second_normal(self._waiting["leader"][2]) else _read_numpy_memory()
        )
        self.over = False  # the leader has ended, or is to run on without stopping
        self.is_done = False  # the leader has ended

    def give(self, side: str, other: str) -> None:
        """Let `other` go on, and wait until it is the turn of `side` again."""
        self.pass_on(side, other)
        self._turn[side].acquire()

    def pass_on(self, side: str, other: str) -> None:
        """Let `other` go on, and do not wait."""
        mine, theirs = _list_generators(), self._waiting[other]
        numpys = self._waiting[side][2]
        if self._untouched is None or _read_numpy_memory() != self._untouched:
            self._untouched = None  # one of them draws: from now on each has a state of its own
            numpys = _read_numpy_state()
            _set_numpy_state(theirs[2])
        self._waiting[side] = (*mine, numpys)
        torch.set_rng_state(theirs[0])
        random.setstate(theirs[1])
        self._turn[other].release()

    def wait(self, side: str) -> None:
        """Wait for the first turn."""
        self._turn[side].acquire()


class Leader:
    """The witness of the pass that goes ahead, and stops with the tensor that was asked for."""

    def __init__(self, turns: Turns) -> None:
        self.count = 0
        self.wanted = -1
        self.held: Tensor | None = None
        self._turns = turns

    def see(self, tensor: Tensor) -> dict[str, float | int] | None:
        """Stop here if this one was asked for."""
        number, self.count = self.count, self.count + 1
        if number == self.wanted and not self._turns.over:
            self.held = tensor.detach()
            self._turns.give("leader", "follower")
            self.held = None
        return {KEPT: number}

    def about_to_write(self, tensor: Tensor) -> None:
        """Nothing is kept that could change."""


class Follower:
    """The witness of the other pass: asks the leader for the counterpart of each tensor, and
    compares.
    """

    def __init__(
        self, turns: Turns, leader: Leader, plan: Callable[[int], int], compare: Compare
    ) -> None:
        self.count = 0
        self._turns, self._leader, self._plan, self._compare = turns, leader, plan, compare

    def see(self, tensor: Tensor) -> dict[str, float | int] | None:
        """Let the leader come to the counterpart, and compare."""
        number, self.count = self.count, self.count + 1
        wanted = self._plan(number)
        if wanted >= self._leader.count and not self._turns.over:
            self._leader.wanted = wanted
            self._turns.give("follower", "leader")
        if self._leader.held is not None and self._leader.count == wanted + 1:
            self._compare(self._leader.held, tensor, number)
        return {KEPT: number}

    def about_to_write(self, tensor: Tensor) -> None:
        """Nothing is kept that could change."""


def run_side_by_side(
    first: Run, second: Run, plan: Callable[[int], int], compare: Compare
) -> tuple[Observation, Observation]:
    """Both observations; `plan` says which tensor of the first pass stands for the given one of the
    second, -1 for none.

    The leader begins first and ends last, so that what both put back (limits, generators) is put
    back in the right order.
    """
    turns = Turns()
    leader = Leader(turns)
    leader.wanted = max(plan(0), 0)
    follower = Follower(turns, leader, plan, compare)
    ended: list[Any] = []

    def lead() -> None:
        turns.wait("leader")
        try:
            ended.append(first(leader))
        except BaseException as error:  # goes on to the caller below
            ended.append(error)
        finally:
            turns.over = turns.is_done = True
            turns.pass_on("leader", "follower")

    thread = threading.Thread(target=lead, name="cnnprobe-comparison", daemon=True)
    thread.start()
    turns.give("follower", "leader")
    try:
        observation = second(follower)
    finally:
        if not turns.is_done:
            turns.over = True  # the leader runs to its end without stopping
            turns.give("follower", "leader")
        thread.join()
    if isinstance(ended[0], BaseException):
        raise ended[0]
    return ended[0], observation


def _list_generators() -> tuple[Any, ...]:
    return torch.get_rng_state(), random.getstate()


def _read_numpy_state() -> Any:
    numpy = sys.modules.get("numpy")
    return numpy.random.get_state() if numpy else None


def _set_numpy_state(state: Any) -> None:
    if state is not None:
        sys.modules["numpy"].random.set_state(state)


def _has_second_normal(state: Any) -> bool:
    return isinstance(state, tuple) and bool(state[3])


def _read_numpy_memory() -> bytes | None:
    """What NumPy's generator holds, read where it lies: get_state() takes a hundred times as long,
    at every turn.

    None for other generators than the usual one.
    """
    numpy = sys.modules.get("numpy")
    generator: Any = getattr(numpy.random, "get_bit_generator", lambda: None)() if numpy else None
    if type(generator).__name__ != "MT19937":
        return None
    return ctypes.string_at(generator.ctypes.state_address, _MT19937)
