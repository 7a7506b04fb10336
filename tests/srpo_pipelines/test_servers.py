"""Which servers take the packages, by the protos of each version and by what a server says of itself."""

import ir
import kubeflow_specs
import pytest

from srpo.core.contracts.errors import InputError
from srpo_pipelines.cli import main
from srpo_pipelines.servers import NEWEST, OLDEST, VERSIONS, fitting, is_known

PACKAGES = ("align.yaml", "promote.yaml")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The packages for each version."""
    folder = tmp_path_factory.mktemp("compiled")
    for version in VERSIONS:
        assert main(["compile", "--server", version, "--output", str(folder / version)]) == 0
    assert main(["compile", "--output", str(folder / "default")]) == 0
    return folder


@pytest.mark.real
@pytest.mark.parametrize("version", kubeflow_specs.RELEASES)
def test_a_server_takes_the_packages_for_it_and_for_older_ones(compiled, tmp_path, version):
    specs = kubeflow_specs.downloaded(version, tmp_path)
    for compiled_for in VERSIONS:
        taken = [specs.refused(*ir.load(compiled / compiled_for / name)) is None for name in PACKAGES]
        order = [tuple(map(int, one.split("."))) for one in (compiled_for, version)]
        assert all(taken) if order == sorted(order) else not any(taken), compiled_for


def test_the_installed_version_takes_all_packages(compiled):
    for folder in compiled.iterdir():
        for name in PACKAGES:
            assert kubeflow_specs.installed().refused(*ir.load(folder / name)) is None


def test_an_unknown_field_is_refused_wherever_it_stands(compiled):
    """As Go's protojson does: the executors are free structures in the spec, and their readers are as strict."""
    for path in (
        ("platforms", "kubernetes", "pipelineConfig"),
        ("platforms", "kubernetes", "deploymentSpec", "executors", "exec-train", "securityContext"),
    ):
        spec, platform = ir.load(compiled / NEWEST / "align.yaml")
        place = platform
        for key in path:
            place = place[key]
        place["ofTomorrow"] = 1
        assert "ofTomorrow" in kubeflow_specs.installed().refused(spec, platform)


def test_the_package_is_for_the_oldest_unless_told_otherwise(compiled):
    for name in PACKAGES:
        assert (compiled / "default" / name).read_text() == (compiled / OLDEST / name).read_text()


def test_a_version_that_is_none_is_refused(capsys, tmp_path):
    assert main(["compile", "--server", "2.5", "--output", str(tmp_path)]) == 2
    assert "--server is '2.5': it must be one of 2.15, 2.16, 2.17" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tag", "version"),
    [
        ("2.15.0", "2.15"),
        ("v2.16.1", "2.16"),
        ("2.17.0-rc.1", "2.17"),
        ("2.18.0", "2.17"),
        ("", "2.15"),
        ("dev", "2.15"),
    ],
)
def test_what_a_server_says_of_itself(tag, version):
    assert fitting(tag) == version
    assert is_known(tag) == (tag[:1] in ("2", "v") and "2.18" not in tag)


@pytest.mark.parametrize("tag", ["2.14.6", "2.5.0", "1.8.5", "3.0.0"])
def test_a_server_that_would_refuse_the_package_is_refused(tag):
    with pytest.raises(InputError, match=rf"Kubeflow Pipelines {tag}: it must be one of 2\.15"):
        fitting(tag)
