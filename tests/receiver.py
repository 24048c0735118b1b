"""An HTTP server on loopback that keeps what is sent to it, for tests."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Receiver:
    """The server; it answers with `status`, after some `seconds`."""

    def __init__(self) -> None:
        self.got, self.status, self.seconds = list[dict[str, Any]](), 200, 0.0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                time.sleep(receiver.seconds)
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                """Print nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/hook"
