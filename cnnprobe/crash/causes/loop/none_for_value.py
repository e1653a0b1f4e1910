from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.facts.losses import list_losses
from cnnprobe.crash.facts.nothing import find_none

_KEY = """
  model = nn.Linear(8, 2)
  def run(model):
      batch = {"image": torch.randn(4, 8), "label": torch.tensor([0, 1, 1, 0])}
      output = model(batch["image"])
-     labels = batch.get("labels")
+     labels = batch["label"]
      return F.cross_entropy(output, labels.to(output.device))
"""
_RETURN = """
  def encode(y):
-     F.one_hot(y, 2).float()
+     return F.one_hot(y, 2).float()
  model = nn.Linear(8, 2)
  def run(model):
      wanted = encode(torch.tensor([0, 1, 1, 0]))
      return (model(torch.randn(4, 8)) - wanted).square().mean()
"""
EXAMPLES = (
    Example(_KEY, repair="write batch['label'] instead of batch.get('labels')", is_tried=False),
    Example(_RETURN, repair="end encode() with a return", is_tried=False),
)


@cause("CP0L1", "none-for-value", EXAMPLES, stage="around", family="not-a-tensor", prior=850)
def none_for_value(crash: Crash) -> Suspects:
    """None stands where the loop, the loss or the data set needs a value.

    Why it happens: a function has no return; dict.get gives None for a key that is not there;
    cv2.imread gives None for a file that it cannot read; a collate function puts None in the
    place of the labels; an argument kept its default.
    What to do: return the value, name the key that is there, correct the path, pass the argument.
    Known exceptions: a gradient that is None is missing-gradient.
    Source: dict.get and section 4.7, "Defining Functions", in the documentation of Python.
    """
    if not isinstance(crash.error, TypeError | AttributeError):
        return
    if any(loss.target is None and loss.names[1] for loss in list_losses(crash)):
        return  # see loss-given-no-tensor
    if (found := find_none(crash)) is not None:
        yield blame(None, found.message, found.edit)
