"""Who may read a role's figures: nobody unless an address is given, this machine on its own, a key from elsewhere."""

import socket
import time

import pytest

from wire.dial import Pool
from wire.figures.metrics import Metrics
from wire.figures.process import add_process_figures
from wire.scrape import Scrape, is_loopback, scraped

KEY = "a" * 64


def figures():
    metrics = Metrics()
    metrics.counter("nf_total", "Things.").add(3)
    return metrics


async def ask(host, port, path="/metrics", method="GET", name=None, **headers):
    pool = Pool(host, port)
    said = [("host", name)] if name else []
    said += headers.items()
    try:
        answer = await pool.request(method, path, tuple(said))
        return answer.head.status, (await answer.read()).decode()
    finally:
        await pool.close()


async def test_nobody_listens_without_an_address():
    async with scraped(None, figures()) as port:
        assert port == 0


async def test_this_machine_may_read_and_nothing_else_is_there():
    async with scraped(Scrape("127.0.0.1", 0, KEY), figures()) as port:
        status, page = await ask("127.0.0.1", port)
        others = [await ask("127.0.0.1", port, "/"), await ask("127.0.0.1", port, method="POST")]

    assert (status, page) == (200, "# HELP nf_total Things.\n# TYPE nf_total counter\nnf_total 3\n")
    assert [status for status, _ in others] == [404, 404]
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.1", port), 1):
        pass


async def test_a_page_of_a_browser_is_not_led_here_by_a_name_of_its_own():
    async with scraped(Scrape("127.0.0.1", 0, KEY), figures()) as port:
        assert (await ask("127.0.0.1", port, name="localhost"))[0] == 200
        status, page = await ask("127.0.0.1", port, name="evil.example")

    assert status == 400
    assert "nf_total" not in page


@pytest.mark.parametrize("shown", [None, "Bearer ", f"Bearer {KEY[1:]}", "Basic abc", f"Bearer {KEY}x"])
async def test_on_any_other_address_a_reader_without_the_key_hears_nothing(shown):
    async with scraped(Scrape("0.0.0.0", 0, KEY), figures()) as port:
        known = {} if shown is None else {"authorization": shown}
        status, page = await ask("127.0.0.1", port, **known)

    assert status == 401
    assert "nf_total" not in page
    assert KEY not in page


async def test_on_any_other_address_the_key_opens_it():
    async def page():
        return b"nf_total 4\n"

    async with scraped(Scrape("0.0.0.0", 0, KEY), page) as port:
        assert await ask("127.0.0.1", port, authorization=f"Bearer {KEY}") == (200, "nf_total 4\n")
    assert KEY not in repr(Scrape("0.0.0.0", 0, KEY))


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True)]
    + [(each, False) for each in ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "")],
)
def test_which_addresses_are_this_machines_own(host, local):
    assert is_loopback(host) is local


def test_a_process_says_what_it_takes_of_the_machine():
    metrics = Metrics()
    add_process_figures(metrics, "store", "iad")
    lines = (line.rsplit(" ", 1) for line in metrics.page().decode().splitlines() if line[0] != "#")
    told = {series: float(value) for series, value in lines}

    assert told['nearfield_role_info{role="store",name="iad"}'] == 1
    assert told["process_resident_memory_bytes"] > 1e6
    assert told["process_virtual_memory_bytes"] >= told["process_resident_memory_bytes"]
    assert told["process_cpu_seconds_total"] > 0
    assert 0 < told["process_open_fds"] < 100_000
    assert time.time() - 3600 * 24 < told["process_start_time_seconds"] <= time.time()
