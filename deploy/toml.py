"""Values as TOML has them, for the files that we write: of a string, what JSON has, but for two things.

TOML knows no half of a surrogate pair, which is how JSON writes what needs two, and wants DEL escaped.
"""

import json


def value(given: object) -> str:
    """A string, number, truth or list of such."""
    return json.dumps(given, ensure_ascii=False).replace("\x7f", "\\u007f")


def pair(key: str, given: object) -> str:
    """`key = value`."""
    return f"{key} = {value(given)}"
