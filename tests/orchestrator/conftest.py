"""What several tests of the orchestrator stand on."""

import pytest


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
