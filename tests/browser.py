"""Headless Chromium, driven over its debugging pipe: pages are opened, clicked, scrolled and looked at as by a user."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT_S = 60.0


class Browser:
    """One page in one browser, without a network. Use as a context manager."""

    def __init__(self, width: int = 1300, height: int = 1000) -> None:
        assert CHROMIUM, "no Chromium on this machine (apt-get install chromium)"
        self._profile = tempfile.TemporaryDirectory(prefix="strega-browser-", ignore_cleanup_errors=True)
        read, child_writes = os.pipe()
        child_reads, write = os.pipe()
        # The pipe must be the descriptors 3 and 4 of the browser.
        command = f'exec "$0" "$@" 3<&{child_reads} 4>&{child_writes}'
        arguments = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--no-first-run", "--disable-extensions", "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={self._profile.name}", f"--window-size={width},{height}", "--remote-debugging-pipe",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            ["bash", "-c", command, CHROMIUM, *arguments],
            pass_fds=(child_reads, child_writes), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(child_reads)
        os.close(child_writes)
        self._read, self._write = os.fdopen(read, "rb"), os.fdopen(write, "wb")
        self._number = 0
        self._session = ""
        self.problems: list[str] = []  # exceptions and console errors of the pages, and what they tried to fetch
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._session = ""
            self._send("Browser.close")
            self._process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._read.close()
        self._write.close()
        self._profile.cleanup()

    def open(self, page: Path, ready: str = "document.readyState === 'complete'") -> None:
        """Open a page and wait until `ready`, a JavaScript expression, holds."""
        self._send("Page.navigate", url=page.as_uri())
        self.wait(f"location.href.startsWith('file:') && {ready}")

    def wait(self, ready: str) -> None:
        """Wait until `ready`, a JavaScript expression, holds; a click returns before the page it leads to is there."""
        deadline = time.monotonic() + WAIT_S
        while not self.evaluate(ready):
            assert time.monotonic() < deadline, f"not after {WAIT_S:.0f} s: {ready}; {self.problems}"
            time.sleep(0.05)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, as JSON can hold it."""
        answer = self._send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wheel(self, selector: str, by: int) -> None:
        """Turn the wheel over the middle of an element; < 0 is away from the user."""
        x, y = self._place(selector, 0.5, 0.5)
        self._send("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=by)

    def click(self, selector: str, across: float = 0.5, down: float = 0.5) -> None:
        """Click at shares of an element's width and height."""
        x, y = self._place(selector, across, down)
        for kind in ("mousePressed", "mouseReleased"):
            self._send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, selector: str = "html") -> bytes:
        """An element as PNG."""
        box = self.evaluate(
            f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            "return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height}; })()"
        )
        answer = self._send("Page.captureScreenshot", clip={**box, "scale": 1}, captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def _place(self, selector: str, across: float, down: float) -> tuple[float, float]:
        box = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'nearest'}); const b = e.getBoundingClientRect();"
            "return [b.x, b.y, b.width, b.height]; })()"
        )
        return box[0] + across * box[2], box[1] + down * box[3]

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while True:
            answer = json.loads(self._message())
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer.get("method", ""), answer.get("params", {}))

    def _message(self) -> bytes:
        content = bytearray()
        while (byte := self._read.read1(1)) != b"\0":
            if not byte:
                raise OSError("the browser ended")
            content += byte
        return bytes(content)

    def _note(self, event: str, parameters: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(parameters["exceptionDetails"]))
        elif event == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.problems.append(parameters["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.problems.append(f"fetches {url}")
