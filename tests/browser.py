"""A headless Chromium: what it makes of a page."""

import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Empty, Queue

import pytest

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--proxy-server=127.0.0.1:9",
    "--no-first-run",
)


def browser() -> str:
    found = next(
        (
            path
            for name in ("chromium", "chromium-browser", "google-chrome")
            if (path := shutil.which(name))
        ),
        None,
    )
    return found or pytest.skip(
        "no headless browser: neither chromium nor google-chrome is installed (apt install "
        "chromium)"
    )


def open_in(chromium: str, profile: Path, *arguments: str) -> str:
    """Run it once, headless and without a network; what it prints."""
    command = [chromium, *QUIET, f"--user-data-dir={profile}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def told_by(chromium: str, profile: Path, page: str, files: dict[str, Path]) -> dict[str, object]:
    """Open a page that is served with some files beside it; return what it posts to /said.

    For what takes its time, as a video does: a document is printed as soon as it is loaded.
    """
    said: Queue[dict[str, object]] = Queue()

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = files.get(self.path.lstrip("/"))
            data = path.read_bytes() if path else page.encode()
            self.send_response(200)
            self.send_header("Content-Type", "video/mp4" if path else "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            said.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running = subprocess.Popen(
            [
                chromium,
                *QUIET,
                "--autoplay-policy=no-user-gesture-required",
                "--remote-debugging-port=0",  # it stays until it is ended
                f"--user-data-dir={profile}",
                f"http://127.0.0.1:{server.server_port}/",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return said.get(timeout=120)
        except Empty:
            pytest.fail("the page said nothing in two minutes")
        finally:
            running.kill()
            running.wait()
            server.shutdown()
