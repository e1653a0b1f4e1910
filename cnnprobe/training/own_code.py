"""What the user's own code of the loss is asked: which output it wants, whether its functions do
what they are named for, and which names it never reads.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from cnnprobe.diagnosis.evidence import OwnCode
from cnnprobe.training.box_forms import find_misread
from cnnprobe.training.determinants import find_wrong_volume
from cnnprobe.training.formulas import find_broken
from cnnprobe.training.loss_minimum import judge_loss
from cnnprobe.training.passes import is_torchs_loss
from cnnprobe.training.request import Request
from cnnprobe.training.surroundings import Surroundings, look_around
from cnnprobe.training.target_places import Making
from cnnprobe.training.unpacked import find_unpacked
from cnnprobe.training.untrained import find_untrained

T = TypeVar("T")


def read_code(
    request: Request, around: Surroundings, making: Making, put_back: Callable[[], None]
) -> OwnCode:
    """What the questions showed; `put_back` restores what a run has changed."""
    beside = around
    if request.train_step is None:  # then the loss is the only code that is the user's
        around = replace(around, functions=look_around(request.loss_fn, {}).functions)

    ran: list[Callable[[], Any]] = []  # the steps, since all was put back

    def make(request: Request, *, seed: int = 0) -> Callable[[], Any]:
        step = making(request, seed=seed)

        def run() -> Any:
            ran.append(step)
            return step()

        return run

    def ask(question: Callable[[], T | None]) -> T | None:
        try:
            return question()
        except Exception:  # code that cannot be run in this way is not judged
            return None
        finally:
            if ran:
                put_back()
                ran.clear()

    model, step = request.model, make(request)
    volume = ask(lambda: find_wrong_volume(model, step))
    is_own = request.train_step is not None or not is_torchs_loss(request.loss_fn)
    return OwnCode(
        # torch's own loss is smallest where its page says: only the user's is to be tried
        free=ask(lambda: judge_loss(request, make, put_back)) if is_own else None,
        broken=(ask(lambda: find_broken(model, around, step, put_back)) or ())
        + (() if volume is None else (volume,)),
        unread=find_unpacked(around),
        boxes=ask(lambda: find_misread(request, around)),
        untrained=tuple(find_untrained(request.model, beside)),
    )
