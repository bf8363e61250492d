"""Exact optimal transport from frames to classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

_DUST = 1e-14  # mass below this is rounding


def transport(cost: Float64, capacity: Float64) -> Float64:
    """Return the cheapest flow [N, M] of N frames of mass 1 into M classes of limited capacity.

    Successive shortest paths (Ahuja, Magnanti, Orlin, "Network Flows", section 9.7): frames come
    one after another, each along the shortest path on which earlier frames make room by moving
    on to other classes. Prices of the classes keep every reduced cost at least 0, so that
    Dijkstra's algorithm finds the path; it walks over classes only, a whole row at a time. Exact,
    for any real capacities. (A general network simplex or SciPy's assignment would need one more
    dependency on the device, and the latter whole numbers of frames in every class.)

    Args:
        cost: [N, M], finite.
        capacity: [M], not negative, at least N in sum.
    """
    frames, classes = cost.shape
    flow = np.zeros((classes, frames))  # a class's frames lie side by side
    free = capacity * (1 + 1e-9)  # so that rounding leaves no frame without a place
    price = np.zeros(classes)
    columns = np.arange(classes)
    for frame in range(frames):
        left = 1.0
        while left > _DUST:
            reduced = cost[frame] - price
            distance = reduced - reduced.min()  # final once a class is closed
            waiting = distance.copy()  # infinite once a class is closed
            origin = np.full(classes, -1)
            mover = np.full(classes, frame)
            while free[last := int(waiting.argmin())] <= _DUST:
                waiting[last] = np.inf
                holders = flow[last].nonzero()[0]
                if len(holders) == 0:  # a class without capacity
                    continue
                steps = cost[holders]
                steps -= steps[:, last, None]
                best = steps.argmin(axis=0)
                through = steps[best, columns] - price
                through += price[last]
                np.maximum(through, 0, out=through)
                through += distance[last]
                better = ((through < waiting) & (waiting < np.inf)).nonzero()[0]
                distance[better] = waiting[better] = through[better]
                origin[better] = last
                mover[better] = holders[best[better]]
            closed = np.isinf(waiting)
            price[closed] -= distance[last] - distance[closed]
            path = [last]
            while origin[path[-1]] >= 0:
                path.append(int(origin[path[-1]]))
            moves = list(zip(path[1:], mover[path[:-1]], strict=True))
            mass = min([left, free[last], *(flow[move] for move in moves)])
            for move in moves:
                flow[move] = 0.0 if flow[move] - mass < _DUST else flow[move] - mass
            flow[path, mover[path]] += mass
            free[last] -= mass
            left -= mass
    plan: Float64 = flow.T
    return plan
