"""Upload of a release against boto3's own parallel upload of the same file, to a real S3 server on this machine.

``python benchmarks/export.py --output benchmarks/results/export.json`` starts the server of the slow tests and prints
megabytes a second of each, in turns, and the memory that it took at most. Half a minute.
"""

import argparse
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from boto3.s3.transfer import TransferConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from s3_server import Server

from srpo.core.storage.files import sha256_of, write_json
from srpo.core.storage.s3 import PARALLEL, client
from srpo.core.storage.upload import PART, upload


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="megabytes of the file")
    parser.add_argument("--turns", type=int, default=3, help="uploads of each kind")
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.bin"
        block = os.urandom(1 << 20)
        with path.open("wb") as file:
            for _ in range(args.size):
                file.write(block)
        server = Server(Path(folder) / "swift")
        server.start()
        try:
            os.environ.update(server.environment())
            bucket, sha256, seconds = server.bucket(), sha256_of(path), {"boto3": [], "srpo": []}
            same = TransferConfig(multipart_chunksize=PART, max_concurrency=PARALLEL)
            for turn in range(args.turns):
                start = time.perf_counter()
                client().upload_file(str(path), bucket, f"boto3-{turn}", Config=same)
                seconds["boto3"].append(time.perf_counter() - start)
                start = time.perf_counter()
                upload(f"s3://{bucket}/srpo-{turn}", path, path.stat().st_size, sha256)
                seconds["srpo"].append(time.perf_counter() - start)
        finally:
            server.stop()
    rates = {name: args.size / statistics.median(values) for name, values in seconds.items()}
    ratio, peak = rates["srpo"] / rates["boto3"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| | MiB/s, median of {args.turns} |\n|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.0f} |")
    print(f"srpo / boto3: {ratio:.2f}; most memory of this process: {peak:.0f} MiB")
    where = {"system": platform.system(), "python": platform.python_version(), "boto3": metadata.version("boto3")}
    found = {"machine": where | {"machine": platform.machine()}, "seed": "random bytes", "mebibytes": args.size}
    found |= {"mib_per_second": rates, "ratio": ratio, "peak_mib": peak}
    write_json(args.output, found)


if __name__ == "__main__":
    main()
