"""Who does the work, by the name that a user gives."""

from __future__ import annotations

from midstream.errors import RequestError, choices
from midstream.model.model import Model
from midstream.run.ray_cluster import RayCluster
from midstream.run.runner import ModelSource, Pool, Runner, Serial, cores

RUNNERS = ("serial", "pool", "ray")


def runner(model: Model, name: str, *, workers: int | None = None, address: str | None = None) -> Runner:
    """Who does the work.

    Args:
        name: ``serial``, ``pool`` or ``ray``.
        workers: processes or actors; None: one a core of this machine, or a CPU of the cluster.
        address: of a Ray cluster.

    The cores of this machine are shared out among a pool's workers; an actor has one thread. Raises RequestError for
    options that do not go together, and for a model that workers cannot load.
    """
    if name not in RUNNERS:
        raise choices("runner", name, RUNNERS)
    if name != "ray" and address is not None:
        raise RequestError(f"--address {address} is of a Ray cluster: add --runner ray.")
    if name == "serial":
        if workers not in (None, 1):
            raise RequestError(f"{workers} workers need --runner pool or ray; serial has one.")
        return Serial(model)
    if workers is None and model.device.type != "cpu":
        workers = 1  # a copy of the model each would not fit
    if name == "ray":
        return RayCluster(ModelSource.of(model, 1), workers, address)
    workers = workers or cores()
    return Pool(ModelSource.of(model, max(1, cores() // workers)), workers)
