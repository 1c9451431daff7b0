"""A Dask cluster as an executor."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from thetabox.errors import InputError, in_one_line

# Seconds to wait for a scheduler.
PATIENCE = 10.0
# Times that data are sent to workers of which some go away meanwhile.
TRIES = 3


@contextmanager
def on_cluster(address: str) -> Iterator[Executor]:
    """The workers of a Dask scheduler as an executor.

    Args:
        address: of the scheduler, as ``tcp://host:8786``.

    Raises:
        InputError: dask.distributed is not installed, nobody answers at the address, or the scheduler has no worker.

    Example:
        >>> from distributed import LocalCluster
        >>> with LocalCluster(1, processes=False, dashboard_address=None) as cluster:
        ...     with on_cluster(cluster.scheduler_address) as executor:  # as executor=executor of whatever takes one
        ...         executor.submit(pow, 2, 5).result()
        32
    """
    try:
        from distributed import Client
    except ImportError:
        raise InputError("a cluster needs dask.distributed: pip install 'thetabox[cluster]'") from None
    reason = None
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        reason = in_one_line(error, 120)
    if reason is not None:
        # A client that was not finished closes itself as it is collected; inside the making of another one that would
        # wait for a lock which that one holds.
        gc.collect()
        raise InputError(f"no scheduler answers at {address} ({reason}); start one with `dask scheduler`")
    try:
        if not client.nthreads():
            raise InputError(f"the scheduler at {address} has no worker; start some with `dask worker {address}`")
        yield client.get_executor()
    finally:
        client.close(timeout=PATIENCE)


def cluster_of(executor: Executor | None) -> Any | None:
    """The client behind an executor that Dask made."""
    client = getattr(executor, "_client", None)
    return client if type(client).__module__.partition(".")[0] == "distributed" else None


def lives(client: Any | None) -> bool:
    """Whether a client's scheduler is there."""
    return client is not None and client.status == "running"


def scattered(executor: Executor, data: bytes) -> Any:
    """Data in the memory of every worker of a cluster; as they are for another executor.

    Raises:
        OSError: the cluster or its workers went away.
    """
    client = cluster_of(executor)
    if client is None:
        return data
    for _ in range(TRIES - 1):
        try:
            return client.scatter(data, broadcast=True, hash=False)
        except OSError:  # A worker that went away meanwhile.
            if not lives(client):
                raise
    return client.scatter(data, broadcast=True, hash=False)
