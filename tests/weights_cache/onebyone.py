"""What scripted readers share: a run of extents is read one by one."""


class OneByOne:
    """A RangeReader but for `read_into`, which is the test's."""

    def read_run(self, path, offset, num_bytes, views):
        for view in views:
            self.read_into(path, offset, view)
            offset += len(view)

    def close(self):
        pass
