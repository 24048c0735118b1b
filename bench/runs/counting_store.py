"""An S3 server on this machine that writes a line for each request: `python -m bench.runs.counting_store FILE PORT`.

A line has the kind of request, the bytes that came, those that went, and the path.
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

Start = Callable[..., Any]


class Counting:
    """A WSGI application around another one that notes its requests."""

    def __init__(self, inner: Callable[..., Iterable[bytes]], out: TextIO) -> None:
        self._inner, self._out = inner, out

    def __call__(self, environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        """Answer as the inner application does."""
        went = 0

        def noted(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            nonlocal went
            went = int(dict(headers).get("Content-Length", 0))
            return start_response(status, headers, *more)

        answer = self._inner(environ, noted)
        method, asked = environ["REQUEST_METHOD"], environ["QUERY_STRING"]
        kind = "LIST" if method == "GET" and "list-type" in asked else method
        # Clients that sign each chunk tell the length of the content apart.
        came = environ.get("HTTP_X_AMZ_DECODED_CONTENT_LENGTH") or environ.get("CONTENT_LENGTH") or 0
        self._out.write(f"{kind} {came} {0 if method == 'HEAD' else went} {environ['PATH_INFO']}\n")
        self._out.flush()
        return answer


def serve(path: Path, port: int) -> None:
    """Serve until the process is ended."""
    with path.open("a") as out:
        application = DomainDispatcherApplication(create_backend_app)
        run_simple("127.0.0.1", port, Counting(application, out), threaded=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
