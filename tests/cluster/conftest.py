"""One Ray cluster with a token for the tests of a module."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.local_cluster import LocalCluster
from tests.guardian import inside


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    scratch = Path(tempfile.mkdtemp(prefix="rc-"))  # not pytest's: Ray's sockets need a short path
    cluster = LocalCluster(scratch)
    try:
        cluster.start_head()
        yield cluster
    finally:
        cluster.close()
    assert inside(scratch) == []  # Ray's agents too are gone
