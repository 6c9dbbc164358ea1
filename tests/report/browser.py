"""A real headless Chromium, spoken to over a pipe in its DevTools protocol; tests are skipped where there is none."""

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_MEASURE = """(() => {
  const shown = element => element.checkVisibility() && !element.closest('.unseen');
  const outermost = [...document.querySelectorAll('body *')].filter(
    element => shown(element) && !element.parentElement.closest('.scroll, svg'));
  const navigation = performance.getEntriesByType('navigation')[0];
  return {
    width: innerWidth,
    scrollWidth: document.documentElement.scrollWidth,
    outside: outermost.filter(element => {
      const box = element.getBoundingClientRect();
      return box.width && (box.left < 0 || box.right > innerWidth + 0.5);
    }).map(element => element.outerHTML.slice(0, 120)),
    smallest: Math.min(...[...document.querySelectorAll('body *')].filter(
      element => shown(element) && [...element.childNodes].some(
        node => node.nodeType === Node.TEXT_NODE && node.textContent.trim())
    ).map(element => {
      const drawing = element.closest('svg');
      const scale = drawing ? drawing.getScreenCTM().a : 1;
      return parseFloat(getComputedStyle(element).fontSize) * scale;
    })),
    plotScales: [...document.querySelectorAll('.plot svg')].filter(shown).map(
      drawing => drawing.getBoundingClientRect().width / drawing.viewBox.baseVal.width),
    empty: [...document.querySelectorAll('svg, figure, table')].filter(element => {
      const box = element.getBoundingClientRect();
      return shown(element) && (box.width < 20 || box.height < 20);
    }).length,
    loadMilliseconds: navigation.loadEventEnd - navigation.startTime,
  };
})()"""


class Browser:
    """One tab. Everything that the console or the network says is kept in ``complaints`` and ``requests``."""

    def __init__(self, process: subprocess.Popen[bytes], write: int, read: int) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._process, self._write, self._read = process, write, read
        self._numbers = itertools.count(1)
        self._session: dict[str, str] = {}
        self._buffer = b""
        self._loaded = False
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(
        self, path: Path, width: int, *, height: int = 900, dark: bool = False, phone: bool = False
    ) -> None:
        """Load a page on a screen of so many CSS pixels, and wait until it is there."""
        self.complaints, self.requests = [], []
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self._call("Emulation.setDeviceMetricsOverride", **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False
        self._call("Page.navigate", url=path.as_uri())
        while not self._loaded:
            self._receive()

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def measure(self) -> dict[str, Any]:
        """Sizes, in CSS pixels: of the page, of what sticks out of it, of its smallest text; how long it took."""
        return self.evaluate(_MEASURE)

    def point_at(self, element: str) -> None:
        """Move the mouse over the middle of an element, which an expression gives."""
        middle = (
            f"(box => [box.x + box.width / 2, box.y + box.height / 2])({element}.getBoundingClientRect())"
        )
        x, y = self.evaluate(middle)
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str, after: str = "") -> None:
        """Press a key where the focus is; ``after``: first put it before what is inside this element."""
        if after:
            self.evaluate(f"{after}.tabIndex = -1, {after}.focus()")
        codes = {"Tab": 9, "ArrowRight": 39}
        for kind in ("rawKeyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key]
            )

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters, **self._session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        """The next message, noted if it is an event."""
        while b"\0" not in self._buffer:
            chunk = os.read(self._read, 1 << 20)  # nothing when Chromium has ended
            assert chunk, f"Chromium doesn't answer (exit status {self._process.poll()})"
            self._buffer += chunk
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(raw)
        event, details = message.get("method"), message.get("params", {})
        if event in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(json.dumps(details))
        elif event == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])
        elif event == "Page.loadEventFired":
            self._loaded = True
        return message


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Start the browser, with a profile in an empty folder; skips the test where there is none."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium here (looked for {', '.join(_NAMES)}): the page is not opened in a browser")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    options += ["--no-first-run", f"--user-data-dir={folder}", "--remote-debugging-pipe"]
    # Chromium listens on file descriptor 3 and answers on 4.
    script = 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1'
    process = subprocess.Popen(
        ["sh", "-c", script, "sh", program, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdin and process.stdout
        try:
            yield Browser(process, process.stdin.fileno(), process.stdout.fileno())
        finally:
            process.terminate()
