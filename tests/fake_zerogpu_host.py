"""The page on a host that lends GPUs as ZeroGPU does, which only makes believe: its package `spaces` is the real one.

python tests/lending_host.py LOG serves the page. LOG gets a line for each thing that the page asks of the host; where
there is a file LOG.spent, no quota is left.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from urllib.parse import parse_qsl, urlsplit

LENT = {"idle": False, "nvidiaIndex": 0, "nvidiaUUID": "none", "allowToken": "token"}
SPENT = {"left": 0, "wait": 3600}


class Host(BaseHTTPRequestHandler):
    """The host's side: lends to whoever asks, unless the quota is spent."""

    log: Path

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = urlsplit(self.path)
        with open(self.log, "a") as log:
            log.write(json.dumps([asked.path, dict(parse_qsl(asked.query))]) + "\n")
        spent = asked.path == "/schedule" and self.log.with_suffix(".spent").exists()
        answer = json.dumps(SPENT if spent else LENT).encode()
        self.send_response(429 if spent else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Not to standard error."""


def main() -> None:
    Host.log = Path(sys.argv[1])
    host = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    Thread(target=host.serve_forever, daemon=True).start()
    os.environ |= {
        "SPACES_ZERO_GPU": "true",
        "SPACES_ZERO_DEVICE_API_URL": f"http://127.0.0.1:{host.server_port}",
    }
    dressing = ModuleType("spaces.zero.torch")  # makes PyTorch look as if there was a GPU; needs a build with CUDA
    vars(dressing).update(dict.fromkeys(("patch", "unpatch", "init", "move", "enter_mode"), lambda *_, **__: None))
    vars(dressing).update(dict.fromkeys(("pack", "size", "is_in_bad_fork"), lambda: 0))
    sys.modules[dressing.__name__] = dressing

    from explorer import ui

    ui.launch()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
