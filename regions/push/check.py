"""The rules of a commit for a folder that has not been uploaded yet: what `nearfield push` runs first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regions.push.commit import Bytes, Complete, Patience, Refused, Waiting, judge, wanted
from regions.push.folder import Listed
from weights_cache.model.header import FIRST_READ_BYTES, Header, HeaderError, header_end, read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

NO_PATIENCE = Patience(0.0, 0.0, 0.0)  # nothing more will arrive in a folder that is about to be pushed


def check_folder(
    files: Mapping[str, int], read: Callable[[str, int, int], bytes], all_regions: Sequence[str]
) -> Complete | Refused:
    """What the platform would say to this folder, as far as that shows without transformers.

    Args:
        files: path relative to the folder, with `/` -> size in bytes.
        read: (path, offset, length) -> the bytes there, fewer at the end of the file.
        all_regions: the regions that `model.toml` may name.
    """
    listing = [Listed(path, size, "") for path, size in files.items()]
    small, weights = wanted(listing)
    found = Bytes(
        small={each.path: read(each.path, 0, each.size) for each in small},
        headers={each.path: _header(each, read) for each in weights},
    )
    verdict = judge(listing, found, quiet_for_s=0.0, patience=NO_PATIENCE, all_regions=all_regions)
    if isinstance(verdict, Waiting):
        return Refused(
            "empty_folder", "there is no model in this folder", "name the folder that holds config.json"
        )
    return verdict


def _header(file: Listed, read: Callable[[str, int, int], bytes]) -> Header | HeaderError:
    first = read(file.path, 0, FIRST_READ_BYTES)
    try:
        end = header_end(first, file.size)
        return read_header(first if end <= len(first) else read(file.path, 0, end), file.size)
    except HeaderError as error:
        return error
