"""An object store with faults during a night: the night ends right or with one line, and its rerun ends right."""

from pathlib import Path

import httpx
import pytest

from bench.faults.lake_contents import contents, differences
from bench.runs.nights import RECIPE, catalogue_of, log_of
from bench.runs.s3_server import BUCKET, s3_server
from flows.bootstrap import bootstrap
from flows.cli.main import run_command
from storage.lake import Lake

SERVER = str(Path(__file__).parents[1] / "flaky_store.py")
ITEMS = 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("busy", "stalled", "late_s"),
    [(0.1, 0.0, 0.0), (0.0, 0.004, 0.0), (0.0, 0.0, 2.0)],
    ids=["a tenth of the requests is refused with 503", "some stall for 5 s", "listings are 2 s late"],
)
def test_a_night_on_a_store_with_faults_ends_right_or_with_a_line_and_its_rerun_ends_right(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    busy: float,
    stalled: float,
    late_s: float,
) -> None:
    first = [catalogue_of(tmp_path, *range(ITEMS))], [log_of(tmp_path, 0)]
    news = ["--items", catalogue_of(tmp_path, ITEMS + 1), "--interactions", log_of(tmp_path, 1)]
    night = ["run", "nightly", *news, "--as-of", "2024-03-02", "--lake"]
    faults = [str(each) for each in (1, busy, stalled, late_s)]
    with s3_server(SERVER, *faults) as settings:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        url, found = settings["AWS_ENDPOINT_URL"], []
        for name in ("calm", "faults"):
            lake = f"s3://{BUCKET}/{name}"
            bootstrap(lake, RECIPE, *first, "2024-03-01", "2024-02-20")
            httpx.get(f"{url}/{name}")
            capsys.readouterr()
            code = run_command([*night, lake])
            told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sidmill: error")]
            assert len(told) == code <= (name == "faults"), told
            print(name, code, told)
            httpx.get(f"{url}/calm")
            if code:
                assert run_command([*night, lake]) == 0
            found.append(contents(Lake(lake)))
    assert found[0]["faults"] == []
    assert differences(*found) == []
