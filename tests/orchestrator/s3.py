"""A real S3 server in this process, that can be stopped and started again."""

import logging
import urllib.request

import boto3
from moto.server import ThreadedMotoServer


class Bucket:
    """One bucket on a server of its own."""

    url = "s3://team/sweeps"

    def __init__(self):
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        self._server.start()
        _, self.port = self._server.get_host_and_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/moto-api/reset", method="POST")).close()

    def client(self):
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.endpoint, **keys)

    def names(self, prefix=""):
        """The keys of all objects."""
        pages = self.client().list_objects_v2(Bucket="team", Prefix=prefix)
        return [entry["Key"] for entry in pages.get("Contents", [])]

    def stop(self):
        self._server.stop()

    def start(self):
        """The same server again, with what was in it."""
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port)
        self._server.start()
