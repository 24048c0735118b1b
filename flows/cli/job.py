"""`sidmill job`: run a command as a job of a Ray cluster."""

from typing import Annotated

from cyclopts import Parameter

from flows.cli.options import Debug


def job(
    *command: Annotated[str, Parameter(name="COMMAND", allow_leading_hyphen=True)],
    address: Annotated[str, Parameter(metavar="URL", env_var="RAY_API_SERVER_ADDRESS")],
    debug: Debug = Debug(),
) -> None:
    """Run a command as a job of a Ray cluster, and show its log.

    The command runs on the cluster, with the credentials that its nodes have.
    Ctrl-C stops it on the cluster; the same command then continues.

    $ sidmill job --address http://head:8265 -- run nightly --lake s3://bucket/lake --items s3://bucket/items

    Args:
        command: Command of sidmill with its options, after --.
        address: Address of the dashboard of the cluster.
    """
    from flows.cli.start import get_ready
    from flows.runtime.ray_job import connected, ray_job, require_shared_lake

    require_shared_lake(command)
    connected(address)
    get_ready("flows.runtime.ray_job")
    ray_job(address, [*command])
