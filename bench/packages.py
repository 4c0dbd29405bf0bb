"""Packages of a peer, in a folder of their own beside our environment, which stays as it is."""

import subprocess
import sys
import sysconfig
from pathlib import Path

from bench.servers import Missing

INSTALL_S = 600.0  # a slow line; a cut one fails sooner
DONE = "installed"


def installed(folder: Path, packages: Path) -> Path:
    """The folder to put on a peer's path, with what `packages` lists; filled when it is not there.

    What the packages need, we have already. Raises: Missing with pip's reason.
    """
    if not (folder / DONE).exists():
        _pip(sys.executable, packages, "--upgrade", "--no-deps", "--target", str(folder))
        (folder / DONE).touch()
    return folder


def environment(folder: Path, packages: Path, *, sees_ours: bool = False) -> Path:
    """The `bin` folder of an environment with what `packages` lists and all it needs; made when it is not there.

    One that `sees_ours` takes what we have installed (torch above all) for its own, and downloads only the rest.
    Raises: Missing with pip's reason.
    """
    if not (folder / DONE).exists():
        _run(packages, sys.executable, "-m", "venv", "--clear", str(folder))
        if sees_ours:
            (site,) = folder.glob("lib/python*/site-packages")
            (site / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        _pip(str(folder / "bin" / "python"), packages)
        (folder / DONE).touch()
    return folder / "bin"


def _pip(python: str, packages: Path, *options: str) -> None:
    words = ("install", "--quiet", "--disable-pip-version-check", *options, "-r", str(packages))
    _run(packages, python, "-m", "pip", *words)


def _run(packages: Path, *command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S)
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip()
        raise Missing(f"pip could not install {packages.name}: {said[-300:]}") from error
