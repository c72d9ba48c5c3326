"""A real browser for tests, driven over a pipe: Chromium's DevTools protocol, a JSON value a piece.

Pieces end with a zero byte, and the browser has them on its descriptors 3 and 4; so no driver is
needed, and no port.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SECONDS_MAX = 60.0

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

Plain = dict[str, Any]


def find_browser() -> str | None:
    """Return the path of a browser that this machine has, None if it has none."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


class Tab:
    """A page that is open; every call is bounded.

    Attributes:
        errors: What the page's console said in anger, and its uncaught exceptions.
    """

    def __init__(self, orders: int, answers: int) -> None:
        """Take both ends of the pipes."""
        self.errors: list[str] = []
        self._orders = orders
        self._answers = answers
        self._rest = b""
        self._number = 0
        self._loaded = False
        self._session = ""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> Plain:  # noqa: ANN401 - JSON
        """Give an order; return its result."""
        self._number += 1
        order: Plain = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            order["sessionId"] = self._session
        data = json.dumps(order).encode() + b"\0"
        while data:
            data = data[os.write(self._orders, data) :]
        deadline = time.monotonic() + SECONDS_MAX
        while True:
            message = self._receive(deadline)
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: Plain = message["result"]
                return result

    def open(self, address: str, *, width: int = 1280, dark: bool = False) -> None:
        """Load a page and wait until it is there."""
        self.resize(width, 900)
        wishes = {
            "prefers-color-scheme": "dark" if dark else "light",
            # What is scrolled to is there at once.
            "prefers-reduced-motion": "reduce",
        }
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        self.send("Emulation.setEmulatedMedia", media="", features=features)
        self.errors.clear()
        self._loaded = False
        self.send("Page.navigate", url=address)
        deadline = time.monotonic() + SECONDS_MAX
        while not self._loaded:
            self._receive(deadline)

    def run(self, script: str) -> Any:  # noqa: ANN401 - JSON
        """Return the value of an expression in the page."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + SECONDS_MAX
        while not self.run(script):
            assert time.monotonic() < deadline, f"never came: {script}"
            time.sleep(0.02)

    def point(self, x: float, y: float, *, click: bool = False) -> None:
        """Move the pointer to a place in the window, and perhaps click."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for what in ("mousePressed", "mouseReleased") if click else ():
            self.send(
                "Input.dispatchMouseEvent", type=what, x=x, y=y, button="left", clickCount=1
            )  # fmt: skip

    def drag(self, x: float, y: float, to_x: float, to_y: float, *, shift: bool = False) -> None:
        """Press the button at one place, and let it go at another."""
        held: Plain = {"button": "left", "buttons": 1, "clickCount": 1, "modifiers": 8 * shift}
        where = {"x": x, "y": y}
        self.send("Input.dispatchMouseEvent", type="mouseMoved", **where)
        self.send("Input.dispatchMouseEvent", type="mousePressed", **where, **held)
        for share in (0.5, 1.0):
            where = {"x": x + share * (to_x - x), "y": y + share * (to_y - y)}
            self.send("Input.dispatchMouseEvent", type="mouseMoved", **where, **held)
        self.send(
            "Input.dispatchMouseEvent", type="mouseReleased", **where, **held | {"buttons": 0}
        )

    def key(self, name: str) -> None:
        """Press a key, by its name or by the sign that it writes."""
        # What the browser itself heeds it knows by the number.
        said: Plain = {"key": name, "windowsVirtualKeyCode": {"Escape": 27}.get(name, 0)}
        text = {"text": name} if len(name) == 1 else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **said, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **said)

    def print(self) -> bytes:
        """Print the page, with only those grounds that it asks for itself; return the PDF."""
        printed = self.send("Page.printToPDF", printBackground=False)
        return base64.b64decode(printed["data"])

    def resize(self, width: int, height: int) -> None:
        """Give the window another size."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def picture(self, path: Path) -> None:
        """Write a picture of the whole page as PNG."""
        taken = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def _receive(self, deadline: float) -> Plain:
        while b"\0" not in self._rest:
            left = max(deadline - time.monotonic(), 0)
            assert select.select([self._answers], [], [], left)[0], "the browser says nothing"
            data = os.read(self._answers, 1 << 20)
            assert data, "the browser has ended"
            self._rest += data
        piece, _, self._rest = self._rest.partition(b"\0")
        message: Plain = json.loads(piece)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, parameters: Plain) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in {"error", "warning"}:
            self.errors.append(str(parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(str(parameters["entry"]))


@contextmanager
def open_tab(browser: str, folder: Path) -> Iterator[Tab]:
    """Start a browser with one tab for the block.

    Args:
        browser: Its path.
        folder: Where it may keep its profile.
    """
    theirs_in, orders = os.pipe()
    answers, theirs_out = os.pipe()
    # The numbers are the browser's to say; these two are moved there in the child.
    shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    popen = subprocess.Popen(
        [
            "/bin/bash", "-c", shell, "browser", browser, f"--user-data-dir={folder}", "--headless",
            "--remote-debugging-pipe", "--no-sandbox", "--no-first-run", "--disable-gpu",
            "--hide-scrollbars", "--disable-extensions", "--disable-background-networking",
            "--disable-dev-shm-usage",
        ],
        pass_fds=[theirs_in, theirs_out], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        tab = Tab(orders, answers)
        yield tab
        with suppress(AssertionError, OSError):
            tab._session = ""
            tab.send("Browser.close")
        popen.wait(SECONDS_MAX)
    finally:
        popen.kill()
        popen.wait()
        os.close(orders)
        os.close(answers)
