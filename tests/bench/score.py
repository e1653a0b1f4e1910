"""How many sick models are found, located, and how often a rule fires on a twin: `python -m
bench.score` from the folder tests.
"""

import sys
from dataclasses import dataclass

import torch

import cnnprobe
from bench.faults import CASES


@dataclass(frozen=True)
class Score:
    name: str
    rule: str
    found: bool
    located: bool
    loud: tuple  # warnings and errors on the twin
    mended: bool  # a fix of the fault is proven
    said: tuple  # everything on the sick one


def score(name):
    case = CASES[name]
    torch.manual_seed(0)
    sick = cnnprobe.diagnose(**case.build(True))
    torch.manual_seed(0)
    healthy = cnnprobe.diagnose(**case.build(False))
    hits = [f for f in sick.findings if f.rule == case.rule]
    unable = tuple(
        note
        for report in (sick, healthy)
        for note in report.trace.notes
        if "could not judge" in note
    )
    return Score(
        name=name,
        rule=case.rule,
        found=bool(hits),
        located=any(f.module in case.modules for f in hits),
        loud=tuple((f.rule, f.module, f.message) for f in healthy.findings if f.severity != "info")
        + unable,
        mended=any(f.tried is not None and f.tried.verdict == "proven" for f in hits),
        said=tuple((f.rule, f.module) for f in sick.findings),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    scores = [score(name) for name in sys.argv[1:] or CASES]
    for s in scores:
        mark = "ok " if s.found and s.located and not s.loud else "BAD"
        print(mark, s.rule, s.name, "" if s.found and s.located else s.said, s.loud or "")
    print(
        f"{len(scores)} cases: found {sum(s.found for s in scores)}, located "
        f"{sum(s.located for s in scores)}, wrongly fired {sum(bool(s.loud) for s in scores)}"
    )
