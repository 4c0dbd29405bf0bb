"""The shell never touches CUDA: a context does not survive a fork. On a GPU, `test_gpu.py` looks at a real shell."""

import ast
from pathlib import Path

import torch

from inference.zygote import ENVIRONMENT
from tests.syntax import nodes_of, tree_of

ROOM = Path(__file__).resolve().parents[2] / "inference"
SPEAKS = "engine/gpu/device.py"


def names_cuda(path):
    """Whether a file uses `torch.cuda`, in any spelling that syntax shows."""
    return any(
        (isinstance(node, ast.Attribute) and node.attr in {"cuda", "_cuda"})
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch.cuda"))
        or (isinstance(node, ast.Import) and any(each.name.startswith("torch.cuda") for each in node.names))
        for node in nodes_of(path)
    )


def test_only_the_device_file_speaks_to_cuda():
    """Which nothing calls before a fork: what it does at import is define."""
    found = {str(path.relative_to(ROOM)) for path in ROOM.rglob("*.py") if names_cuda(path)}
    assert found == {SPEAKS}
    tree = tree_of(ROOM / SPEAKS)
    assert not [node for node in tree.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]


def test_a_look_for_gpus_leaves_cuda_alone(monkeypatch):
    """transformers asks whether there is one while it is imported; torch then asks NVML, if it is told to."""
    monkeypatch.delenv("PYTORCH_NVML_BASED_CUDA_CHECK", raising=False)
    assert not torch.cuda._nvml_based_avail()
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert torch.cuda._nvml_based_avail()
