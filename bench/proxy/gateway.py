"""A gateway for language models written in Python, as its makers ship it: LiteLLM's proxy, one worker, logs off."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.packages import environment
from bench.proxy.stage import Proxy, cores, pinned, until_listening
from bench.servers import free_port, process

PACKAGES = Path(__file__).with_name("peers.txt")
START_S = 120.0  # its imports
KEY = "sk-bench"
_CONFIG = """model_list:
  - model_name: {model}
    litellm_params: {{ model: openai/small, api_base: "http://{origin}/v1", api_key: none }}
litellm_settings: {{ telemetry: false, set_verbose: false, num_retries: 0 }}
general_settings: {{ master_key: {key} }}
"""


def install(cache: Path) -> Path:
    """The environment's `bin` folder; made when it is not there. Raises: Missing with pip's reason."""
    return environment(cache / "gateway-peers", PACKAGES)


@contextmanager
def litellm(cache: Path, folder: Path, origin: str, model: str) -> Iterator[Proxy]:
    """Its proxy before `origin`, serving `model`. Raises: Missing."""
    programs = install(cache)
    folder.mkdir(parents=True)
    port, log, config = free_port(), folder / "log", folder / "config.yaml"
    config.write_text(_CONFIG.format(model=model, origin=origin, key=KEY))
    command = [str(programs / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HOME": str(folder)}
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"
    with process(pinned(command, cores()[0]), log, {**os.environ, **quiet, "PATH": path}) as child:
        until_listening(child, port, log, START_S)
        yield Proxy("LiteLLM's proxy", port, (child.pid,))
