"""Crashes of a loop's own lines: each program is named, and its first repair is the correction."""

import subprocess
import sys

import pytest
import torch

import cnnprobe
from cnnprobe.crash.cause import HEAD, Example
from cnnprobe.errors import UsageError
from cnnprobe.loading.defaults import make_default_inputs
from tests.support.examples import explain_text

# A diagnosis, a part of the first repair's title, and the lines of a loop: "- " goes, "+ " comes.
CLASSES = """
  model = nn.Linear(8, 3)
  def run(model):
      y = torch.tensor([0, 1, 2, 0])
      output = model(torch.randn(4, 8))
"""
CASES = {
    "size of an image": (
        "wrong-brackets",
        "write image.size instead of image.size()",
        """
  from PIL import Image
  image = Image.new("RGB", (32, 16))
  model = nn.Linear(8, 3)
  def run(model):
      model(torch.randn(4, 8))
-     return image.size()[1] > 16
+     return image.size[1] > 16
""",
    ),
    "shape of an array": (
        "wrong-brackets",
        "write rows.shape instead of rows.shape()",
        """
  import numpy as np
  model = nn.Linear(8, 3)
  def run(model):
      rows = np.zeros((4, 8), "float32")
-     count, width = rows.shape()
+     count, width = rows.shape
      return model(torch.from_numpy(rows))
""",
    ),
    "parameter groups": (
        "wrong-brackets",
        "write optimizer.param_groups instead of optimizer.param_groups()",
        """
  model = nn.Linear(8, 3)
  def run(model):
      optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
-     return optimizer.param_groups()[0]["lr"]
+     return optimizer.param_groups[0]["lr"]
""",
    ),
    "parameters that are indexed": (
        "wrong-brackets",
        "write list(model.parameters())[0]",
        """
  model = nn.Linear(8, 3)
  def run(model):
-     return model.parameters[0]
+     return list(model.parameters())[0]
""",
    ),
    "weight that is called": (
        "wrong-brackets",
        "write model.weight instead of model.weight()",
        """
  model = nn.Linear(8, 3)
  def run(model):
-     return model.weight().norm()
+     return model.weight.norm()
""",
    ),
    "classes of max on a line of its own": (
        "values-and-indices",
        "write predicted.indices",
        CLASSES
        + """
      predicted = torch.max(output, dim=1)
-     correct = predicted == y
+     correct = predicted.indices == y
      return correct.sum()
""",
    ),
    "scores of topk": (
        "values-and-indices",
        "write best.values",
        CLASSES
        + """
      best = output.detach().topk(2)
-     return best.numpy()
+     return best.values.numpy()
""",
    ),
    "two lists": (
        "comparison-gives-bool",
        "write torch.tensor(output.argmax(1).tolist()) == torch.tensor(labels)",
        CLASSES
        + """
      labels = [0, 1, 2, 0]
-     return (output.argmax(1).tolist() == labels).sum()
+     return (torch.tensor(output.argmax(1).tolist()) == torch.tensor(labels)).sum()
""",
    ),
    "is for ==": (
        "comparison-gives-bool",
        "write output.argmax(1) == y",
        CLASSES
        + """
-     return (output.argmax(1) is y).sum()
+     return (output.argmax(1) == y).sum()
""",
    ),
    "labels that collate leaves out": (
        "loss-given-no-tensor",
        "return the labels from collate",
        """
  def collate(batch):
-     return torch.stack([x for x, _ in batch]), None
+     return torch.stack([x for x, _ in batch]), torch.tensor([y for _, y in batch])
  model = nn.Linear(8, 3)
  def run(model):
      loader = torch.utils.data.DataLoader([(torch.randn(8), 1)] * 4, 2, collate_fn=collate)
      for x, y in loader:
          F.cross_entropy(model(x), y)
""",
    ),
    "labels that are moved but are not there": (
        "none-for-value",
        "return the labels from collate",
        """
  def collate(batch):
-     return torch.stack([x for x, _ in batch]), None
+     return torch.stack([x for x, _ in batch]), torch.tensor([y for _, y in batch])
  model = nn.Linear(8, 3)
  def run(model):
      loader = torch.utils.data.DataLoader([(torch.randn(8), 1)] * 4, 2, collate_fn=collate)
      for x, y in loader:
          y = y.to("cpu")
          F.cross_entropy(model(x), y)
""",
    ),
    "labels under another key": (
        "loss-given-no-tensor",
        "write batch['label'] instead of batch.get('labels')",
        """
  model = nn.Linear(8, 3)
  def run(model):
      batch = {"image": torch.randn(2, 8), "label": torch.tensor([0, 1])}
-     return F.cross_entropy(model(batch["image"]), batch.get("labels"))
+     return F.cross_entropy(model(batch["image"]), batch["label"])
""",
    ),
    "model of a function without a return": (
        "none-for-value",
        "end build() with a return",
        """
  def build():
      made = nn.Linear(8, 3)
-     made
+     return made
  model = nn.Linear(8, 3)
  def run(model):
      net = build()
      return net(torch.randn(2, 8))
""",
    ),
    "image that is not there": (
        "none-for-value",
        "correct the path",
        """
  class cv2:
      @staticmethod
      def imread(path):
          return None if path.startswith("nowhere") else torch.zeros(8)
  class Images(torch.utils.data.Dataset):
      def __init__(self):
-         self.paths = ["nowhere/a.png", "nowhere/b.png"]
+         self.paths = ["a.png", "b.png"]
      def __len__(self):
          return 2
      def __getitem__(self, i):
          image = cv2.imread(self.paths[i])
          return image.reshape(8)
  model = nn.Linear(8, 3)
  def run(model):
      for x in torch.utils.data.DataLoader(Images()):
          model(x)
""",
    ),
    "class numbers for a loss of values": (
        "target-shape",
        "pass F.one_hot(targets.long(), 3).float()",
        """
  model = nn.Linear(8, 3)
  def run(model):
      y = torch.tensor([0.0, 1.0, 2.0, 0.0])
-     return nn.BCEWithLogitsLoss()(model(torch.randn(4, 8)), y)
+     return nn.BCEWithLogitsLoss()(model(torch.randn(4, 8)), F.one_hot(y.long(), 3).float())
""",
    ),
    "class numbers of pixels": (
        "target-shape",
        "pass F.one_hot(targets.long(), 3).movedim(-1, 1).float()",
        """
  model = nn.Conv2d(1, 3, 1)
  def run(model):
      y = torch.randint(0, 3, (2, 4, 4)).float()
+     y = F.one_hot(y.long(), 3).movedim(-1, 1).float()
      return nn.BCEWithLogitsLoss()(model(torch.randn(2, 1, 4, 4)), y)
""",
    ),
    "list of an array of objects": (
        "ragged-list",
        "pad_sequence",
        """
  import numpy as np
  model = nn.Linear(3, 2)
  def run(model):
      rows = np.array([[1.0, 2.0, 3.0], [4.0, 5.0]], dtype=object)
-     return model(torch.tensor(rows))
+     made = [torch.tensor(row) for row in rows]
+     return model(nn.utils.rnn.pad_sequence(made, batch_first=True))
""",
    ),
    "number of a loop over a tensor": (
        "zero-dim-input",
        "pass x.reshape(1, 1) to the model",
        """
  model = nn.Linear(1, 3)
  def run(model):
      for value in torch.linspace(0, 1, 3):
-         model(value)
+         model(value.reshape(1, 1))
""",
    ),
    "targets of a detector": (
        "container-for-tensor",
        "for one in targets]",
        """
  model = nn.Linear(8, 3)
  def run(model):
      targets = [{"boxes": torch.zeros(1, 4)}]
-     return targets.to("cpu")
+     return [{key: value.to("cpu") for key, value in one.items()} for one in targets]
""",
    ),
    "labels of an older torchvision": (
        "attribute-of-another",
        "write rows.targets",
        """
  class Rows(torch.utils.data.Dataset):
      def __init__(self):
          self.targets = [0, 1]
  model = nn.Linear(8, 3)
  def run(model):
      rows = Rows()
-     return torch.tensor(rows.train_labels)
+     return torch.tensor(rows.targets)
""",
    ),
    "iterator of a loader": (
        "loader-arguments",
        "write next(batches)",
        """
  model = nn.Linear(8, 3)
  def run(model):
      batches = iter(torch.utils.data.DataLoader([torch.randn(8)] * 4))
-     return model(batches.next())
+     return model(next(batches))
""",
    ),
    "rate below zero": (
        "optimizer-arguments",
        "write lr=0.1",
        """
  model = nn.Linear(8, 3)
  def run(model):
-     return torch.optim.Adam(model.parameters(), lr=-0.1)
+     return torch.optim.Adam(model.parameters(), lr=0.1)
""",
    ),
    "trace without an example": (
        "export-arguments",
        "pass an example of its input",
        """
  import warnings
  model = nn.Linear(8, 3)
  def run(model):
      with warnings.catch_warnings():
          warnings.simplefilter("ignore")
-         return torch.jit.trace(model)
+         return torch.jit.trace(model, torch.randn(2, 8))
""",
    ),
    "texts of an array": (
        "text-for-tensor",
        "give each class name a number",
        """
  import numpy as np
  model = nn.Linear(8, 3)
  def run(model):
      names = np.array(["cat", "dog"])
-     return torch.from_numpy(names)
+     return torch.tensor([["cat", "dog"].index(name) for name in names])
""",
    ),
}


def read(name):
    diagnosis, repair, program = CASES[name]
    return diagnosis, repair, Example(program)


@pytest.mark.parametrize("name", CASES)
def test_crash_of_a_line_of_the_loop_is_named_with_its_repair_first(name, tmp_path):
    diagnosis, repair, program = read(name)
    explanation = explain_text(program.sick, tmp_path)
    assert diagnosis == explanation.diagnosis, explanation.message
    assert repair in explanation.repairs[0].title


@pytest.mark.parametrize("name", CASES)
def test_corrected_line_of_the_loop_gives_no_explanation(name, tmp_path):
    assert explain_text(read(name)[2].repaired, tmp_path) is None


TRANSFORMS = {
    "T.Compose([T.ToTensor(), T.Resize(8), T.ToTensor()])(image)": "leave out this ToTensor()",
    "T.Compose([T.Normalize([0.5], [0.5]), T.ToTensor()])(image)": "ToTensor() before Normalize",
    "T.Compose([T.RandomErasing(1.0), T.ToTensor()])(image)": "put ToTensor() before RandomErasing",
    "T.ToTensor()(T.ToTensor()(image))": "leave out ToTensor()",
    "T.Compose([T.ToPILImage(), T.ToTensor()])(image)": "leave out ToPILImage()",
    "T.Compose([T.Resize(8), T.ToTensor()])(np.array(image))": "put ToPILImage() first",
    "T.Compose([T.ToTensor(), T.Normalize([0.5], [0.5])])(torch.zeros(1, 9, 9).byte())": (
        "use ConvertImageDtype(torch.float32) instead of ToTensor()"
    ),
    "T.Compose([T.RandomCrop(16), T.ToTensor()])(image)": "pass pad_if_needed=True",
    "v2.Compose([v2.Normalize([0.5], [0.5]), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])"
    "(image)": "put Normalize last in the Compose",
}


@pytest.mark.parametrize("code", TRANSFORMS)
def test_transform_that_gets_another_kind_is_named_and_its_repair_is_tried(code, tmp_path):
    pytest.importorskip("torchvision")
    head = "import numpy as np\nimport torchvision.transforms as T\nfrom PIL import Image\n"
    head += "from torchvision.transforms import v2\n\n"
    body = "model, image = nn.Linear(4, 2), Image.new('RGB', (9, 9))\n\n\ndef run(model):\n"
    explanation = explain_text(HEAD + head + body + f"    return {code}\n", tmp_path)
    assert "wrong-transform-input" == explanation.diagnosis, explanation.message
    assert TRANSFORMS[code] in explanation.repairs[0].title
    assert "it gives a tensor (" in explanation.repairs[0].tried


@pytest.mark.parametrize("code", ["T.Resize(8)('cat.png')", "T.Compose([T.ToTensor])(image)"])
def test_transform_of_a_path_or_a_class_is_named_and_advised(code, tmp_path):
    pytest.importorskip("torchvision")
    head = "import torchvision.transforms as T\nfrom PIL import Image\n"
    body = "model, image = nn.Linear(4, 2), Image.new('RGB', (9, 9))\n\n\ndef run(model):\n"
    explanation = explain_text(HEAD + head + body + f"    return {code}\n", tmp_path)
    assert "wrong-transform-input" == explanation.diagnosis
    assert not explanation.repairs[0].tried


def test_trial_of_a_random_transform_leaves_the_generator_as_it_was(tmp_path):
    pytest.importorskip("torchvision")
    head = "import torchvision.transforms as T\nfrom PIL import Image\n"
    body = "model, image = nn.Linear(4, 2), Image.new('RGB', (9, 9))\n\n\ndef run(model):\n"
    line = "    return T.Compose([T.RandomErasing(1.0), T.ToTensor()])(image)\n"
    assert explain_text(HEAD + head + body + line, tmp_path).repairs[0].tried
    found = torch.random.get_rng_state()
    torch.manual_seed(0)
    torch.rand(1)  # the transform draws whether it erases, before it raises
    assert torch.equal(torch.random.get_rng_state(), found)


SAVED = """
import argparse
import io
import numpy as np
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)
model = nn.Linear(4, 2)
def save(value):
    file = io.BytesIO()
    torch.save(value, file)
    return io.BytesIO(file.getvalue())
def run(model):
"""
LOADS = {
    "torch.load(save(nn.Sequential(model)))": ("pickled-model", "whole model (Sequential)"),
    "torch.load(save({'w': torch.ones(2), 'lr': np.float64(0.1)}))": (
        "pickled-model",
        "objects of Python beside tensors",
    ),
    "torch.load(io.BytesIO(b'<html>'))": ("unreadable-checkpoint", "is a web page"),
    "torch.load(io.BytesIO(b'version https://git-lfs'), weights_only=False)": (
        "unreadable-checkpoint",
        "is a pointer of Git LFS",
    ),
    "torch.load(io.BytesIO(b''))": ("unreadable-checkpoint", "is empty"),
    "torch.load(io.BytesIO(b'\\x89HDF0000'))": ("unreadable-checkpoint", "a file of HDF5"),
    "model.load_state_dict(model.state_dict)": ("state-mismatch", "got the method state_dict"),
    "model.load_state_dict('net.pt')": ("state-mismatch", "got the path 'net.pt'"),
    "torch.load(save(model.state_dict())).eval()": ("missing-attribute", ""),
}


@pytest.mark.parametrize("code", LOADS)
def test_what_cannot_be_loaded_is_named_without_running_any_of_it(code, tmp_path):
    diagnosis, message = LOADS[code]
    code = code if diagnosis != "missing-attribute" else f"saved = {code[:-7]}\n    saved.eval()"
    explanation = explain_text(HEAD + SAVED + f"    {code}\n", tmp_path)
    assert diagnosis == explanation.diagnosis, explanation.message
    assert message in explanation.message


def test_class_of_a_saved_model_that_is_gone_is_named(tmp_path):
    program = SAVED + "    file = save(Net())\n    del globals()['Net']\n"
    program += "    torch.load(file, weights_only=False)\n"
    explanation = explain_text(HEAD + program, tmp_path)
    assert "pickled-model" == explanation.diagnosis
    assert "looks for its class Net in" in explanation.message


class Bomb:
    """Its pickle calls a function when it is read."""

    def __reduce__(self):
        return (print, ("it was run",))


def test_file_that_torch_refuses_is_not_run_to_explain_it(tmp_path, capsys):
    path = tmp_path / "bomb.pt"
    torch.save({"a": Bomb(), "w": torch.ones(2)}, path)
    program = f"model = nn.Linear(4, 2)\ndef run(model):\n    torch.load({str(path)!r})\n"
    explanation = explain_text(HEAD + program, tmp_path)
    assert "pickled-model" == explanation.diagnosis
    assert "builtins.print" in explanation.arithmetic
    assert "" == capsys.readouterr().out


def test_reading_a_file_of_a_path_first_is_tried(tmp_path):
    path = tmp_path / "net.pt"
    torch.save(torch.nn.Linear(4, 2).state_dict(), path)
    program = (
        f"model = nn.Linear(4, 2)\ndef run(model):\n    model.load_state_dict({str(path)!r})\n"
    )
    explanation = explain_text(HEAD + program, tmp_path)
    assert "tried: every entry then fits" == explanation.repairs[0].tried


GUARD = """
import torch
from torch import nn
from torch.utils.data import DataLoader
import cnnprobe

model, rows = nn.Linear(3, 2), torch.ones(4, 3)
with cnnprobe.record(model):
    for x in DataLoader(rows, num_workers=1, multiprocessing_context="spawn"):
        model(x)
"""


def test_program_without_a_main_guard_is_named_in_the_program_and_in_its_worker(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(GUARD)
    done = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, timeout=120, check=False
    )
    said = 'the program lacks `if __name__ == "__main__"`: '
    assert said + "this is a worker that imports the program" in done.stderr
    assert said + "each worker imports the program" in done.stderr


def test_exception_without_a_message_is_written_without_a_colon():
    class Net(torch.nn.Module):
        def forward(self, x):
            raise KeyboardInterrupt

    model = Net()
    with pytest.raises(KeyboardInterrupt), cnnprobe.record(model):
        model(torch.ones(2))
    text = str(cnnprobe.last_report(model))
    assert "the forward pass raised KeyboardInterrupt\n" in text
    assert "KeyboardInterrupt:" not in text


def test_shape_is_proposed_for_each_input_of_a_model_as_its_first_layer_takes_it():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.image, self.rows = torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(5, 4)

        def forward(self, image, rows, mask):
            return self.image(image).mean((2, 3)) + self.rows(rows) * mask

    with pytest.raises(UsageError) as caught:
        make_default_inputs(Two(), device=torch.device("cpu"))
    fix = "--input image=1,1,32,32 --input rows=1,5 --input mask=SHAPE"
    assert f"give a shape or a file for each: {fix}" == caught.value.fix
