"""Chromium without a window, driven over a pipe (Chrome's DevTools protocol, NUL between JSON): no package for it.

One process serves a test run; each visit has a context of its own, so no cookie of one test is another's.
"""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--disable-extensions", "--mute-audio", "--hide-scrollbars"),
    *("--ignore-certificate-errors", "--remote-debugging-pipe", "about:blank"),
)
WAIT_S = 60.0
LOOK = "(() => { try { const v = %s; return v instanceof Node ? true : v } catch { return null } })()"
MIDDLE = """(() => { const e = document.querySelector(%s); e.scrollIntoView({block: 'center'});
const r = e.getBoundingClientRect(); return r.width && {x: r.x + r.width / 2, y: r.y + r.height / 2}; })()"""
STOP_S = 10.0


def find() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


class Chromium:
    """The process; `Driver` speaks to it while a test runs."""

    def __init__(self, folder: Path) -> None:
        its_read, self.write_fd = os.pipe()
        self.read_fd, its_write = os.pipe()
        words = f'exec "$0" "$@" 3<&{its_read} 4>&{its_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", words, find(), f"--user-data-dir={folder}", *FLAGS],
            pass_fds=(its_read, its_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"HOME": str(folder)},
        )
        os.close(its_read)
        os.close(its_write)
        os.set_blocking(self.read_fd, False)

    def stop(self) -> None:
        """End it, and what it has started."""
        os.close(self.write_fd)  # which ends it
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self.read_fd)


class Driver:
    """Commands and their answers, on the running loop."""

    def __init__(self, chromium: Chromium) -> None:
        self._chromium = chromium
        self._loop = asyncio.get_running_loop()
        self._rest = b""
        self._num = 0
        self._waiting: dict[int, asyncio.Future] = {}
        self.heard: list[dict] = []  # events
        self._loop.add_reader(chromium.read_fd, self._read)

    def close(self) -> None:
        self._loop.remove_reader(self._chromium.read_fd)

    async def ask(self, method: str, session: str | None = None, **params) -> dict:
        self._num += 1
        answer = self._waiting[self._num] = self._loop.create_future()
        order = {"id": self._num, "method": method, "params": params}
        message = json.dumps(order | ({"sessionId": session} if session else {})).encode() + b"\0"
        await asyncio.to_thread(_write, self._chromium.write_fd, message)
        async with asyncio.timeout(WAIT_S):
            return await answer

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            *messages, self._rest = (self._rest + os.read(self._chromium.read_fd, 1 << 20)).split(b"\0")
            for message in messages:
                self._take(json.loads(message))

    def _take(self, said: dict) -> None:
        waiting = self._waiting.pop(said.get("id"), None)
        if waiting is None:
            self.heard.append(said)
        elif not waiting.done():
            fault = said.get("error")
            waiting.set_exception(AssertionError(fault)) if fault else waiting.set_result(said["result"])


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


class Page:
    """One tab."""

    def __init__(self, driver: Driver, session: str) -> None:
        self._driver = driver
        self._session = session
        self._forgiven: tuple[str, ...] = ()

    async def ask(self, method: str, **params) -> dict:
        return await self._driver.ask(method, self._session, **params)

    async def go(self, url: str) -> None:
        """Open it; how it goes is for `until` to see."""
        await self.ask("Page.navigate", url=url)

    async def run(self, script: str):
        """The value of an expression, awaited."""
        said = await self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    async def failure(self, script: str) -> str:
        """What an expression throws."""
        said = await self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        return said["exceptionDetails"]["exception"]["description"]

    def forgive(self, *words: str) -> None:
        """Complaints with one of these words are wanted."""
        self._forgiven += words

    async def until(self, script: str):
        """Wait until the expression is true; its value. What is looked at may be another page by then."""
        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    with contextlib.suppress(AssertionError):  # the page was just being replaced
                        if value := await self.run(LOOK % script):
                            return value
                    await asyncio.sleep(0.03)
        except TimeoutError:
            shown = await self.run("document.body ? document.body.innerText : ''")
            raise AssertionError(f"never: {script}\nshown:\n{shown}\n{self.problems()}") from None

    async def text(self, selector: str = "body") -> str:
        return await self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    async def click(self, selector: str) -> None:
        """With a pointer, in the middle of what is there."""
        at = await self.until(MIDDLE % json.dumps(selector))
        for kind in ("mousePressed", "mouseReleased"):
            await self.ask("Input.dispatchMouseEvent", type=kind, **at, button="left", clickCount=1)

    async def type(self, selector: str, text: str) -> None:
        await self.until(f"document.querySelector({json.dumps(selector)}).checkVisibility()")
        await self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        await self.ask("Input.insertText", text=text)

    async def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            await self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)
            if kind == "rawKeyDown" and key == "Enter":
                await self.ask(
                    "Input.dispatchKeyEvent", type="char", key=key, text="\r", windowsVirtualKeyCode=code
                )

    async def shot(
        self, path: Path, width: int, height: int, *, dark: bool = False, mobile: bool = False
    ) -> None:
        """A picture of it as large as that."""
        await self.resize(width, height, mobile=mobile)
        await self.dress(dark=dark)
        await asyncio.sleep(0.3)
        taken = await self.ask("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(taken["data"]))

    async def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        """On a screen as large as that."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        await self.ask("Emulation.setDeviceMetricsOverride", **size)

    async def dress(self, *, dark: bool, still: bool = False) -> None:
        """As its reader likes it."""
        wishes = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if still else "no-preference",
        }
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        await self.ask("Emulation.setEmulatedMedia", features=features)

    def problems(self) -> list[str]:
        """What the page has complained of: broken scripts, and whatever its policy forbade."""
        found = []
        for event in self._driver.heard:
            if event.get("sessionId") != self._session:
                continue
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(params["exceptionDetails"])[:600])
            if event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        return [each for each in found if not any(word in each for word in self._forgiven)]


@contextlib.asynccontextmanager
async def visit(chromium: Chromium):
    """A page in a context of its own."""
    driver = Driver(chromium)
    try:
        context = (await driver.ask("Target.createBrowserContext"))["browserContextId"]
        target = await driver.ask("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await driver.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(driver, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.ask(f"{domain}.enable")
        yield page
        await driver.ask("Target.disposeBrowserContext", browserContextId=context)
    finally:
        driver.close()
