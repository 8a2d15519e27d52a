"""A headless Chromium for tests, driven over a pipe by the DevTools protocol.

Contents: BROWSER, needed, Page.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess

import pytest

BROWSER = next((b for b in ("chromium", "chromium-browser", "google-chrome", "chrome",
                             "chromium-headless-shell") if shutil.which(b)), None)
needed = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


class Page:
  """One page of a headless browser."""

  def __init__(self, profile, width=1280, height=900, dark=False):
    to_browser, self._out = os.pipe()
    self._in, from_browser = os.pipe()
    wire = f"exec {BROWSER} \"$@\" 3<&{to_browser} 4>&{from_browser}"
    self.process = subprocess.Popen(
        ["bash", "-c", wire, "browser", "--headless=new", "--no-sandbox", "--disable-gpu",
         "--disable-dev-shm-usage",
         "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run",
         "--disable-background-networking", "--hide-scrollbars", "about:blank"],
        pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(to_browser)
    os.close(from_browser)
    self._buffer, self._count, self._session, self.events = b"", 0, None, []
    target = self.send("Target.createTarget", url="about:blank")["targetId"]
    self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
      self.send(f"{domain}.enable")
    self.resize(width, height, dark)

  def resize(self, width, height=900, dark=False):
    self.send("Emulation.setDeviceMetricsOverride", width=width, height=height,
              deviceScaleFactor=1, mobile=width < 600)
    self.send("Emulation.setEmulatedMedia", features=[
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

  def _read(self):
    while b"\0" not in self._buffer:
      assert select.select([self._in], [], [], 30)[0], "the browser does not answer"
      chunk = os.read(self._in, 1 << 16)
      assert chunk, "the browser went away"
      self._buffer += chunk
    message, self._buffer = self._buffer.split(b"\0", 1)
    return json.loads(message)

  def send(self, method, **params):
    self._count += 1
    message = {"id": self._count, "method": method, "params": params}
    message |= {"sessionId": self._session} if self._session else {}
    os.write(self._out, json.dumps(message).encode() + b"\0")
    while True:
      answer = self._read()
      if answer.get("id") == self._count:
        assert "error" not in answer, answer
        return answer["result"]
      self.events.append(answer)

  def open(self, path):
    self.events.clear()
    self.send("Page.navigate", url=path.as_uri())
    while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
      self.events.append(self._read())

  def run(self, code):
    answer = self.send("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
    assert "exceptionDetails" not in answer, answer
    return answer["result"].get("value")

  def press(self, key, code=None, text=None):
    common = {"key": key, "code": code or key} | ({"text": text} if text else {})
    self.send("Input.dispatchKeyEvent", type="keyDown", **common)
    self.send("Input.dispatchKeyEvent", type="keyUp", **common)

  def hover(self, selector):
    x, y = self.run(f"""(() => {{
        const node = document.querySelector({json.dumps(selector)});
        node.scrollIntoView({{block: "center"}});
        const box = node.getClientRects()[0];
        return [box.x + box.width / 2, box.y + box.height / 2]; }})()""")
    self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    return self.run("document.getElementById('tip').innerText")

  def screenshot(self, path):
    data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
    path.write_bytes(base64.b64decode(data))

  def complaints(self):
    """Errors of scripts and console, blocked content, and requests but for the page."""
    self.run("1")
    kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    bad = [e for e in self.events if e.get("method") in kinds]
    asked = [e["params"]["request"]["url"] for e in self.events
             if e.get("method") == "Network.requestWillBeSent"]
    return bad, asked[1:]

  def close(self):
    with contextlib.suppress(OSError, AssertionError):
      self._session = None
      self.send("Browser.close")
    self.process.wait(timeout=20)
