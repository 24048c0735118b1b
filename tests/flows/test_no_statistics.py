"""No statistics are sent by Prefect, Ray or a library, however a flow is started."""

import os
import subprocess
import sys

SAYS = """
import flows.nightly
from prefect.settings import get_current_settings
from os import environ
print(get_current_settings().server.analytics_enabled, environ["RAY_USAGE_STATS_ENABLED"], environ["DO_NOT_TRACK"])
"""


def test_a_flow_that_a_script_imports_has_statistics_off_unless_the_user_turned_them_on() -> None:
    names = ("PREFECT_SERVER_ANALYTICS_ENABLED", "RAY_USAGE_STATS_ENABLED", "DO_NOT_TRACK")
    bare = {name: value for name, value in os.environ.items() if name not in names}
    for more, wanted in (({}, "False 0 1"), ({names[0]: "true"}, "True 0 1")):
        done = subprocess.run([sys.executable, "-c", SAYS], env=bare | more, capture_output=True, text=True, check=True)
        assert done.stdout.split() == wanted.split()
