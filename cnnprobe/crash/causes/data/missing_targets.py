import inspect
import linecache
import re
import types

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.attributes import SetMode
from cnnprobe.crash.facts.frames import list_frames
from cnnprobe.crash.facts.methods import is_own

_TARGETS = re.compile(r"(^|_)(targets?|labels?|ground_truth|gt)(_|$)")
_ASSERTS = ("_assert",)  # torch._assert has a frame of its own

_DETECTOR = """
  import torchvision
  model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
      weights=None, weights_backbone=None, num_classes=3
  )
+ model.eval()
  args = ([torch.rand(3, 64, 64)],)
"""
DETECTOR = Example(_DETECTOR, blames="", repair="call model.eval()", on_meta=False)
_OWN = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(4, 2)
      def forward(self, x, labels=None):
          logits = self.fc(x)
          if self.training:
              return F.cross_entropy(logits, labels)
          return logits
  model, args = Net(), (torch.randn(3, 4),)
+ model.eval()
"""
OWN = Example(_OWN, blames="", repair="call model.eval()")


@cause("CP0J6", "missing-targets", (DETECTOR, OWN), prior=985)
def missing_targets(crash: Crash) -> Suspects:
    """A model in train mode computes its own losses, and was called without the targets.

    Why it happens: a detection model of torchvision gives losses in train mode and boxes in eval
    mode, and a new model is in train mode.
    What to do: pass the targets for training: model(images, targets). For inference, call
    model.eval() first.
    Known exceptions: none.
    Source: torchvision.models.detection.fasterrcnn_resnet50_fpn, in train mode.
    """
    for fqn, module in crash.modules.items():
        name = _find_missing(crash, module) if module.training and is_own(module) else ""
        if name:
            yield blame(
                fqn,
                f"in train mode {crash.describe_module(fqn)} needs {name!r}, which it was not "
                "given: it computes its losses itself",
                SetMode(
                    title=f"call model.eval() before the forward, if this is inference; "
                    f"pass {name!r} for training",
                    code="model.eval()",
                    module="",
                    training=False,
                ),
                arithmetic=f"{name} is None, its default",
                needs_proof=True,
            )
            return


def _find_missing(crash: Crash, module: object) -> str:
    """The parameter for targets that the failing forward of a module kept at None; "": none."""
    frames = list_frames(crash.error)
    at = [
        i
        for i, frame in enumerate(frames)
        if frame.f_code.co_name == "forward" and frame.f_locals.get("self") is module
    ]
    if not at:
        return ""
    frame, inner = frames[at[-1]], frames[at[-1] + 1 :]
    is_raised_here = all(one.f_code.co_name in _ASSERTS for one in inner)
    parameters = inspect.signature(type(module).forward).parameters  # type: ignore[attr-defined]
    for name, parameter in parameters.items():
        is_left = parameter.default is None and frame.f_locals.get(name, name) is None
        if is_left and _TARGETS.search(name) and (is_raised_here or _reads(crash, frame, name)):
            return name
    return ""


def _reads(crash: Crash, frame: types.FrameType, name: str) -> bool:
    """Whether the line on which a frame stood when it raised reads a name."""
    traceback = crash.error.__traceback__
    while traceback is not None and traceback.tb_frame is not frame:
        traceback = traceback.tb_next
    number = traceback.tb_lineno if traceback is not None else 0
    line = linecache.getline(frame.f_code.co_filename, number)
    return re.search(rf"\b{name}\b", line) is not None
