"""A Ray cluster seen from a laptop: sweeps and commands sent to it as Ray jobs."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.cluster.client import run_json as run_json
    from orchestrator.cluster.client import run_remotely as run_remotely
    from orchestrator.cluster.client import submit as submit
    from orchestrator.cluster.entrypoint import DRIVING as DRIVING
    from orchestrator.cluster.jobs import DEFAULT_HOME as DEFAULT_HOME
    from orchestrator.cluster.jobs import ClusterError as ClusterError
    from orchestrator.cluster.jobs import check_reachable as check_reachable
    from orchestrator.cluster.jobs import job_server as job_server
    from orchestrator.cluster.remote_args import HELP as HELP
    from orchestrator.cluster.remote_args import REMOTE as REMOTE
    from orchestrator.cluster.remote_args import remote_address as remote_address

__getattr__, __all__ = lazy_face(__name__, __file__)
