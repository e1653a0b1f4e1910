"""Ways in which a forward is called, and what it gives back: threads, coroutines, odd outputs."""

import asyncio
import concurrent.futures
import copy
import threading
from collections.abc import Mapping

import torch
from torch import nn

from tests.support.ways.way import Way, batch, net


class Branches(nn.Module):
    """Runs its children on threads of its own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.left, self.right = net(), net()

    def forward(self, x):
        x = self.first(x)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            left, right = pool.map(lambda child: child(x), (self.left, self.right))
        return left + right


def threads_inside():
    return Way(Branches(), (batch(),), inner="left.0")


def on_a_thread():
    def call(model, args):
        outputs = []
        thread = threading.Thread(target=lambda: outputs.append(model(*args)), name="worker")
        thread.start()
        thread.join()
        return outputs[0]

    return Way(net(), (batch(),), call=call)


class Stream(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        for row in x:
            yield self.fc(row)


def generator():
    return Way(
        Stream(), (batch(),), inner="fc", call=lambda model, args: torch.stack(list(model(*args)))
    )


class Awaited(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    async def forward(self, x):
        await asyncio.sleep(0)
        return self.fc(x)


def coroutine():
    return Way(
        Awaited(), (batch(),), inner="fc", call=lambda model, args: asyncio.run(model(*args))
    )


def in_a_coroutine():
    def call(model, args):
        async def request():
            await asyncio.sleep(0)
            return model(*args)

        async def serve():
            return await asyncio.gather(request(), request())

        return asyncio.run(serve())[0]

    return Way(net(), (batch(),), call=call)


class Shaped(nn.Module):
    """Its output is what a function makes of its last layer's."""

    def __init__(self, shape):
        super().__init__()
        self.fc, self.shape = nn.Linear(4, 3), shape

    def forward(self, x):
        return self.shape(self.fc(x))


def with_itself(y):
    loop = [y]
    loop.append(loop)
    return loop


def nest(y, depth=3000):
    for _ in range(depth):
        y = [y]
    return y


class ComputedOnRead(Mapping):
    """Computes its values when they are read, and counts that."""

    def __init__(self, y):
        self.y, self.reads = y, 0

    def __getitem__(self, key):
        self.reads += 1
        if self.reads > 1:
            raise RuntimeError("read twice")
        return self.y

    def __iter__(self):
        return iter(["y"])

    def __len__(self):
        return 1


def output_with_itself():
    return Way(Shaped(with_itself), (batch(),), inner="fc")


def output_nested_deeply():
    return Way(Shaped(nest), (batch(),), inner="fc")


def output_computed_on_read():
    return Way(Shaped(ComputedOnRead), (batch(),), inner="fc")


def output_of_many_tensors():
    return Way(Shaped(lambda y: [y, *torch.zeros(20_000).unbind()]), (batch(),), inner="fc")


class Grown(nn.Module):
    """Registers a layer in its first forward."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x):
        x = self.first(x)
        if not hasattr(self, "second"):
            self.second = nn.Linear(4, 3)
        return self.second(x)


def grown_in_forward():
    torch.manual_seed(0)
    return Way(Grown(), (batch(),), inner="second")


class Scaled(nn.Module):
    """Holds a model that it copies for the call."""

    def __init__(self):
        super().__init__()
        self.child = net()

    def forward(self, x):
        return self.child(x) + copy.deepcopy(self.child)(x)


def copied_inside():
    return Way(Scaled(), (batch(),), inner="child.0")


class Below(nn.Module):
    """A child that has its parent for a child."""

    def __init__(self, parent):
        super().__init__()
        self.parent, self.fc = parent, nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.parent.first(x))


class Above(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.below = Below(self)

    def forward(self, x):
        return self.below(x)


def below_itself():
    torch.manual_seed(0)
    return Way(Above(), (batch(),), inner="below.fc")


def doubling_hook():
    model = net()
    model[0].register_forward_hook(
        lambda module, args, kwargs, output: output * 2, with_kwargs=True, always_call=True
    )
    return Way(model, (batch(),))
