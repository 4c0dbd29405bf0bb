"""The console in headless Chromium, before a real edge and scripted regions: open, log in, look, push, chat, kill."""

import json

from edge.console.files import FOLDER
from regions.map.region import ModelFault, Progress, RolloutState, Tier
from tests.edge.console import browser
from tests.edge.world import ADMIN, BODY, MODEL, USER, served, streams
from tests.evidence import count

WORDS = ["Weights", "are", "where", "the", "question", "is", "asked"]
NODE = {
    "hop": "node",
    "total_ms": 20.0,
    "phases": {"read": 0.5, "prefill": 9.0, "decode": 10.0},
    "start": "host",
    "start_phases": {"attach": 4.0},
    "completion_tokens": 7,
    "time_to_first_token_ms": 9.5,
}
GATEWAY = {"hop": "gateway", "total_ms": 22.0, "phases": {"read": 0.5, "first_byte": 11.0, "stream": 10.0}}
LIVE = "document.getElementById('live').textContent === 'live'"
CARRIED = """['resource', 'navigation'].flatMap((kind) => performance.getEntriesByType(kind))
    .reduce((sum, each) => sum + each.transferSize, 0)"""
CUT = """(() => {
  const width = document.documentElement.clientWidth;
  const isCut = (e) => e.checkVisibility() && e.getBoundingClientRect().right > width + 1;
  const cut = [...document.querySelectorAll('#app *')].filter((e) => isCut(e) && !e.closest('svg') &&
    (!e.closest('.wide') || e.matches('.details, .phases *')));
  return cut.map((e) => `${e.tagName} ${e.className} ${e.innerText.slice(0, 40)}`).concat(
    document.documentElement.scrollWidth > width ? ['the page itself'] : []);
})()"""
"""What a phone's screen cuts off at the right; a table may be moved, but not what one request came to."""
OVER = """(() => {
  const words = [...document.querySelectorAll('.map g:not(.rings) > text')].filter((e) => e.textContent);
  const boxes = words.map((e) => [e.textContent, e.getBoundingClientRect()]);
  return boxes.flatMap(([one, a], at) => boxes.slice(at + 1).filter(([, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4).map(([other]) => `${one} / ${other}`));
})()"""
"""Words of the map that lie over each other."""
PHONES = (360, 414)
XSS = "<img src=x onerror=window.hurt=1>"


def piece(text):
    return b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode()


def receipt(hop):
    return b": nearfield %b\n\n" % json.dumps(hop).encode()


def chats(*words):
    pieces = [piece(f" {word}") for word in words]
    return streams(*pieces, b"data: [DONE]\n\n", receipt(NODE) + receipt(GATEWAY))


async def logged_in(page, world):
    await page.go(f"https://{world.pools['admin'].host_header}/console/")
    await page.type("#login-key", ADMIN)
    await page.press("Enter", 13)
    await page.until(LIVE)


def opened(name):
    return f"document.querySelector('.side a[aria-current]').hash === '#{name}'"


def shows(text, selector="#content"):
    return f"document.querySelector({json.dumps(selector)}).innerText.includes({json.dumps(text)})"


async def test_a_visit(world, page):
    """Wrong key, right key, the map, a push, a chat in a chosen region, its phases, a region killed, out again."""
    edge = await world(names=("iad", "fra", "nrt"))
    fra = edge.regions["fra"]
    fra.script = chats(*WORDS)
    page.forgive("401")  # each of which the browser says in its log: the wrong key, and the last look
    await page.go(f"https://{edge.pools['admin'].host_header}/console/")
    await page.type("#login-key", USER)
    await page.press("Enter", 13)
    await page.until(shows("no admin key", "#login-error"))
    await page.run("document.getElementById('login-key').value = ''")
    await page.type("#login-key", ADMIN)
    await page.press("Enter", 13)
    await page.until(LIVE)
    assert 0 < await page.run(CARRIED) < 200 << 10
    assert await page.run("document.cookie") == "", "no script reads the session's cookie"
    assert ADMIN not in await page.run("JSON.stringify(localStorage) + document.documentElement.outerHTML")
    await page.until("document.querySelectorAll('.map .region.up').length === 3")
    await page.until("document.querySelectorAll('#content tbody tr').length >= 3")

    await page.click('.side a[href="#models"]')
    await page.until(shows(MODEL))
    half = served(
        tier=Tier.ORIGIN,
        state=RolloutState.REPLICATED,
        progress=Progress("replicate", 40.0, 3.0),
        bytes=5_000_000,
    )
    fra.say(fra.models | {"acme/pushed": half})
    await page.until(shows("replicate 40 %"))
    fra.say(fra.models | {"acme/pushed": served(bytes=5_000_000)})
    await page.until(f"{shows('acme/pushed')} && {shows('resident')} && !{shows('replicate')}")

    await page.click('.side a[href="#chat"]')
    await page.until(
        "[...document.querySelectorAll('#chat-region option')].some((each) => each.value === 'fra')"
    )
    await page.resize(1280, 900)
    fields = "[...document.querySelectorAll('.fields input, .fields select, .fields > button')]"
    tops = await page.run(f"{fields}.map((e) => e.getBoundingClientRect().top)")
    assert len(tops) == 5
    assert max(tops) - min(tops) < 0.5, "its fields stand in one line"
    await page.run("document.getElementById('chat-region').value = 'fra'")
    await page.type("#chat-text", "Where?")
    await page.press("Enter", 13)
    await page.until("document.querySelector('.answered details')")
    assert " ".join(WORDS) in await page.text(".answered .text")
    said = await page.text(".answered .way")
    assert "host" in said
    assert "fra" in said
    assert "7 tokens" in said
    head, body = fra.requests[-1]
    assert json.loads(body)["messages"] == [{"role": "user", "content": "Where?"}]
    assert head.get("x-nearfield-tenant") == "ops"

    await page.click('.side a[href="#requests"]')
    await page.until("document.querySelectorAll('.requests .request').length === 1")
    await page.click(".requests .request button")
    await page.until(f"{shows('prefill')} && {shows('attach')} && {shows('edge to region and back')}")
    assert "Where?" not in await page.text("#content")
    for width in PHONES:
        await page.resize(width, 780, mobile=True)
        for name in ("overview", "models", "chat", "keys", "reports", "requests"):
            await page.run(f"location.hash = '#{name}'")
            await page.until(opened(name))
            assert await page.run(CUT) == [], f"{name} at {width} px"
            assert await page.run(OVER) == []
    await page.ask("Emulation.clearDeviceMetricsOverride")

    await page.click('.side a[href="#overview"]')
    await fra.kill()
    await page.until(f"document.querySelector('.map .region.down') && {shows('out of reach', '.map')}")
    await page.until("document.querySelector('td.state.down')")
    await page.click("#logout")
    await page.until("!document.getElementById('login').hidden")
    assert await page.run("fetch('/console/session').then((answer) => answer.status)") == 401


async def test_what_regions_and_models_say_is_text(world, page):
    """Names, errors and answers are shown as they are, and nothing of them is run."""
    edge = await world()
    edge.regions["iad"].script = edge.regions["fra"].script = chats(XSS)
    await logged_in(page, edge)
    fault = ModelFault("bad_header", XSS, XSS)
    edge.regions["fra"].say(
        {"acme/bad": served(state=RolloutState.FAILED, revision="", error=fault)} | edge.regions["fra"].models
    )
    await page.click('.side a[href="#models"]')
    await page.until(shows("acme/bad"))
    await page.click(".models button")
    await page.until(f"{shows(f'{XSS} {XSS}')}")
    await page.click('.side a[href="#chat"]')
    await page.type("#chat-text", XSS)
    await page.press("Enter", 13)
    await page.until("document.querySelector('.answered details')")
    assert XSS in await page.text(".answered .text")
    assert await page.run("window.hurt === undefined && !document.querySelector('#content img')")
    inline = "document.head.append(Object.assign(document.createElement('script'), {textContent: 'window.hurt = 2'}))"
    assert "TrustedScript" in (await page.failure(inline))
    assert "TrustedHTML" in (await page.failure(f"document.body.innerHTML = {json.dumps(XSS)}"))
    page.forgive("Trusted")


async def test_it_comes_back_by_itself_when_its_edge_does(world, page):
    edge = await world(names=("iad",))
    await logged_in(page, edge)
    port = edge.pools["admin"].port
    await edge.stop_edge()
    await page.until("document.getElementById('live').className.includes('lost')")
    edge.keep(admin=port)
    await edge.start_edge()
    await page.until("!document.getElementById('login').hidden")  # sessions are in the edge's memory
    page.forgive("ERR_", "401")


async def test_it_is_used_by_keyboard_and_read_by_screen_readers(world, page):
    edge = await world()
    await logged_in(page, edge)
    await page.until("document.querySelector('.map .region.up')")
    focused = []
    await page.ask("Page.reload")  # who is logged in stays so
    await page.until(f"performance.now() < 20000 && document.querySelector('.map .region.up') && {LIVE}")
    for _ in range(14):
        await page.press("Tab", 9)
        focused.append(
            await page.run("(document.activeElement.innerText || document.activeElement.id || '').trim()")
        )
    for wanted in ("Skip to content", "Log out", "Models", "Reports"):
        assert wanted in focused
    await page.run("location.hash = '#keys'")
    await page.until(f"{opened('keys')} && document.activeElement.innerText === 'Keys'")
    await page.until("document.querySelector('#key-tenant')")
    unnamed = """[...document.querySelectorAll('input, select, textarea, button')].filter((e) => e.checkVisibility()
        && !(e.labels && e.labels.length) && !e.getAttribute('aria-label') && !e.innerText.trim())
        .map((e) => e.outerHTML)"""
    for name in ("overview", "models", "requests", "chat", "keys", "reports"):
        await page.run(f"location.hash = '#{name}'")
        await page.until(opened(name))
        assert await page.run(unnamed) == []
        head = "document.querySelector('.top').getBoundingClientRect().bottom"
        assert await page.run(f"document.querySelector('#content h1').getBoundingClientRect().top >= {head}")
        assert (
            await page.run(
                "document.querySelectorAll('h1').length - document.querySelectorAll('.login h1').length"
            )
            == 1
        )
    assert await page.run("['header', 'nav', 'main'].every((e) => document.querySelector(`#app ${e}`))")


async def test_words_can_be_read_on_what_is_behind_them(world, page):
    """WCAG's 4.5 to 1 for every text of every page, light and dark."""
    edge = await world()
    edge.regions["iad"].script = chats(*WORDS)
    await logged_in(page, edge)
    await edge.ask(body=BODY)
    await page.until("document.querySelector('#content .request')")
    for dark in (False, True):
        await page.dress(dark=dark)
        for name in ("overview", "models", "requests", "chat", "keys", "reports"):
            await page.run(f"location.hash = '#{name}'")
            await page.until(opened(name))
            assert (
                await page.run((FOLDER.parent.parent.parent / "tests/edge/console/contrast.js").read_text())
                == []
            )


async def test_the_other_edges_of_the_fleet_are_on_the_map(world, another, page):
    """Two of three speak: one carries requests and then dies, one was never there."""
    first = await world(names=("iad", "fra", "nrt"), others=frozenset({"two", "never"}))
    second = await another(first, "two")
    await logged_in(page, first)
    await page.until("document.querySelectorAll('.map .edge.other').length === 2")
    await page.until("document.querySelector('.map .edge.other.up')")
    for _ in range(5):
        assert (await second.ask(body=BODY))[0] == 200
    await page.until(r"/two[\s\S]*0\.\d answers\/s/.test(document.querySelector('.map').textContent)")
    await page.until("document.querySelector('.map .flow.other.pace1')")
    assert "at 2 edges" in await page.text(".tiles")
    rows = "[...document.querySelectorAll('[aria-label=Edges] tbody tr')]"
    for name, word in (("test", "this one"), ("never", "never")):
        assert word in await page.run(f"{rows}.find((e) => e.innerText.startsWith('{name}')).innerText")
    await page.until("document.getElementById('map-words').textContent.includes('edge two is up')")

    await second.stop_edge()
    await page.until("document.querySelectorAll('.map .edge.other.down').length === 2")
    await page.until(r"/silent for \d+ s/.test(document.querySelector('.map').textContent)")
    assert await page.run("document.querySelectorAll('.map .flow.other:not(.down)').length") == 0
    for dark in (False, True):
        await page.dress(dark=dark)
        assert (
            await page.run((FOLDER.parent.parent.parent / "tests/edge/console/contrast.js").read_text()) == []
        )


PAINTED_MS, MOST_VISITS = 1000, 10
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


async def test_the_first_paint_takes_less_than_a_second(world, chromium, capsys):
    """From loopback, in browsers that have none of its files; what else the machine does only adds to the least."""
    edge = await world()
    found = []
    while len(found) < count(1, 5) or (min(found)[0] >= PAINTED_MS and len(found) < MOST_VISITS):
        async with browser.visit(chromium) as page:
            await page.go(f"https://{edge.pools['admin'].host_header}/console/")
            found.append((await page.until(PAINT), await page.run(CARRIED)))
    paints = sorted(paint for paint, _ in found)
    with capsys.disabled():
        most = max(carried for _, carried in found)
        print(f"\nfirst paint after {', '.join(f'{each:.0f}' for each in paints)} ms; {most:,} bytes")
    assert paints[0] < PAINTED_MS, paints
