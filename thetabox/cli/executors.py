"""The executor that a command line asks for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

import click

from thetabox.cli.options import CLUSTER, WORKERS
from thetabox.device import choose_device
from thetabox.errors import InputError
from thetabox.workers import LocalProcesses, WhereItPays, cores, on_cluster


@contextmanager
def chosen_executor(device: str) -> Iterator[Executor | None]:
    """What does the parts of the run; ``None`` for this process.

    Without a word from the user, processes are started where enough work is left, one for each core: not beside
    threads that he chose, nor on an accelerator, which one process fills.

    Args:
        device: of the run, as asked for.

    Raises:
        InputError: two ways at once, or no scheduler answers.
    """
    context = click.get_current_context()
    workers, cluster = context.meta.get(WORKERS), context.meta.get(CLUSTER)
    if cluster is not None:
        if workers is not None:
            raise InputError("--workers and --cluster are two ways to share the work; give one")
        with on_cluster(cluster) as executor:
            yield executor
    elif workers is None:
        many = context.params.get("threads") is None and choose_device(device).type == "cpu" and cores() > 1
        if many:
            with WhereItPays(cores()) as executor:
                yield executor
        else:
            yield None
    elif workers == 1:
        yield None
    else:
        with LocalProcesses(workers) as executor:
            yield executor
