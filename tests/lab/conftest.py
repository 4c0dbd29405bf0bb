"""One lab for the session; a line and a row of JSON for each thing it shows."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

REPORT = "NEARFIELD_LAB_REPORT"  # a path for the figures
MUST = "NEARFIELD_LAB"  # `must`: a lab that cannot run is a failure
TOOLS = ("ip", "bird", "birdc", "setpriv", "chrt")


def missing():
    """Why there can be no lab here; empty if there can."""
    if os.geteuid():
        return "the lab needs root"
    lacking = [each for each in TOOLS if shutil.which(each) is None]
    if lacking:
        return f"the lab needs {', '.join(lacking)} (Debian: bird2, iproute2, util-linux)"
    if not Path("/dev/net/tun").exists():
        return "the lab needs /dev/net/tun"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return f"no network namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


@pytest.fixture(scope="session")
def lab():
    reason = missing()
    if reason and os.environ.get(MUST) == "must":
        pytest.fail(f"the lab has to run here: {reason}")
    if reason:
        pytest.skip(reason)
    from tests.lab.world import Lab

    folder = Path(tempfile.mkdtemp(prefix="nearfield-lab-"))
    made = Lab(folder)
    try:
        made.start()
        yield made
    except BaseException:
        sys.stderr.write(logs(folder))
        raise
    finally:
        made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A test that fails shows what every process of the lab said last: the folder goes with the session."""
    report = yield
    made = getattr(item, "funcargs", {}).get("lab")
    if report.failed and made is not None:
        report.sections.append(("the lab's logs", logs(made.folder)))
    return report


def logs(folder):
    """The end of every process's log."""
    said = []
    for path in sorted(folder.glob("*.log")):
        said += [f"== {path.name}", *path.read_text(errors="replace").splitlines()[-8:]]
    return "\n".join(said) + "\n"


@pytest.fixture
def at_rest(lab):
    """The lab with every POP announcing and every region heard."""
    lab.settled()
    return lab


class Figures:
    def __init__(self):
        self.rows = {}

    def __call__(self, name, what, **figures):
        """Print one line, and keep the figures."""
        values = {
            key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()
        }
        self.rows[name] = {"what": what, **values}
        shown = " ".join(f"{key}={value}" for key, value in values.items())
        sys.__stdout__.write(f"\n{name:4} {what}: {shown}\n")
        sys.__stdout__.flush()


@pytest.fixture(scope="session")
def figures():
    kept = Figures()
    yield kept
    if path := os.environ.get(REPORT):
        Path(path).write_text(json.dumps(kept.rows, indent=2) + "\n")


def quantile(values, share):
    return statistics.quantiles(values, n=1000, method="inclusive")[round(share * 1000) - 1]
