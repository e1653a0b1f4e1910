"""The order of a graph's nodes: each after those whose values it uses."""

import heapq
from collections.abc import Sequence


def sort_by_dependence(keys: Sequence[float], below: Sequence[Sequence[int]]) -> list[int]:
    """Positions of all nodes, every one after those that it uses; by its key where that leaves a
    choice.

    Args:
        keys: one a node; smaller comes first.
        below: for each node the positions of those that it uses. What is on a cycle comes last, by
            its key.

    >>> sort_by_dependence([3, 1, 2], [[], [0], []])
    [2, 0, 1]
    """
    users: list[list[int]] = [[] for _ in below]
    waiting = [0] * len(below)
    for node, used in enumerate(below):
        distinct = set(used)
        waiting[node] = len(distinct)
        for other in distinct:
            users[other].append(node)
    ready = [(keys[node], node) for node, count in enumerate(waiting) if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        _, node = heapq.heappop(ready)
        order.append(node)
        for user in users[node]:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, (keys[user], user))
    if len(order) < len(below):
        rest = set(range(len(below))) - set(order)
        order.extend(sorted(rest, key=lambda node: (keys[node], node)))
    return order
