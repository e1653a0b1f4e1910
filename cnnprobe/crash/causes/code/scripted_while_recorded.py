from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.facts.frames import get_path, list_frames

_PROGRAM = """
  import warnings
  model = nn.Sequential(nn.Linear(4, 2), nn.ReLU())
  def run(model):
      model(torch.randn(3, 4))
      with warnings.catch_warnings():
          warnings.simplefilter("ignore")
-         return torch.jit.script(model)
+         return model
"""
EXAMPLE = Example(_PROGRAM, repair="script the model before or after", is_tried=False)


@cause("CP0N1", "scripted-while-recorded", EXAMPLE, stage="loss", prior=1008)
def scripted_while_recorded(crash: Crash) -> Suspects:
    """torch.jit.script compiles the hooks of a model, and cnnprobe's stand on it while it records.

    Why it happens: record and monitor watch a model through forward hooks. torch.jit.script
    compiles every hook with the model, and these are no TorchScript.
    What to do: script the model before or after the recording.
    Known exceptions: hooks of your own that are no TorchScript raise without a recording too.
    Source: torch.jit.script, "Hooks".
    """
    for frame in list_frames(crash.error):
        hook = frame.f_locals.get("hook")
        is_it = frame.f_code.co_name == "get_hook_stubs" and "torch/jit/" in get_path(frame)
        if is_it and str(getattr(hook, "__module__", "")).startswith("cnnprobe."):
            yield blame(
                None,
                "torch.jit.script compiles the hooks of a model, and those by which cnnprobe "
                "records are on it",
                "script the model before or after the recording",
                raised_in="torch.jit.script",
            )
            return
