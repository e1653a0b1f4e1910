"""What the user's own code of the loss is asked: which output it wants, whether its functions do
what they are named for, and which names it never reads.
"""

from collections.abc import Callable
from dataclasses import replace

from cnnprobe.diagnosis.evidence import OwnCode
from cnnprobe.training.formulas import find_broken
from cnnprobe.training.loss_minimum import judge_loss
from cnnprobe.training.request import Request
from cnnprobe.training.surroundings import Surroundings, look_around
from cnnprobe.training.target_places import Making
from cnnprobe.training.unpacked import find_unpacked


def read_code(
    request: Request, around: Surroundings, making: Making, put_back: Callable[[], None]
) -> OwnCode:
    """What the questions showed; `put_back` restores what a run has changed."""
    free = judge_loss(request, making, put_back)
    put_back()
    if request.train_step is None:  # then the loss is the only code that is the user's
        around = replace(around, functions=look_around(request.loss_fn, {}).functions)
    broken = find_broken(request.model, around, making(request), put_back)
    return OwnCode(free=free, broken=broken, unread=find_unpacked(around))
