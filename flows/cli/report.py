"""`sidmill report`: a release as a page."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.cli.options import Common, ReleaseName


def report(
    *,
    release: ReleaseName = "production",
    output: Annotated[Path, Parameter(metavar="FILE")] = Path("report.html"),
    common: Common = Common(),
) -> None:
    """Write a release as one self-contained HTML page.

    $ sidmill report
    $ sidmill report --release r-000002 --output reports/r-000002.html

    Args:
        release: Release id or alias.
        output: File to write.
    """
    from flows.report.page import write_report
    from storage.releases.releases import read_release

    lake = common.existing()
    if not output.parent.is_dir():
        raise FileNotFoundError(f"--output {output}: there is no folder {output.parent}; make it first.")
    size = write_report(lake, read_release(lake, release), output)
    print(f"{output}: {size:,} bytes, self-contained")
