from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.files import judge_file

_PROGRAM = """
  model = nn.Linear(8, 2)
  def run(model):
-     model.load_state_dict(torch.load("nowhere/best.pt"))
+     model.load_state_dict(model.state_dict())
"""
EXAMPLE = Example(_PROGRAM, repair="Path(__file__).parent", is_tried=False)


@cause("CP0K6", "missing-file", EXAMPLE, stage=("forward", "around"), prior=600)
def missing_file(crash: Crash) -> Suspects:
    """A file that the code reads is not there.

    Why it happens: a relative path starts where the program runs, not where its file lies; or the
    name is misspelt.
    What to do: build the path from that of the file: Path(__file__).parent / "best.pt".
    Known exceptions: none.
    Source: Python, os.getcwd.
    """
    if (found := judge_file(crash.error)) is None:
        return
    reason, arithmetic, title = found
    blamed = crash.owner if crash.stage == "forward" else None
    yield blame(blamed, reason, propose(Advice(title=title)), arithmetic=arithmetic)
