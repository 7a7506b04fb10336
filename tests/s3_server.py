"""A real S3 server on this machine: OpenStack Swift with its S3 face, four processes on loopback.

It checks signatures and checksums, keeps open multipart uploads over a kill, and answers as servers do: what moto only
plays. It comes with ``pip install srpo[real]``.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import boto3
import botocore.exceptions
import pytest

SERVERS = {
    "account": "account-server",
    "container": "container-server",
    "object": "object-server",
    "proxy": "catch_errors cache listing_formats bulk s3api tempauth slo versioned_writes symlink proxy-server",
}
KEYS = {"AWS_ACCESS_KEY_ID": "test:tester", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
READER = {"AWS_ACCESS_KEY_ID": "test:reader", "AWS_SECRET_ACCESS_KEY": "reading"}
FILTERS = """
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{nothing}
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
s3_acl = true
min_segment_size = 1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
user_test_reader = reading
[filter:slo]
use = egg:swift#slo
[filter:versioned_writes]
use = egg:swift#versioned_writes
[filter:symlink]
use = egg:swift#symlink
"""
OPEN = """
import sys
from swift.common import direct_client, ring, utils
folder, bucket = sys.argv[1:]
utils.set_swift_dir(folder)
part, nodes = ring.Ring(folder, ring_name="container").get_nodes("AUTH_test", bucket)
direct_client.direct_post_container(nodes[0], part, "AUTH_test", bucket, headers={"X-Container-Read": ".r:*"})
"""


class Server:
    """Swift in a folder; :meth:`start` and :meth:`stop` at will, the data stays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes = []
        self.ports = dict(zip([*SERVERS, "nothing"], free_ports(len(SERVERS) + 1), strict=True))
        self.endpoint = f"http://127.0.0.1:{self.ports['proxy']}"
        bin_folder = Path(sys.executable).parent
        (folder / "devices" / "d1").mkdir(parents=True)
        (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_prefix = a\nswift_hash_path_suffix = b\n")
        for name in ("account", "container", "object"):
            builder = folder / f"{name}.builder"
            ring = str(bin_folder / "swift-ring-builder"), str(builder)
            device = f"r1z1-127.0.0.1:{self.ports[name]}/d1"
            for step in (["create", "6", "1", "1"], ["add", device, "1"], ["rebalance"]):
                subprocess.run([*ring, *step], check=True, stdout=subprocess.DEVNULL)
        for name, pipeline in SERVERS.items():
            app = pipeline.split()[-1].removesuffix("-server")
            (folder / f"{name}.conf").write_text(
                f"[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {self.ports[name]}\nworkers = 0\nmount_check = false\n"
                f"fallocate_reserve = 0\nswift_dir = {folder}\ndevices = {folder / 'devices'}\nuser = {user()}\n"
                f"[pipeline:main]\npipeline = {pipeline}\n"
                f"[app:{app}-server]\nuse = egg:swift#{app}\naccount_autocreate = true\n"
                + (FILTERS.format(**self.ports) if name == "proxy" else "")
            )

    def start(self) -> None:
        for name in SERVERS:
            command = [str(Path(sys.executable).parent / f"swift-{name}-server"), str(self.folder / f"{name}.conf")]
            log = (self.folder / f"{name}.log").open("ab")
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                self.client().list_buckets()
                return
            if time.monotonic() > deadline or any(process.poll() is not None for process in self.processes):
                logs = "\n".join((self.folder / f"{name}.log").read_text()[-2000:] for name in SERVERS)
                raise RuntimeError(f"the S3 server did not start:\n{logs}")
            time.sleep(0.2)

    def stop(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes = []

    def client(self):
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )

    def bucket(self) -> str:
        """A new, empty bucket."""
        name = f"b-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    def readable_by_all(self, bucket: str) -> str:
        """The web address of a bucket that anybody may read from now on, without a signature (but not list).

        In Swift that is its own address of the bucket and its own rule, where other servers have a bucket policy. The
        rule goes to the server behind the proxy: the proxy takes it from who has a token, and tokens need memcached.
        """
        subprocess.run([sys.executable, "-c", OPEN, str(self.folder), bucket], check=True)
        return f"{self.endpoint}/v1/AUTH_test/{bucket}"

    def environment(self, endpoint: str = "") -> dict[str, str]:
        """The variables by which boto3 finds it."""
        return {**KEYS, "AWS_ENDPOINT_URL_S3": endpoint or self.endpoint}


def user() -> str:
    import getpass

    return getpass.getuser()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def swift_is_missing() -> bool:
    return shutil.which("swift-proxy-server", path=str(Path(sys.executable).parent)) is None


@pytest.fixture(scope="session")
def s3_server():
    """The server, for the whole session; in memory where there is room, since it waits for the disk at every write."""
    if swift_is_missing():
        pytest.skip("the S3 server is not installed: pip install 'srpo[real]'")
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="srpo-swift-", dir=memory if takes_attributes(memory) else None))
    server = Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def takes_attributes(folder: Path) -> bool:
    """Whether files in ``folder`` can have the extended attributes that Swift keeps its metadata in."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            os.setxattr(file.name, "user.srpo", b"x" * 1000)
        return shutil.disk_usage(folder).free > 2 << 30
    except OSError:
        return False
