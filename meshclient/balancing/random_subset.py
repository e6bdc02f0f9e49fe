"""Random subsetting: of a very large cluster, one process uses a few endpoints only.

Which ones follows from the process's own salt and the endpoints' addresses, by rendezvous
hashing, so that one endpoint more or less changes at most one of them. Chooses a part of
the list; who of it is picked, and who is healthy, is not known here.
Source: gRPC A68 ``random_subsetting`` (XXH64 of the address, seeded; the smallest hashes).
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nsmallest

from xxhash import xxh64_intdigest

from meshclient.balancing.state import EndpointState


def random_subset(
    states: Sequence[EndpointState], size: int, salt: int
) -> tuple[EndpointState, ...]:
    """The ``size`` endpoints with the smallest hashes, in the order of ``states``.

    All of them where there are no more, or where ``size`` is 0. ``salt`` (unsigned 64
    bits) stays the same for the life of the process, and differs between processes.
    O(n log size).
    """
    if not 0 < size < len(states):
        return tuple(states)
    ranks = ((xxh64_intdigest(state.key.encode(), salt), at) for at, state in enumerate(states))
    chosen = sorted(at for _, at in nsmallest(size, ranks))
    return tuple(states[at] for at in chosen)


__all__ = ["random_subset"]
