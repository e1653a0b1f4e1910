from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.checkpoints import detect_format, find_load, open_path

_AGAIN = "copy or download the file again, and compare its size with the original"
_REASONS = {
    "damaged": ("starts as a checkpoint but ends too early", _AGAIN),
    "empty": ("is empty", _AGAIN),
    "lfs": ("is a pointer of Git LFS, not the file itself", "run git lfs pull"),
    "safetensors": (
        "is a file of safetensors, which torch.load does not read",
        "write safetensors.torch.load_file(path)",
    ),
    "unknown": ("is no checkpoint of torch.save", _AGAIN),
}
_PROGRAM = """
  import io
  model = nn.Linear(8, 2)
  def run(model):
      file = io.BytesIO()
      torch.save(model.state_dict(), file)
-     part = io.BytesIO(file.getvalue()[:400])
+     part = io.BytesIO(file.getvalue())
      return torch.load(part)
"""
EXAMPLE = Example(_PROGRAM, repair="copy or download the file again", is_tried=False)


@cause("CP0L5", "unreadable-checkpoint", EXAMPLE, stage="around", prior=904)
def unreadable_checkpoint(crash: Crash) -> Suspects:
    """torch.load got a file that is no checkpoint, or only a part of one.

    Why it happens: the download broke off, or gave a web page in the place of the file; the
    repository keeps it in Git LFS; it is of another format, such as safetensors or HDF5.
    What to do: look at how it begins, and fetch it again, or read it with what wrote it.
    Known exceptions: none.
    Source: torch.save; the format of zip archives.
    """
    if (load := find_load(crash.error)) is None:
        return
    with open_path(load) as path:
        kind = detect_format(path) if path is not None else ""
        if path is None or kind in ("", "zip", "pickle", "torchscript", "pt2"):
            return
        size = path.stat().st_size
        reason, title = _REASONS.get(kind, (f"is {kind}", _AGAIN))
        if type(crash.error).__module__.startswith("safetensors"):  # torch.load gave it to them
            reason, title = "is a damaged file of safetensors", _AGAIN
        yield blame(
            None,
            f"{load.shown} {reason}",
            propose(Advice(title=title)),
            arithmetic=f"{size:,} byte{'s' * (size != 1)}",
            raised_in="torch.load",
        )
