"""Autograd graphs that outlive their step: how many at each, and in the end what keeps them."""

import gc

from torch import Tensor

from cnnprobe.monitoring.states import States
from cnnprobe.recorder.autograd.lifetime import GraphWatch
from cnnprobe.records.history import LivingGraph
from cnnprobe.records.ledger import Ledger


class LivingGraphs:
    """The graphs of the observed steps. `alive` has by step how many earlier ones were there."""

    def __init__(self) -> None:
        self.alive: States[int] = States()
        self._watch = GraphWatch()

    def add(self, output: Tensor, step: int) -> None:
        """Watch the graph behind `output`."""
        self._watch.add(output, str(step))

    def forget(self) -> None:
        """Watch none any more."""
        self._watch = GraphWatch()

    def count(self, ledger: Ledger, step: int) -> None:
        """Write down how many graphs of earlier steps are there at the end of this one."""
        earlier = set(self._watch.alive()) - {str(step)}
        self.alive.put(step, len(earlier))
        if earlier:
            ledger.put("living graphs", step, float(len(earlier)))

    def look(self, ledger: Ledger, last: int) -> None:
        """What keeps graphs, asked once: it looks at every object that there is. One graph, that of
        the `last` step, is usual.
        """
        if len(set(self._watch.alive())) < 2:
            return
        gc.collect()
        if len(set(self._watch.alive())) < 2:
            self.alive.put(last, 0)
            return
        kept: dict[str, LivingGraph] = {}
        for graph in self._watch.kept():
            before = kept.get(graph.label)
            keepers = (*(before.keepers if before else ()), *graph.keepers)
            saved = max(graph.saved_bytes, before.saved_bytes if before else 0)
            kept[graph.label] = LivingGraph(
                step=int(graph.label),
                saved_bytes=saved,
                freed=graph.freed,
                keepers=tuple(dict.fromkeys(keepers)),
            )
        ledger.kept = tuple(sorted(kept.values(), key=lambda graph: graph.step))
