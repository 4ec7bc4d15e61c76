"""A headless Chromium, driven through its own protocol (DevTools) over one WebSocket."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from base64 import b64decode
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import SdxsError
from ..io.sources.synthetic import write_counter

NAMES = ("chromium", "chromium-browser", "google-chrome")
ANSWER_S = 60.0
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--mute-audio",
    "--disable-background-networking",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--proxy-server=127.0.0.1:9",
    "--proxy-bypass-list=127.0.0.1;localhost",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)


def installed_browser() -> str | None:
    """Return the path of a Chromium, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """One page. Raises SdxsError for an exception in it, and when it says nothing in a minute."""

    def __init__(self, browser: "Chromium", session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target

    def ask(self, script: str) -> Any:  # whatever JavaScript returns
        """Evaluate an expression and return its value; a promise is awaited."""
        said = self._browser.call(
            "Runtime.evaluate",
            self._session,
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in said:
            details = said["exceptionDetails"]
            why = details.get("exception", {}).get("description") or details["text"]
            raise SdxsError(f"{script[:80]}: {why}")
        return said["result"].get("value")

    def until(self, condition: str, within_s: float = ANSWER_S) -> Any:
        """Wait in the page until an expression is true, and return it."""
        script = (
            "new Promise((done, fail) => { const end = performance.now() + "
            f"{within_s * 1000}; const look = () => {{ const found = ({condition}); if (found) "
            "done(found); else if (performance.now() > end) fail(new Error('not within "
            f"{within_s:g} s')); else setTimeout(look, 20); }}; look(); }})"
        )
        return self.ask(script)

    def key(self, key: str) -> None:
        """Press and let go a key."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            self._browser.call("Input.dispatchKeyEvent", self._session, type=kind, key=key, **text)

    def shape(self, width: int, height: int, dark: bool = False, phone: bool = False) -> None:
        """Give the page a size, and light or dark."""
        self._browser.call(
            "Emulation.setDeviceMetricsOverride",
            self._session,
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._browser.call("Emulation.setEmulatedMedia", self._session, features=[scheme])

    def screenshot(self) -> bytes:
        """Return what the page looks like, a PNG."""
        said = self._browser.call("Page.captureScreenshot", self._session)
        return b64decode(said["data"])

    def close(self) -> None:
        """Kill the page, as a user does with a tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)


class Chromium:
    """A browser of its own profile, ended with the block. camera: a .y4m or .mjpeg file."""

    def __init__(self, path: str, camera: Path | None = None) -> None:
        from websockets.sync.client import connect

        self._folder = tempfile.TemporaryDirectory(
            prefix="sdxs-chromium-", ignore_cleanup_errors=True
        )
        self._number = 0
        command = [path, *QUIET, f"--user-data-dir={self._folder.name}"]
        if camera:
            command += [
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-video-capture={camera}",
            ]
        environment = {**os.environ, "HOME": self._folder.name}
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        self._open = ExitStack()
        connection = connect(self._url(), max_size=None, open_timeout=ANSWER_S)
        self._socket = self._open.enter_context(connection)

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def open(self, url: str) -> Tab:
        """Open a page in a tab of its own."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session, target)
        said = self.call("Page.navigate", session, url=url)
        if "errorText" in said:
            raise SdxsError(f"{url}: {said['errorText']}")
        tab.until("document.readyState === 'complete'")
        return tab

    def call(self, method: str, session: str = "", **values: object) -> dict[str, Any]:
        """Call a method of the protocol. Raises SdxsError."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": values}
        self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        end = time.monotonic() + 2 * ANSWER_S
        while (left := end - time.monotonic()) > 0:
            said: dict[str, Any] = json.loads(self._socket.recv(left))
            if said.get("id") != self._number:
                continue  # an event
            if "error" in said:
                raise SdxsError(f"{method}: {said['error']['message']}")
            result: dict[str, Any] = said["result"]
            return result
        raise SdxsError(f"{method}: the browser did not answer")

    def _url(self) -> str:
        """Wait for the address that the browser writes into its profile."""
        file, end = Path(self._folder.name) / "DevToolsActivePort", time.monotonic() + ANSWER_S
        while time.monotonic() < end and self._process.poll() is None:
            lines = file.read_text().split() if file.exists() else []
            if len(lines) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            time.sleep(0.02)
        raise SdxsError("the browser did not start")


def write_camera(path: Path, width: int, height: int, frames: int, fps: int = 30) -> None:
    """Write a film for Chromium's fake camera (.y4m, I420) whose frames carry their number.

    The numbers are read back by `read_counter`, also after lossy coding.
    """
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F{fps}:1 Ip A1:1 C420jpeg\n".encode())
        luma = np.tile(np.linspace(40, 200, width, dtype=np.uint8), (height, 1))
        chroma = np.full(width * height // 4, 160, np.uint8).tobytes()
        for number in range(frames):
            picture = np.repeat(luma[..., None], 3, axis=-1)
            write_counter(picture, number)
            file.write(b"FRAME\n" + picture[..., 0].tobytes() + chroma + chroma[::-1])
