"""A revision from a small folder, made without a store."""

from regions.push.commit import Complete, judge
from tests.regions.folders import listed, whole
from tests.regions.pretend_node import FACTS
from tests.regions.test_commit_verdicts import LONG_S, PATIENCE, REGIONS, seen
from weights_cache.model.describe import Source, build_revision, draft


def revision_of(files=None, model="acme/m"):
    files = files or whole()
    verdict = judge(listed(files), seen(files), quiet_for_s=LONG_S, patience=PATIENCE, all_regions=REGIONS)
    assert isinstance(verdict, Complete)
    headers = {file.path: header for file, header in verdict.weights}
    plan = draft(
        model, [Source(each.path, each.size, each.etag, headers.get(each.path)) for each in verdict.files]
    )
    digests = {}
    for path in files:
        scan = plan.scan(path)
        scan.update(files[path])
        digests[path] = scan.finish()
    return build_revision(plan, digests, FACTS, verdict.spec, verdict.left_out)
