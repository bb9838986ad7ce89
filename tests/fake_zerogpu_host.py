"""The page on a fake ZeroGPU host; its package `spaces` is the real one.

python tests/fake_zerogpu_host.py LOG serves the page. LOG gets a line for each request that the page makes of the host;
where there is a file LOG.spent, no quota is left.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from urllib.parse import parse_qsl, urlsplit

GRANTED = {"idle": False, "nvidiaIndex": 0, "nvidiaUUID": "none", "allowToken": "token"}
NO_QUOTA = {"left": 0, "wait": 3600}


class Host(BaseHTTPRequestHandler):
    """The host: it grants a GPU to every request, unless the quota is exhausted."""

    log: Path

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = urlsplit(self.path)
        with open(self.log, "a") as log:
            log.write(json.dumps([request.path, dict(parse_qsl(request.query))]) + "\n")
        spent = request.path == "/schedule" and self.log.with_suffix(".spent").exists()
        answer = json.dumps(NO_QUOTA if spent else GRANTED).encode()
        self.send_response(429 if spent else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def main() -> None:
    Host.log = Path(sys.argv[1])
    host = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    Thread(target=host.serve_forever, daemon=True).start()
    os.environ |= {
        "SPACES_ZERO_GPU": "true",
        "SPACES_ZERO_DEVICE_API_URL": f"http://127.0.0.1:{host.server_port}",
    }
    patches = ModuleType("spaces.zero.torch")  # makes PyTorch look as if there was a GPU; needs a build with CUDA
    vars(patches).update(dict.fromkeys(("patch", "unpatch", "init", "move", "enter_mode"), lambda *_, **__: None))
    vars(patches).update(dict.fromkeys(("pack", "size", "is_in_bad_fork"), lambda: 0))
    sys.modules[patches.__name__] = patches

    from explorer import ui

    ui.launch()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
