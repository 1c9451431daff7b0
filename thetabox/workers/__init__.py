"""Independent parts of a long run on other processes: those of this machine, or of a cluster.

Every function that runs many independent parts takes ``executor=``, any :class:`concurrent.futures.Executor` whose
workers can import thetabox: :class:`LocalProcesses`, what :func:`on_cluster` gives, or one of Ray, MPI or joblib. Its
results are the same bytes whatever the executor, and without one.
"""

from thetabox.workers.cluster import on_cluster
from thetabox.workers.local import LocalProcesses, WhereItPays, WorkersLost
from thetabox.workers.pickled import OnlyFields
from thetabox.workers.pool import Pool, check_executor, cores

__all__ = [
    "LocalProcesses",
    "OnlyFields",
    "Pool",
    "WhereItPays",
    "WorkersLost",
    "check_executor",
    "cores",
    "on_cluster",
]
