"""A headless Chromium driven through its DevTools protocol, over a pipe and with nothing but the
standard library.

Used by the tests of the HTML page, by the screenshots of the docs and by the figures of how fast a
page opens.
"""

import base64
import json
import os
import pathlib
import select
import shutil
import signal
import tempfile
import time
from typing import Any, Self

BINARY = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
_SECONDS = 60.0
_KEYS = {
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
    "End": 35,
    "Home": 36,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
}


class BrowserError(Exception):
    """The browser did not answer, or answered with an error."""


class Browser:
    """One Chromium process; `open` gives a page in it. A context manager."""

    def __init__(self) -> None:
        if BINARY is None:
            raise BrowserError("no chromium was found on the PATH")
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_us, from_browser = os.pipe()
        from_us, to_browser = os.pipe()
        self.process = os.posix_spawn(
            BINARY,
            [BINARY, *_FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, from_us, 3), (os.POSIX_SPAWN_DUP2, from_browser, 4),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
            setpgroup=0,
        )  # fmt: skip
        os.close(from_us)
        os.close(from_browser)
        self._read, self._write = to_us, to_browser
        self._buffer = b""
        self._id = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._write)
        os.close(self._read)
        os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        self._profile.cleanup()

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """One command of the protocol, and its result; events that come meanwhile are kept in
        `events`.
        """
        self._id += 1
        message = {"id": self._id, "method": method, "params": params} | (
            {"sessionId": session} if session else {}
        )
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            answer = self._receive(_SECONDS)
            if answer.get("id") == self._id:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self.events.append(answer)

    def wait_for(self, method: str, session: str) -> None:
        """Until that event has come."""
        while not any(
            event.get("method") == method and event.get("sessionId") == session
            for event in self.events
        ):
            self.events.append(self._receive(_SECONDS))

    def _receive(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(end - time.monotonic(), 0))[0]:
                raise BrowserError(f"no answer within {seconds:.0f} s")
            chunk = os.read(self._read, 1 << 20)
            if not chunk:
                raise BrowserError("the browser has ended")
            self._buffer += chunk
        first, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(first))

    def open(
        self,
        path: pathlib.Path | str,
        *,
        width: int = 1440,
        height: int = 900,
        dark: bool = False,
        hash: str = "",  # noqa: A002
        measured: bool = False,
    ) -> "Page":
        """The file as a page that has loaded; if it is `measured`, `Performance.getMetrics` tells
        the processor time of its main thread.
        """
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{domain}.enable")
        if measured:
            page.send("Performance.enable", timeDomain="threadTicks")
        page.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        page.prefer(dark=dark)
        page.send("Page.navigate", url=pathlib.Path(path).resolve().as_uri() + hash)
        self.wait_for("Page.loadEventFired", session)
        return page


class Page:
    """A page in the browser."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self.browser, self.session, self.target = browser, session, target

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol to this page."""
        return self.browser.send(method, self.session, **params)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise BrowserError(
                answer["exceptionDetails"].get("exception", {}).get("description")
                or str(answer["exceptionDetails"])
            )
        return answer["result"].get("value")

    def busy(self) -> float:
        """Milliseconds of processor time that the main thread of a page that is `measured` has
        worked so far.
        """
        metrics = self.send("Performance.getMetrics")["metrics"]
        return 1000 * next(
            float(metric["value"]) for metric in metrics if metric["name"] == "TaskDuration"
        )

    def prefer(self, *, dark: bool) -> None:
        """What the system's setting says of light and dark."""
        self.send(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )

    def click(self, selector: str) -> None:
        """A real click with the mouse in the middle of the first element that matches."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            f"e.scrollIntoView({{block: 'center', inline: 'nearest'}});"
            " const r = e.getBoundingClientRect(); return [r.x + Math.min(r.width / 2, 60), r.y + "
            "r.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """A real key: "ArrowDown", "Enter", or a character."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        number = (
            {"windowsVirtualKeyCode": _KEYS[key]} if key in _KEYS else {}
        )  # what the browser itself does with a key goes by it
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **text, **number)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.send("Input.insertText", text=text)

    def screenshot(self, path: pathlib.Path | str, *, whole: bool = False) -> None:
        """The page as a PNG; `whole` also what would have to be scrolled to."""
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)[
            "data"
        ]
        pathlib.Path(path).write_bytes(base64.b64decode(data))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(
            self.send("Page.printToPDF", printBackground=True, landscape=True)["data"]
        )

    def requests(self) -> list[str]:
        """Addresses that the page asked for, its own and those of data: left out."""
        sent = [e["params"]["request"]["url"] for e in self._events("Network.requestWillBeSent")]
        return [url for url in sent[1:] if not url.startswith("data:")]

    def complaints(self) -> list[str]:
        """Errors and warnings in the console, and exceptions nobody caught."""
        self.run("0")  # what was said before has arrived now
        logged = [e["params"]["entry"] for e in self._events("Log.entryAdded")]
        called = [e["params"] for e in self._events("Runtime.consoleAPICalled")]
        thrown = [e["params"]["exceptionDetails"] for e in self._events("Runtime.exceptionThrown")]
        return [
            *(entry["text"] for entry in logged if entry["level"] in ("error", "warning")),
            *(
                str(call["args"])
                for call in called
                if call["type"] in ("error", "warning", "assert")
            ),
            *(str(one.get("exception", {}).get("description", one)) for one in thrown),
        ]

    def _events(self, method: str) -> list[dict[str, Any]]:
        return [
            e
            for e in self.browser.events
            if e.get("method") == method and e.get("sessionId") == self.session
        ]

    def close(self) -> None:
        """Close the page."""
        self.browser.send("Target.closeTarget", targetId=self.target)
