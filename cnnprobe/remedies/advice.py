"""The rules whose fix cannot be tried, each with the reason: their findings give advice."""

from collections.abc import Mapping

ADVICE: Mapping[str, str] = {
    "constant-output": "where the model loses its input is shown, not known",
    "constant-targets": "only other labels mend it",
    "divergence-sign": "which part of the loss is the divergence is not known",
    "graph-kept-alive": "which of the loop's variables holds the graph is not known",
    "idle-term": "which tensor the term was meant to be computed from is not known",
    "ignored-input": "what the input was for is not known",
    "doubled-channels": "which tensor was meant is not known",
    "loss-taken-twice": "which targets or output were meant is not known",
    "optimizer-renewed": "which variable is to hold the optimizer is not known",
    "update-undone": "what writes the old weights back is the loop's own code",
}
