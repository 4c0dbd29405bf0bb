"""Walls that a reviewer should not have to look for: what no file of ours may do, read from its syntax."""

import ast
import re

import pytest

from tests.syntax import HOUSE, ROOMS, files, nodes_of, parsed

FILES = [path for room in ROOMS for path in files(room)]

# Bytes from outside must never choose what runs.
EXECUTING_MODULES = {"pickle", "cPickle", "marshal", "dill", "cloudpickle", "shelve", "joblib", "runpy"}
EXECUTING_NAMES = {"eval", "exec", "compile", "__import__"}
EXECUTING_CALLS = {"torch.load", "yaml.load", "yaml.unsafe_load", "os.system", "os.popen", "torch.jit.load"}
EXECUTING_CALLS |= {"torch.hub.load", "numpy.load", "np.load", "pandas.read_pickle"}

# The handlers that catch everything, and why each is right; anywhere else it hides a fault.
WHOLE_HANDLERS = {
    "wire/listener/handling.py": "the one wall between a handler's fault and the other clients",
    "inference/api/text/template_child.py": "a pushed template may raise anything; the child answers and lives on",
}
BROAD = {"Exception", "BaseException"}
SECRET = re.compile(
    r"(^|_)(secrets?|hop_token|root_key|api_key|signing_key|access_key|password|passwd|signature|hmac|mac"
    r"|credentials?|bearer|sig)$"
)


def found(check):
    """`file:line: what` for every node that `check(file, node)` has something to say about."""
    named = [(path, str(path.relative_to(HOUSE))) for path in FILES]
    everything = ((name, node) for path, name in named for node in nodes_of(path))
    return [f"{name}:{node.lineno}: {said}" for name, node in everything if (said := check(name, node))]


def dotted(node):
    """`a.b.c` of a name and its attributes, and of an attribute of anything else its end."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def executing(_name, node):
    if isinstance(node, ast.Import):
        bad = [alias.name for alias in node.names if alias.name.partition(".")[0] in EXECUTING_MODULES]
        return ", ".join(bad)
    if isinstance(node, ast.ImportFrom):
        return node.module if (node.module or "").partition(".")[0] in EXECUTING_MODULES else ""
    if not isinstance(node, ast.Call):
        return ""
    called = dotted(node.func)
    direct = isinstance(node.func, ast.Name) and called in EXECUTING_NAMES
    return called if direct or called in EXECUTING_CALLS else shell_or_trust(node)


def shell_or_trust(node):
    for word in node.keywords:
        off = isinstance(word.value, ast.Constant) and word.value.value is False
        if word.arg in {"shell", "trust_remote_code", "allow_pickle"} and not off:
            return f"{word.arg}={ast.unparse(word.value)}"
    return ""


def test_no_bytes_from_outside_choose_what_runs():
    assert found(executing) == []


def name_of(node):
    """The last name of an expression: `self.hop_token` and `row["secret"]` have one."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return str(node.slice.value)
    if isinstance(node, ast.Call):
        return name_of(node.func)
    return ""


def plain_comparison(_name, node):
    if not isinstance(node, ast.Compare) or not any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
        return ""
    sides = [node.left, *node.comparators]
    if any(isinstance(side, ast.Constant) for side in sides):
        return ""  # empty or not tells nothing that a length would not
    names = [name_of(side) for side in sides if not name_of(side).isupper()]  # capitals name a constant
    secret = any(SECRET.search(name.lower()) for name in names)
    return ast.unparse(node) if secret else ""


def test_secrets_are_never_compared_with_equals():
    """`hmac.compare_digest` takes the same time wherever two secrets differ."""
    assert found(plain_comparison) == []


def caught(node):
    """The names of the exceptions a handler or `suppress` catches."""
    if isinstance(node, ast.Tuple):
        return {name for each in node.elts for name in caught(each)}
    return {name_of(node)} if node is not None else {"BaseException"}


def broad(name, node):
    if isinstance(node, ast.Call) and name_of(node.func) == "suppress":
        return "suppresses everything" if any(caught(each) & BROAD for each in node.args) else ""
    if not isinstance(node, ast.ExceptHandler) or not caught(node.type) & BROAD:
        return ""
    last = node.body[-1]
    raises_on = isinstance(last, ast.Raise) and last.exc is None
    return "" if raises_on or name in WHOLE_HANDLERS else "catches everything"


def test_nothing_catches_everything_but_the_listed_walls():
    assert found(broad) == []


def test_every_listed_wall_is_still_there():
    for name in WHOLE_HANDLERS:
        handlers = [n for n in nodes_of(HOUSE / name) if isinstance(n, ast.ExceptHandler)]
        assert any(caught(each.type) & BROAD for each in handlers), f"{name} needs no exception any more"


def syncing(name, node):
    syncs = isinstance(node, ast.Attribute) and node.attr in {"fsync", "fdatasync", "sync", "F_FULLFSYNC"}
    return node.attr if syncs and name.startswith("storage/") and name != "storage/disk/blobs.py" else ""


def test_only_the_blobs_file_of_the_store_makes_bytes_durable():
    """One file to read to know what an acknowledged write means."""
    assert found(syncing) == []
    assert "fsync" in (HOUSE / "storage" / "disk" / "blobs.py").read_text()


def sdk(name, node):
    modules = []
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        modules = [node.module or ""]
    elif isinstance(node, ast.Call) and name_of(node.func) == "import_module":
        modules = [str(each.value) for each in node.args if isinstance(each, ast.Constant)]
    used = {each.partition(".")[0] for each in modules} & {"boto3", "botocore", "aiobotocore", "s3transfer"}
    allowed = {
        "storage/client/aws.py",
        "bench/starts/fresh.py",
        "bench/starts/peers.py",
    }  # the two of bench are peers that cold starts and loads are raced against
    return ", ".join(sorted(used)) if name not in allowed else ""


def test_only_the_storage_client_speaks_through_an_sdk():
    assert found(sdk) == []


def insecure(_name, node):
    if isinstance(node, ast.Attribute) and node.attr in {"CERT_NONE", "_create_unverified_context"}:
        return node.attr
    if isinstance(node, ast.keyword) and node.arg == "verify" and isinstance(node.value, ast.Constant):
        return "verify=False" if node.value.value is False else ""
    if isinstance(node, ast.Assign) and any(name_of(each) == "check_hostname" for each in node.targets):
        return "check_hostname" if isinstance(node.value, ast.Constant) and not node.value.value else ""
    return ""


def test_no_client_skips_the_check_of_a_certificate():
    assert found(insecure) == []


@pytest.mark.parametrize(
    ("check", "bad", "good"),
    [
        (executing, "import pickle", "import json"),
        (executing, "from marshal import loads", "from json import loads"),
        (executing, "eval(text)", "model.eval()"),
        (executing, "torch.load(path)", "json.load(file)"),
        (executing, "subprocess.run(line, shell=True)", "subprocess.run(line, shell=False)"),
        (executing, "f(trust_remote_code=flag)", "f(trust_remote_code=False)"),
        (plain_comparison, "given == self.hop_token", "hmac.compare_digest(given, self.hop_token)"),
        (plain_comparison, "row['secret'] != sent", "token_id == eos"),
        (plain_comparison, "a.signature(x) == b", "secret == ''"),
        (plain_comparison, "sent == api_key", "header == _TRAILER_SIGNATURE"),
        (broad, "try: f()\nexcept Exception: pass", "try: f()\nexcept ValueError: pass"),
        (broad, "try: f()\nexcept (OSError, BaseException): pass", "try: f()\nexcept BaseException: raise"),
        (broad, "try: f()\nexcept: pass", "try: f()\nexcept (OSError, KeyError): pass"),
        (broad, "with suppress(Exception): f()", "with suppress(OSError): f()"),
        (sdk, "import boto3", "import socket"),
        (sdk, "from botocore.auth import x", "from storage.client.sdk import S3"),
        (insecure, "context.check_hostname = False", "context.check_hostname = True"),
        (insecure, "ssl.CERT_NONE", "ssl.CERT_REQUIRED"),
    ],
)
def test_each_wall_stops_what_it_should_and_nothing_else(check, bad, good):
    """The test of the tests."""
    assert any(check("edge/x.py", node) for node in ast.walk(parsed(bad)))
    assert not any(check("edge/x.py", node) for node in ast.walk(parsed(good)))


def test_a_heads_headers_are_replaced_by_its_own_method_alone():
    """`head._replace(headers=...)` would keep the look-up of the old ones."""

    def check(name, node):
        if name == "wire/http/heads.py" or not isinstance(node, ast.Call):
            return ""
        named = {word.arg for word in node.keywords}
        is_replace = isinstance(node.func, ast.Attribute) and node.func.attr == "_replace"
        return "headers replaced" if is_replace and "headers" in named else ""

    assert found(check) == []
