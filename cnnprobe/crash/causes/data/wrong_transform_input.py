from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.facts.loader import find_fetch
from cnnprobe.crash.facts.transforms import judge_transform

_PROGRAM = """
  class ToTensor:
      def __call__(self, pic):
          return torch.tensor(pic)
  class Normalize:
      def __call__(self, tensor):
          return torch.sub(tensor, 0.5)
  class Compose:
      def __init__(self, transforms):
          self.transforms = transforms
      def __call__(self, img):
          for t in self.transforms:
              img = t(img)
          return img
  model = nn.Linear(3, 2)
  def run(model):
-     transform = Compose([Normalize(), ToTensor()])
+     transform = Compose([ToTensor(), Normalize()])
      return model(transform([0.0, 0.5, 1.0]))
"""
EXAMPLE = Example(_PROGRAM, repair="put ToTensor() before Normalize", is_tried=False)


@cause("CP0L0", "wrong-transform-input", EXAMPLE, stage="around", prior=881)
def wrong_transform_input(crash: Crash) -> Suspects:
    """A transform of images got another kind of value than it takes.

    Why it happens: ToTensor gets what is a tensor already, as it stands in the list twice or the
    data set holds tensors. Normalize and RandomErasing work on tensors, but stand before
    ToTensor. Resize and its like get a NumPy array, as cv2 reads it, or the name of a file. A
    class stands in the list without its parentheses.
    What to do: open the image, transform it as an image, then ToTensor(), then Normalize.
    Known exceptions: none. Inside of a DataLoader it is part of failed-sample.
    Source: torchvision, "Transforming images, videos, boxes and more".
    """
    if find_fetch(crash.error) is not None or (judged := judge_transform(crash.error)) is None:
        return
    yield blame(None, judged.reason, judged.edit, arithmetic=judged.arithmetic)
