"""What the API server of each version of Kubeflow Pipelines makes of a package: unknown fields are refused.

The server parses with Go's ``protojson``, which refuses a field that its protos do not have. Those protos are in the
wheels ``kfp-pipeline-spec`` and ``kfp-kubernetes`` of the same version, as descriptors: they are read from there, and
nothing of an older version is imported.
"""

import ast
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, json_format, message_factory, struct_pb2
from google.rpc import status_pb2
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

# Version of the server: the releases of kfp-pipeline-spec and kfp-kubernetes of its time.
RELEASES = {
    "2.5": ("0.6.0", "1.5.0"),
    "2.14": ("2.14.6", "2.14.6"),
    "2.15": ("2.15.2", "2.15.2"),
    "2.16": ("2.16.1", "2.16.1"),
    "2.17": ("2.17.3", "2.17.0"),
}
FILES = ("pipeline_spec_pb2.py", "kubernetes_executor_config_pb2.py")


class Specs:
    """The messages of one version."""

    def __init__(self, *files: descriptor_pb2.FileDescriptorProto) -> None:
        pool = descriptor_pool.DescriptorPool()
        seen = set()

        def add(file):  # a pool wants what a file imports before the file
            for dependency in file.dependencies:
                add(dependency)
            if file.name not in seen:
                seen.add(file.name)
                pool.AddSerializedFile(file.serialized_pb)

        for known in (duration_pb2, struct_pb2, status_pb2):
            add(known.DESCRIPTOR)
        for file in files:
            pool.Add(file)
        self.pool = pool

    def parse(self, name, given):
        """``given`` as the message ``name``; raises :class:`json_format.ParseError` for a field that it has not."""
        message = message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))
        return json_format.ParseDict(given, message())

    def refused(self, spec, platform):
        """What the server says of the two documents of a package, or None where it takes them."""
        executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        try:
            self.parse("ml_pipelines.PipelineSpec", spec)
            self.parse("ml_pipelines.PipelineDeploymentConfig", spec["deploymentSpec"])
            self.parse("ml_pipelines.PlatformSpec", platform)
            for config in executors.values():
                self.parse("kfp_kubernetes.KubernetesExecutorConfig", config)
        except json_format.ParseError as error:
            return f"invalid v2 pipeline spec: {error}"
        return None


def installed() -> Specs:
    """The messages of the installed version."""
    files = [descriptor_pb2.FileDescriptorProto() for _ in FILES]
    for file, module in zip(files, (pipeline_spec_pb2, kubernetes_executor_config_pb2), strict=True):
        module.DESCRIPTOR.CopyToProto(file)
    return Specs(*files)


def downloaded(version: str, folder: Path) -> Specs:
    """The messages of the server's ``version`` (a key of ``RELEASES``), from the package index by way of ``folder``."""
    names = [
        f"{name}=={one}" for name, one in zip(("kfp-pipeline-spec", "kfp-kubernetes"), RELEASES[version], strict=True)
    ]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--dest",
        str(folder),
    ]
    subprocess.run([*pip, *names], check=True)
    sources = {}
    for path in folder.iterdir():
        sources |= dict(_files(path))
    return Specs(*(_descriptor(sources[name]) for name in FILES))


def _files(archive: Path):
    """(name, text) of the generated modules in a wheel or a source distribution."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            yield from (
                (Path(name).name, wheel.read(name).decode()) for name in wheel.namelist() if name.endswith(FILES)
            )
        return
    with tarfile.open(archive) as distribution:
        for member in distribution:
            if member.name.endswith(FILES):
                yield Path(member.name).name, distribution.extractfile(member).read().decode()


def _descriptor(source: str) -> descriptor_pb2.FileDescriptorProto:
    """The file descriptor that a generated module registers, taken from its text."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    (call,) = [one for one in calls if isinstance(one.func, ast.Attribute) and one.func.attr == "AddSerializedFile"]
    return descriptor_pb2.FileDescriptorProto.FromString(ast.literal_eval(call.args[0]))
