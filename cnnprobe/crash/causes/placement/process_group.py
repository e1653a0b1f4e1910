import os

import torch.distributed as dist

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.facts.frames import get_path, list_frames

_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")
_PROGRAM = """
  model = nn.Linear(4, 2)
  def run(model):
-     torch.distributed.all_reduce(torch.ones(1))
+     torch.ones(1)
      return model(torch.randn(3, 4))
"""
EXAMPLE = Example(_PROGRAM, repair="call torch.distributed.init_process_group", is_tried=False)


@cause("CP0M4", "no-process-group", EXAMPLE, stage="around", prior=1002)
def no_process_group(crash: Crash) -> Suspects:
    """Something of torch.distributed runs in a process that belongs to no group.

    Why it happens: DistributedDataParallel and collectives need init_process_group first, and
    that needs the environment variables that torchrun sets.
    What to do: start the program with torchrun, and call init_process_group first. For one process,
    leave the wrapper out.
    Known exceptions: none.
    Source: torch.distributed.init_process_group; torchrun.
    """
    paths = [get_path(frame) for frame in list_frames(crash.error)]
    if not any("torch/distributed/" in path for path in paths):
        return
    if not dist.is_available() or dist.is_initialized() or not isinstance(crash.error, ValueError):
        return
    names = {f.f_code.co_name for f in list_frames(crash.error)}
    if "_env_rendezvous_handler" in names:
        missing = [name for name in _VARIABLES if name not in os.environ]
        if missing:
            yield blame(
                None,
                f"init_process_group needs the environment variables {', '.join(missing)}, which "
                "are not set",
                "start the program with torchrun, which sets them: torchrun --nproc_per_node=1 ...",
            )
        return
    if names & {"_get_default_group", "_check_valid_timeout"} or "get_rank" in names:
        yield blame(
            None,
            "this process belongs to no process group",
            'call torch.distributed.init_process_group("gloo") first, or "nccl" for GPUs, in a '
            "program that torchrun starts",
        )
