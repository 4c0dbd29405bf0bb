"""The console before a real platform: a link logs in, a push appears, a chat streams, a killed region is seen."""

import asyncio
import json
import os
import signal
from pathlib import Path

import openai
import pytest

from tests.e2e.platform import CHAT, TINYCHAT, RunningPlatform, descendants, questions, wait_for
from tests.edge.console import browser
from tests.edge.console.conftest import chromium, page  # noqa: F401 - fixtures
from tests.edge.console.test_page import LIVE, shows

SECOND = "examples/second"
SHOTS = os.environ.get("NEARFIELD_SHOTS")  # a folder for pictures of it


@pytest.fixture
async def shot(page: browser.Page):  # noqa: F811 - the fixture
    async def take(name: str) -> None:
        if SHOTS:
            for look, (width, height, dark) in LOOKS.items():
                await page.shot(
                    Path(SHOTS) / f"{name}-{look}.png", width, height, dark=dark, mobile=width < 500
                )
            await page.ask("Emulation.clearDeviceMetricsOverride")

    return take


LOOKS = {"light": (1280, 900, False), "dark": (1280, 900, True), "phone": (390, 844, False)}


async def test_a_platform_is_watched_in_a_browser(fragile: RunningPlatform, page: browser.Page, shot):  # noqa: F811
    told = json.loads(fragile.nearfield("console", "--json").stdout)
    await page.go(told["url"])
    await page.until(LIVE)
    assert await page.run("location.hash") == "", "the ticket is used up, and gone from the address"
    await page.until("document.querySelectorAll('.map .region.up').length === 2")

    await page.click('.side a[href="#models"]')
    await page.until(shows(CHAT))
    await asyncio.to_thread(fragile.nearfield, "push", str(TINYCHAT), SECOND)
    await page.until(
        f"[...document.querySelectorAll('.models tbody')].some((e) => e.innerText.includes('{SECOND}'))"
    )

    await page.click('.side a[href="#chat"]')
    for field, value in (("chat-region", "fra"), ("chat-model", SECOND)):
        await page.until(
            f"[...(document.getElementById('{field}')?.options ?? [])].some((e) => e.value === '{value}')"
        )
    await page.run("document.getElementById('chat-region').value = 'fra'")
    await page.run(f"document.getElementById('chat-model').value = {json.dumps(SECOND)}")
    question = questions()[0]
    await page.type("#chat-text", question["question"])
    await page.press("Enter", 13)
    await page.until("document.querySelector('.answered details')")
    assert question["answer"] in await page.text(".answered .text")
    assert "fra" in await page.text(".answered .way")
    await page.click(".answered summary")
    await shot("chat")

    await page.click('.side a[href="#requests"]')
    await page.until("document.querySelector('.request')")
    await page.click(".request button")
    await page.until(f"{shows('prefill')} && {shows('decode')} && {shows('edge to region and back')}")
    assert question["question"] not in await page.text("#content")
    await shot("requests")

    await page.click('.side a[href="#keys"]')
    await page.type("#key-tenant", "newcomer")
    await page.type("#key-tokens_per_min", "1000")
    await page.press("Enter", 13)
    made = await page.until("document.getElementById('made-key').value")
    await asyncio.to_thread(wait_for, lambda: _opens(fragile, made), 30, "the new key lets in")
    table = "document.querySelector('[aria-label=Keys]')"
    row = f"[...{table}.querySelectorAll('tbody tr')].find((e) => e.innerText.includes('newcomer'))"
    assert "1,000" in await page.run(f"{row}.innerText")
    assert made not in await page.run(f"{table}.innerText")
    await page.run(f"{row}.querySelector('[aria-label^=Revoke]').click()")
    await page.click("dialog [value=yes]")
    await page.until(f"{row} === undefined")
    await asyncio.to_thread(wait_for, lambda: not _opens(fragile, made), 30, "the key is refused")
    await shot("keys")

    await page.click('.side a[href="#overview"]')
    pids = fragile.role_pids("region-fra", "node-fra-0")
    os.kill(fragile.process.pid, signal.SIGSTOP)  # so that nothing is started again while we look
    try:
        for pid in pids.values():
            for victim in (pid, *descendants(pid)):
                os.kill(victim, signal.SIGKILL)
        await page.until("document.querySelector('.map .region.down')")
        await shot("killed")
    finally:
        os.kill(fragile.process.pid, signal.SIGCONT)
    await page.until("document.querySelectorAll('.map .region.up').length === 2")
    await asyncio.to_thread(fragile.nearfield, "rm", SECOND, "--yes")
    wait_for(lambda: fragile.row("fra", SECOND) is None, 60, "the second model gone")


def _opens(platform: RunningPlatform, key: str) -> bool:
    """Whether the API lets a key in."""
    try:
        platform.openai(api_key=key).models.list()
    except openai.AuthenticationError:
        return False
    return True
