"""What several tests of the orchestrator stand on."""

import functools

import pytest

from orchestrator.engine import environment_check


@pytest.fixture(scope="session", autouse=True)
def _own_trainers_read_once():
    """The source of these tests does not change while they run, and each of the thousands of engines that they start
    would read all of it."""
    plain = environment_check.code_version
    once = functools.cache(plain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            environment_check, "code_version", lambda name: (once if name.startswith("tests.") else plain)(name)
        )
        yield


@pytest.fixture
def bucket(monkeypatch):
    """A bucket on a real S3 server that $MEANSWEEP_STORAGE names."""
    import s3fs

    from tests.orchestrator.s3 import Bucket

    found = Bucket()
    variables = {
        "MEANSWEEP_STORAGE": found.url,
        "AWS_ENDPOINT_URL": found.endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)  # ours are what is tested
    s3fs.S3FileSystem.clear_instance_cache()
    found.client().create_bucket(Bucket="team")
    yield found
    found.stop()
    s3fs.S3FileSystem.clear_instance_cache()
