import ast
import signal
import sys
from pathlib import Path
from typing import Any

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.frames import get_path, list_frames
from cnnprobe.crash.facts.trees import list_nodes, parse_file

_LOADER = "torch/utils/data/dataloader.py"
_ALONE = "pass num_workers=0, which raises in this process where the data set itself fails"
_WHY = {
    "SIGBUS": (
        "there was no room left in shared memory, through which workers pass their batches",
        "give /dev/shm more room (docker run --shm-size=8g), or pass fewer num_workers",
    ),
    "SIGKILL": (
        "as a rule the system ended it for want of memory",
        "pass fewer num_workers, or keep the data in one tensor or array, not in a list of objects",
    ),
    "SIGSEGV": ("a library crashed in C", _ALONE),
    "SIGABRT": ("a library crashed in C", _ALONE),
}
_PROGRAM = """
  import os, signal
  class Rows(torch.utils.data.Dataset):
      def __len__(self):
          return 4
      def __getitem__(self, i):
-         os.kill(os.getpid(), signal.SIGBUS)
+         os.getpid()
          return torch.ones(3)
  model = nn.Linear(3, 2)
  def run(model):
      loader = torch.utils.data.DataLoader(Rows(), num_workers=1, multiprocessing_context="fork")
      for x in loader:
          model(x)
"""
EXAMPLE = Example(_PROGRAM, repair="give /dev/shm more room", is_tried=False)


@cause("CP0M0", "worker-died", EXAMPLE, stage="around", prior=882)
def worker_died(crash: Crash) -> Suspects:
    """A worker process of a DataLoader ended before it gave its batch.

    Why it happens: where workers start by spawn, as on Windows and macOS, each imports the
    program anew; without `if __name__ == "__main__":` it runs the loop again, which may not start
    workers. On Linux, shared memory or memory ran out, or a library crashed.
    What to do: put what the program does into a function, and call it under
    `if __name__ == "__main__":`. Else give it more shared memory, or fewer workers.
    Known exceptions: none.
    Source: "Multiprocessing best practices" and torch.utils.data, "Platform-specific behaviors".
    """
    if not isinstance(crash.error, RuntimeError):
        return
    frames = list_frames(crash.error)
    if any(frame.f_code.co_name == "_check_not_importing_main" for frame in frames):
        yield _blame_program("this is a worker that imports the program, and starts workers again")
        return
    own = (f.f_locals.get("self") for f in frames if get_path(f).endswith(_LOADER))
    found: list[Any] = [one for one in own if getattr(one, "_workers", None)]
    codes = [w.exitcode for w in found[-1]._workers if w.exitcode] if found else []
    if not codes:
        return
    if type(found[-1]._workers[0]).__name__ != "ForkProcess" and codes[0] > 0 and _lacks_guard():
        yield _blame_program("each worker imports the program, and starts workers again")
        return
    yield _blame_signal(codes[0])


def _blame_program(why: str) -> Suspect:
    code = 'if __name__ == "__main__":'
    title = f"put the loop into a function, and call it under {code}"
    return blame(
        None,
        f"the program lacks `{code.removesuffix(':')}`: {why}",
        propose(Advice(title=title, code=code)),
        arithmetic="workers are started by spawn",
        raised_in="the DataLoader",
    )


def _lacks_guard() -> bool:
    """Whether the file that runs as the program asks nowhere for the name __main__."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    tree = parse_file(path) if path and Path(path).exists() else None
    tests = (n.test for n in list_nodes(tree) if isinstance(n, ast.If)) if tree is not None else ()
    return tree is not None and not any("__name__" in ast.unparse(test) for test in tests)


def _blame_signal(code: int) -> Suspect:
    """A worker that a signal ended, or that left by itself."""
    names = {-one.value: one.name for one in signal.Signals}
    name = names.get(code, "")
    why, title = _WHY.get(name, ("what it raised was lost with it", _ALONE))
    how = f"was ended by {name}" if name else f"left with exit code {code}"
    return blame(
        None,
        f"a worker of the DataLoader {how}: {why}",
        propose(Advice(title=title)),
        arithmetic=f"exit code {code}",
        raised_in="the DataLoader",
    )
