"""Two stores: a home, and one far from it to which the bucket `models` is another region's, with a line between."""

import shutil
from contextlib import contextmanager

from tests.storage.link import Link
from tests.storage.stores import ADMIN, ROOT_KEY, Endpoint, Raw, StoreThread, memory_folder


class Pair:
    """`home` and `far` are connections; `link` is the line; the far store can be started again over its folder."""

    def __init__(self, **far) -> None:
        self.home_store = StoreThread(memory_folder(), 1)
        self.link = Link(self.home_store)
        self._settings = far
        self._far_folder = memory_folder()
        self.home = Raw(self.home_store.endpoint())
        assert self.home.send("PUT", "/models").status == 200
        self.start_far()

    def start_far(self) -> None:
        origin = Endpoint(self.link.url, ADMIN.id, ADMIN.secret(ROOT_KEY))
        self.far_store = StoreThread(self._far_folder, 1, homes={"models": origin}, **self._settings)
        self.far = Raw(self.far_store.endpoint())

    def stop_far(self) -> None:
        self.far.__exit__()
        self.far_store.stop()

    @property
    def copies(self):
        return self._far_folder / "copies"

    def close(self) -> None:
        self.link.flow.set()
        self.stop_far()
        self.link.stop()
        self.home.__exit__()
        self.home_store.stop()
        shutil.rmtree(self._far_folder)
        shutil.rmtree(self.home_store.settings.root)


@contextmanager
def pair(**far):
    made = Pair(**far)
    try:
        yield made
    finally:
        made.close()
