"""Remedies that many rules share: He's initialisation of one layer, or of all."""

from typing import Any

from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import spoken
from cnnprobe.remedies.changes import initialise, initialise_all
from cnnprobe.remedies.model_lines import (
    initialise_layer,
    initialise_layers,
    list_weighted,
    prepare_model,
)
from cnnprobe.remedies.remedy import Remedy


def initialise_every_layer(model: Any) -> Remedy:
    """He's initialisation of every layer with a matrix for a weight; biases of 0."""
    return Remedy(
        title="initialise every layer by fan-in",
        change=initialise_all,
        edited=lambda program: prepare_model(
            program, lambda name, nn: initialise_layers(nn, name, list_weighted(model))
        ),
        is_everywhere=True,
    )


def initialise_one(evidence: Evidence, fqn: str, shown: str) -> Remedy:
    """He's initialisation of a layer."""
    place = spoken(evidence, fqn)
    return Remedy(
        title=f"initialise {place} again: kaiming_normal_ for its weight, 0 for its bias",
        change=lambda subject: initialise(subject.module(fqn)),
        edited=lambda program: prepare_model(program, lambda _, nn: initialise_layer(nn, place)),
        shows=shown,
    )
