"""Statistics that are measured as tensors pass and read later."""

import threading

import torch

from cnnprobe import probe, record
from cnnprobe.stats import Pages, summarise
from cnnprobe.stats.pages import ROWS


def test_reading_gives_what_was_there_when_it_was_measured():
    pages, x = Pages(histogram=True), torch.arange(6.0)
    expected = summarise(x, histogram=True)
    reading = pages.measure(x)
    x.fill_(-1)
    pages.measure(x)
    assert expected == reading.get()
    assert expected == reading.get()


def test_readings_of_full_pages_keep_their_numbers():
    pages = Pages(histogram=False)
    readings = [pages.measure(torch.full((3,), float(k))) for k in range(3 * ROWS + 1)]
    assert [float(k) for k in range(3 * ROWS + 1)] == [r.get().mean for r in readings]


def test_reading_of_a_tensor_without_values_is_none():
    assert Pages(histogram=False).measure(torch.empty(2, device="meta")).get() is None


def test_same_memory_written_past_torch_is_read_again():
    pages, x = Pages(histogram=False), torch.zeros(4)
    first = pages.measure(x)
    x.numpy()[:] = 2
    assert (0.0, 2.0) == (first.get().mean, pages.measure(x).get().mean)


def test_threads_write_pages_of_their_own():
    pages, found = Pages(histogram=True), {}

    def work(k):
        found[k] = [pages.measure(torch.full((50,), float(k))) for _ in range(2 * ROWS)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for k in range(4):
        assert {float(k)} == {reading.get().mean for reading in found[k]}


def test_every_row_of_a_deep_model_has_the_statistics_of_its_own_output():
    model = torch.nn.Sequential(*[torch.nn.Linear(4, 4) for _ in range(2 * ROWS + 3)])
    x, outputs = torch.randn(2, 4), []
    handles = [m.register_forward_hook(lambda _m, _i, o: outputs.append(o)) for m in model]
    with record(model) as recording:
        model(x)
    [handle.remove() for handle in handles]
    traces = (recording.trace, probe(model, x).trace)
    expected = [summarise(o).as_mapping() for o in outputs]
    for trace in traces:
        assert expected == [call.outputs[0].stats for call in trace.calls[1:]]


def test_tensors_of_one_form_are_measured_each_by_its_own_values():
    pages, form, x = Pages(histogram=False), object(), torch.tensor([1.0, 2.0, 3.0, 6.0])
    readings = [pages.measure(tensor, form) for tensor in (x, x + 1, torch._neg_view(x))]
    assert [3.0, 4.0, -3.0] == [reading.get().mean for reading in readings]
