"""The house plan's import table: rooms look down only, loads are light, nothing goes in circles.

Two ways to hold it: the syntax of every file, and what really is in `sys.modules` after an import.
"""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.syntax import HOUSE, ROOMS, files, nodes_of, tree_of

# room -> the modules of other rooms that it may import ("room" alone: all of them)
TABLE = {
    "wire": set(),
    "storage": {"wire"},
    "weights_cache": {"storage.client.sdk", "wire"},
    # strict and describe are pure parts of revision: bounded JSON reading, and making one at commit
    # probe is the client's side too: what a store that is not ours can do
    "regions": {"storage.client.sdk", "storage.client.probe", "wire"}
    | {f"weights_cache.model.{each}" for each in ("revision", "header", "plan", "strict", "describe")},
    "inference": {"weights_cache", "regions.map", "wire"},
    "edge": {
        f"regions.{each}"
        for each in ("map", "rows", "places", "choose", "chosen", "settle", "health", "ask", "pops")
    }
    | {"wire"},
    "deploy": {"wire", "storage", "weights_cache", "regions", "inference", "edge"},
    "bench": {"wire", "storage", "weights_cache", "regions", "inference", "edge", "deploy"},
}
# names in annotations only, nothing is loaded: NodeSettings says where the region's store is
TYPES_ONLY = {"inference": {"storage.client.sdk"}}

FORBIDDEN_NAMES = {"manager", "helper", "helpers", "util", "utils", "common", "misc", "base", "core"}
SDKS = ("boto3", "aiobotocore", "botocore", "s3transfer")
HEAVY = ("torch", "transformers")


def module_of(path):
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


EVERY_FILE = [path for room in ROOMS for path in files(room)]
EVERY_MODULE = {module_of(path) for path in EVERY_FILE}


def is_types_only(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


@cache
def imports_of(path):
    """(line, module, whether it is under TYPE_CHECKING, whether inside a function) of each import."""
    found = []

    def visit(node, under_types, nested):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.extend((node.lineno, name, under_types, nested) for name in names_of(node, path))
        elif isinstance(node, ast.stmt | ast.Module | ast.ExceptHandler | ast.match_case):
            types_only, inside = is_types_only(node), isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for child in ast.iter_child_nodes(node):
                visit(child, under_types or (types_only and child in node.body), nested or inside)

    visit(tree_of(path), False, False)
    return found


def imported(path, *, types, nested=True):
    """(line, module) of each import: those under TYPE_CHECKING or the others; `nested`: inside functions too."""
    return [
        (line, name)
        for line, name, under_types, is_nested in imports_of(path)
        if under_types is types and (nested or not is_nested)
    ]


def names_of(node, path):
    """The modules an import statement names, as far as they are known to be modules."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, f"{path}:{node.lineno}: imports are absolute, so that the table can be read"
    whole = [f"{node.module}.{alias.name}" for alias in node.names]
    return [each if each in EVERY_MODULE else node.module for each in whole]


def allowed(module, permitted):
    return any(module == each or module.startswith(f"{each}.") for each in permitted)


def breaches(path, room):
    for types in (False, True):
        permitted = TABLE[room] | (TYPES_ONLY.get(room, set()) if types else set())
        for line, module in imported(path, types=types):
            other = module.partition(".")[0]
            if other in ROOMS and other != room and not allowed(module, permitted):
                yield f"{path.relative_to(HOUSE)}:{line} imports {module}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_the_table_allows(room):
    assert [each for path in files(room) for each in breaches(path, room)] == []


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_tests_and_only_the_roof_imports_examples(room):
    """The demo and the benches push the example models; nothing that serves knows them."""
    strangers = {"tests", "conftest"} if room in {"deploy", "bench"} else {"tests", "conftest", "examples"}
    breaches = [
        f"{path.relative_to(HOUSE)}:{line} {module}"
        for path in files(room)
        for types in (False, True)
        for line, module in imported(path, types=types)
        if module.partition(".")[0] in strangers
    ]

    assert breaches == []


@pytest.mark.parametrize("room", ROOMS)
def test_the_modules_of_a_room_form_no_circle(room):
    """By what is imported when a module is loaded; a name for annotations may look back at its user."""
    graph = {
        module_of(path): {
            module
            for _line, module in imported(path, types=False, nested=False)
            if module in EVERY_MODULE and module != module_of(path)
        }
        for path in files(room)
    }
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as circle:
        pytest.fail(f"a circle of imports: {' -> '.join(circle.args[1])}")


def test_rooms_form_no_circle():
    graph = {room: {each.partition(".")[0] for each in below} for room, below in TABLE.items()}

    assert set(TopologicalSorter(graph).static_order()) == set(ROOMS)


def test_package_files_import_nothing():
    packages = [path for path in EVERY_FILE if path.name == "__init__.py"]
    full = [str(path) for path in packages if any(not isinstance(n, ast.Expr) for n in tree_of(path).body)]

    assert {path.parent.name for path in packages} >= set(ROOMS)
    assert full == []


def words(name):
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_no_file_folder_or_class_has_a_name_that_says_nothing():
    named = [(path, path.stem) for path in EVERY_FILE] + [(path, path.parent.name) for path in EVERY_FILE]
    named += [(p, n.name) for p in EVERY_FILE for n in nodes_of(p) if isinstance(n, ast.ClassDef)]
    empty = [f"{path.relative_to(HOUSE)}: {name}" for path, name in named if words(name) & FORBIDDEN_NAMES]

    assert empty == []


def test_only_the_storage_client_imports_the_sdks():
    users = {
        str(path.relative_to(HOUSE))
        for path in EVERY_FILE
        for types in (False, True)
        for _line, module in imported(path, types=types)
        if module.partition(".")[0] in SDKS
    }

    assert users <= {
        "storage/client/aws.py",
        "bench/starts/fresh.py",
        "bench/starts/peers.py",
    }  # the two of bench are peers that we measure against


LOADED = "import sys, json, {module}; print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"


@cache
def loaded_by(module):
    """Top-level names in sys.modules of a fresh interpreter after `import module`."""
    code = LOADED.format(module=module)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("edge.run", (*HEAVY, *SDKS, "storage", "weights_cache", "inference")),
        ("deploy.up", (*HEAVY, *SDKS)),
        ("storage.run", HEAVY),
        ("regions.run", HEAVY),
        ("inference.api.app", HEAVY),
        ("inference.node", HEAVY),
        ("weights_cache.cache", HEAVY),
    ],
)
def test_what_a_process_loads_is_what_it_needs(module, absent):
    assert loaded_by(module) & set(absent) == set()


def test_importing_the_ground_floor_loads_nothing_of_ours():
    assert loaded_by(", ".join(map(module_of, files("wire")))) & set(ROOMS) == {"wire"}
