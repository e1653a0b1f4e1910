"""What is shown of the data: the findings, what a batch holds, how it is loaded, the classes, the
pictures. No torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cnnprobe.data.facts import Data, Part, Split
from cnnprobe.data.sheets import ContactSheet, to_picture
from cnnprobe.data.words import shape
from cnnprobe.diagnosis import Finding
from cnnprobe.document.blocks import (
    Block,
    Column,
    Document,
    Facts,
    Folded,
    Heading,
    Notice,
    Row,
    Table,
    Text,
)
from cnnprobe.document.layout.findings import build_finding_blocks
from cnnprobe.records.words import format_counted

SHOWN = 30  # classes; of more the most frequent and the rarest
_ROLES = {"class": "class label", "classes": "class labels", "multilabel": "labels, 0 or 1",
          "value": "values", "points": "key points"}  # fmt: skip


def lay_out_data(
    data: Data,
    findings: Sequence[Finding] | None,
    *,
    notes: Sequence[str] = (),
    sheets: Sequence[ContactSheet] = (),
) -> Document:
    """The data as people read it: what is wrong, then what was seen. No findings (None) are those
    of a part of another document.
    """
    title = "Data"
    blocks: list[Block] = [Heading(text=title, level=1 if findings is not None else 2)]
    blocks.append(Text(text="\n".join(_introduce(split) for split in data.splits)))
    if findings:
        blocks += [_place(block) for block in build_finding_blocks(findings)]
    elif findings is not None:
        blocks.append(Text(text="nothing was found"))
    for sheet in sheets:
        blocks.append(to_picture(sheet))
    for split in data.splits:
        both = data.validation is not None
        blocks += _describe_split(split, both=both, shared=data.one_transform)
    blocks += _classes(data)
    if notes:
        blocks.append(Facts(title="Notes", pairs=tuple(("", note) for note in notes)))
    return Document(title=title, blocks=tuple(blocks))


def _place(block: Block) -> Block:
    """A finding of the data without a module stands in the data."""
    if isinstance(block, Folded):
        return replace(block, blocks=tuple(_place(each) for each in block.blocks))  # type: ignore[misc]
    if isinstance(block, Notice) and block.where.startswith("the loop, the loss or the data"):
        return replace(block, where=block.where.replace("the loop, the loss or ", "", 1))
    return block


def _introduce(split: Split) -> str:
    loading = split.loading
    whole = f"all {format_counted(split.samples, 'sample')}"
    if not split.complete:
        of = f" of {loading.samples:,}" if loading.samples is not None else ""
        whole = f"{split.samples:,}{of} samples"
    return f"{split.name}: read {whole} in {format_counted(split.batches, 'batch', 'batches')}"


def _describe_split(split: Split, *, both: bool, shared: bool) -> Iterator[Block]:
    suffix = f" ({split.name})" if both else ""
    columns = (
        Column(name="part"),
        Column(name="is", priority=1),
        Column(name="dtype", priority=2),
        Column(name="shape", least=8),
        *(
            Column(name=name, align="right", unit="value", priority=3)
            for name in ("min", "mean", "max", "std")
        ),
    )
    rows = tuple(_row(part) for part in split.parts)
    if rows:
        yield Table(title=f"What a batch holds{suffix}", columns=columns, rows=rows)
    yield Facts(title=f"How it is loaded{suffix}", pairs=tuple(_loading(split, shared=shared)))


def _row(part: Part) -> Row:
    sizes = [
        shape(("N", *((*s[:-3], *s[-2:], s[-3]) if part.channels_last else s)))  # type: ignore[arg-type]
        for s, _ in part.shapes[:2]
    ]
    more = f" and {len(part.shapes) - 2} more" if len(part.shapes) > 2 else ""
    numbers = part.numbers
    values = (None,) * 4
    if numbers is not None:
        values = (numbers.low, numbers.mean, numbers.high, numbers.std)  # type: ignore[assignment]
    kinds = " or ".join(name for name, _ in part.dtypes[:2])
    path = part.path or "the batch itself"
    return Row(
        cells=(path, _ROLES.get(part.role, part.role), kinds, " or ".join(sizes) + more, *values)
    )


def _loading(split: Split, *, shared: bool) -> Iterator[tuple[str, str]]:
    loading = split.loading
    size = f", batches of {loading.batch_size}" if loading.batch_size else ""
    samples = (
        format_counted(loading.samples, "sample")
        if loading.samples is not None
        else "length not known"
    )
    yield "given", f"{loading.kind}, {samples}{size}"
    if loading.sampler:
        order = {True: ", shuffled", False: ", in order", None: ""}[loading.shuffled]
        yield "sampler", f"{loading.sampler}{order}"
    yield "workers", str(loading.workers)
    if split.batches > 1:
        yield "a batch takes", f"{loading.seconds * 1000:.3g} ms on average"
    if split.trials.random is not None:
        yield (
            "augmented",
            "yes, a sample differs each time" if split.trials.random else "no",
        )
    if shared:
        yield "transform", "one for training and validation: both are parts of one data set"
    for mean, std in split.images.normalisations:
        yield "normalised by", f"mean {_list(mean)}, std {_list(std)}"


def _list(numbers: Sequence[float]) -> str:
    return "[" + ", ".join(f"{number:.4g}" for number in numbers) + "]"


def _classes(data: Data) -> Iterator[Block]:
    known = [split for split in data.splits if split.labels is not None]
    if not known:
        return
    names = max((split.labels.names for split in known if split.labels), key=len)
    counts = [dict(split.labels.counts) for split in known if split.labels]
    labels = sorted({label for each in counts for label in each})
    shown = labels
    if len(labels) > SHOWN:
        ordered = sorted(labels, key=lambda label: -counts[0].get(label, 0))
        shown = sorted((*ordered[: SHOWN // 2], *ordered[-(SHOWN // 2) :]))
    rows = tuple(
        Row(cells=(str(label), names[label] if 0 <= label < len(names) else "",
                   *(each.get(label, 0) for each in counts)))
        for label in shown
    )  # fmt: skip
    total = Row(cells=("all", "", *(sum(each.values()) for each in counts)), emphasis="total")
    columns = (
        Column(name="label"),
        Column(name="class", priority=1),
        *(Column(name=split.name, align="right", unit="count", is_share=True) for split in known),
    )
    notes = (
        [f"{len(labels) - len(shown)} more classes are not shown"]
        if len(shown) < len(labels)
        else []
    )
    notes += [
        f"of the {split.name} samples that were read"
        for split in known
        if split.labels and not split.labels.complete
    ]
    yield Table(title="Classes", columns=columns, rows=(*rows, total), notes=tuple(notes))
