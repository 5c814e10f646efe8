"""Which clusters of a corpus are held out: by hash, so that neither order, machine nor corpus size can change it."""

from __future__ import annotations

import hashlib

from midstream.errors import RequestError

_BITS = 53
"""Bits of the hash that are used: as many as a float holds, so that the number drawn is below 1."""


def held_out(label: str, *, seed: int, share: float) -> bool:
    """Whether the cluster ``label`` is held out.

    Args:
        label: of the cluster, as ``corpus.source.cluster_of`` gives it.
        seed: another seed holds out other clusters; to be recorded with what was fitted.
        share: of all clusters, 0 to 1, that is held out on average; what a smaller share holds out, a larger one does
            too.

    The first 53 bits of sha256 of ``<seed>:<label>`` in UTF-8 make a number in [0, 1), held out where below ``share``.
    A corpus of few clusters may get none or all held out. Raises RequestError unless 0 <= share <= 1.
    """
    if not 0 <= share <= 1:
        raise RequestError(f"a share of {share} was to be held out: expected 0 to 1.")
    digest = hashlib.sha256(f"{seed}:{label}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> (64 - _BITS)) / 2**_BITS < share
