"""The rules whose fix cannot be tried, and those whose fix cannot be written, each with the
reason.
"""

from collections.abc import Mapping

ADVICE: Mapping[str, str] = {
    "blank-input": "what the input is to hold is not known",
    "checkpoint-unused": "what the checkpoint's names are to become is not known",
    "broken-formula": "how the function is to be written is shown, not known",
    "constant-output": "where the model loses its input is shown, not known",
    "constant-targets": "only other labels mend it",
    "divergence-sign": "which part of the loss is the divergence is not known",
    "graph-kept-alive": "which of the loop's variables holds the graph is not known",
    "idle-term": "which tensor the term was meant to be computed from is not known",
    "ignored-input": "what the input was for is not known",
    "doubled-channels": "which tensor was meant is not known",
    "inverted-boxes": "which form the boxes have is not known",
    "loop-cut-short": "where the loop was to end is not known",
    "loss-taken-twice": "which targets or output were meant is not known",
    "minimum-elsewhere": "which of output and targets is out of place is not known",
    "optimizer-renewed": "which variable is to hold the optimizer is not known",
    "samples-left-out": "what the other samples were meant for is not known",
    "setting-overwritten": "which of its reads are to see the new value is not known",
    "sibling-differs": "whether it differs on purpose is not known",
    "unread-name": "where it was meant to be read is not known",
    "unread-in-batch": "where the loss is to use it is not known",
    "update-undone": "what writes the old weights back is the loop's own code",
}

UNWRITTEN: Mapping[str, str] = {
    "average-astray": "where the average is made is not known",
    "bn-reused": "which place is to keep the module is not known",
    "future-seen": "where the mask is made is not known",
    "idle-attribute": "where the attribute is set is not known",
    "inverted-class-weights": "where the weights are counted is not known",
    "loss-always-zero": "which targets were meant is not known",
    "mask-of-zeros": "where the mask is made is not known",
    "nan-data": "where the batches are made is not known",
    "one-position-for-all": "whether it is the index or the table that is wrong is not known",
    "rounded-updates": "where the model is cast, and what else is, is not known",
    "shared-module": "which place is to keep the module is not known",
    "size-changed-late": "where its attributes are set is not known",
    "stale-optimizer": "where the layer was replaced is not known",
    "tied-weights": "which layer is to keep the weight is not known",
    "unbounded-task-weight": "how the terms are added up is not known",
    "unpaired-flip": "which draw the masks share is not known",
    "unused-params": "whether it is to be used or removed is not known",
    "vanishing-gradient": "which activations and how many layers are to stay is not known",
    "wrong-backward": "which formula is meant is not known",
}
