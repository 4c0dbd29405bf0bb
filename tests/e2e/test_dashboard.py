"""Each query of the Grafana dashboard, against what a running platform shows, and in a real Prometheus."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from deploy import dashboard
from deploy.commands.scrape import said
from deploy.figures import registries
from deploy.fleet import free_ports
from tests.e2e.platform import CHAT, RunningPlatform, questions, wait_for
from tests.e2e.test_telemetry import pages
from tests.evidence import IS_WHOLE

QUERIES = list(dashboard.queries())
TARGETS = {"job", "instance", "role", "name", "region", "le"}
"""Labels that the configuration of `nearfield config scrape` gives, and those of buckets."""
FAULTS = {"Refused, by code", "Set back and sent elsewhere", "Roles that do not answer", "Spans"}
"""Panels that are empty while all is well and nothing is traced."""
FILE = Path(dashboard.__file__).parents[1] / "docs" / "grafana" / "nearfield.json"
NAME = re.compile(r"\b((?:nearfield|gen_ai|process)_[a-z0-9_]+|up)\b(?=\{|\)|\[| )")


def known() -> dict[str, set[str]]:
    """Every series that roles can have, with its labels; `up` is Prometheus' own."""
    found: dict[str, set[str]] = {"up": set()}
    for metrics in registries().values():
        for name, kind, labels, _ in metrics.listed():
            ends = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            found |= {name + end: {*found.get(name + end, ()), *labels} for end in ends}
    return found


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_every_query_names_series_and_labels_that_there_are(title: str, query: str) -> None:
    """Also those of the faults that no test makes: against what the code can count."""
    series, names = known(), set(NAME.findall(query))
    labels = {each for part in re.findall(r"by \(([^)]*)\)", query) for each in part.split(", ")}
    labels |= set(re.findall(r"([a-z_]+)=~?\"", query))

    assert names, title
    assert names <= series.keys()
    assert labels <= TARGETS.union(*(series[name] for name in names)), title


def test_the_file_is_what_the_table_says() -> None:
    """Made anew with `python -m deploy.reference`; panels do not overlap and have an id each."""
    written = json.loads(FILE.read_text())
    places = {
        (x, y)
        for panel in written["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    }

    assert FILE.read_text() == dashboard.page()
    assert len({panel["id"] for panel in written["panels"]}) == len(written["panels"])
    assert len(places) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in written["panels"])


def test_a_running_platform_shows_what_the_dashboard_asks_for(platform: RunningPlatform) -> None:
    shown = {
        line.split(" ")[2]
        for page in pages(platform).values()
        for line in page.splitlines()
        if "# TYPE" in line
    }
    asked = {name for _, query in QUERIES for name in NAME.findall(query)} - {"up"}

    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} <= shown


@pytest.fixture
def prometheus(platform: RunningPlatform, tmp_path: Path) -> Iterator[str]:
    """A real one, which was told what `nearfield config scrape` says; its URL."""
    (port,) = free_ports(1)
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 250ms, scrape_timeout: 250ms}\n"
        + said(platform.state / "nearfield.toml", only_key=False)
    )
    words = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/tsdb"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*words, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def asked(url: str, query: str) -> dict[str, Any]:
    whole = query.replace("$__rate_interval", "1m").replace("$region", ".*")
    return dict(httpx2.get(f"{url}/api/v1/query", params={"query": whole}, timeout=20).json())


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_prometheus_own_tool_reads_every_query(tmp_path: Path) -> None:
    """As expressions of rules, without a server."""
    whole = [
        expression.replace("$__rate_interval", "1m").replace("$region", ".*") for _, expression in QUERIES
    ]
    rules = [{"record": f"query:{number}", "expr": each} for number, each in enumerate(whole)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    words = ["promtool", "check", "rules", str(tmp_path / "rules.yml")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(QUERIES)} rules found" in done.stdout


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
@pytest.mark.skipif(not IS_WHOLE, reason="some ten seconds: `make evidence`")
def test_prometheus_answers_every_query_with_figures(platform: RunningPlatform, prometheus: str) -> None:
    """A cold and a warm request while it looks: every panel but those of faults has lines."""

    def looks() -> bool:
        try:
            found = asked(prometheus, 'up{job="nearfield"} == 1')
        except httpx2.TransportError:
            return False
        return found["status"] == "success" and len(found["data"]["result"]) == 10

    def ask() -> None:
        client = platform.openai("fra")
        message = {"role": "user", "content": questions()[0]["question"]}
        for _ in client.chat.completions.create(model=CHAT, messages=[message], max_tokens=8, stream=True):
            pass

    ask()
    platform.cool("fra", CHAT, "region")
    ask()
    wait_for(looks, 60, "Prometheus reads all ten roles")
    platform.cool("fra", CHAT, "region")
    for _ in range(2):
        ask()

    def empty() -> list[str]:
        found = {(title, query): asked(prometheus, query) for title, query in QUERIES}
        wrong = {query: each for (_, query), each in found.items() if each["status"] != "success"}
        assert wrong == {}
        return [
            title
            for (title, _), each in found.items()
            if not each["data"]["result"] and title not in FAULTS | {"Spans"}
        ]

    wait_for(lambda: not empty(), 60, "figures in every panel", poll_s=1.0)
