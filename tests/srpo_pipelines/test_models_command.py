"""`srpo models`: what people see of the catalogue and the cache, and its exit codes."""

import pytest

from srpo.core.storage.model_cache import digest_of, list_files
from srpo_pipelines.cli import main


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("SRPO_MODEL_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def srpo(capsys, *arguments):
    """Exit code, output and errors of `srpo models`."""
    code = main(["models", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_list_shows_licences_and_what_is_cached(capsys, tmp_path):
    code, out, _ = srpo(capsys, "list")
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0
    assert "flux-1-dev-non-commercial-license  not allowed" in rows["black-forest-labs/FLUX.1-dev"]
    assert "hf://black-forest-labs/FLUX.1-dev, gated" in rows["black-forest-labs/FLUX.1-dev"]
    assert rows["tiny-clip"].split()[1:4] == ["reward", "Apache-2.0", "allowed"]
    _, out, _ = srpo(capsys, "list", "--cache", tmp_path)
    assert next(line for line in out.splitlines() if line.startswith("pickscore")).split()[4] == "no"


def test_fetch_verify_and_repair(capsys, tmp_path):
    code, out, _ = srpo(capsys, "fetch", "tiny-clip", "tiny-siglip", "--cache", tmp_path)
    folder = next(
        tmp_path / line.split(f"{tmp_path}/")[1] for line in out.splitlines() if line.startswith("tiny-clip: ")
    )
    assert code == 0
    assert folder.name == digest_of(list_files(folder))
    assert srpo(capsys, "verify", "--cache", tmp_path)[:1] == (0,)

    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    code, out, err = srpo(capsys, "verify", "--cache", tmp_path)
    assert code == 1
    assert f"damaged  {folder.name[:16]}  tiny-clip: model.safetensors" in out
    assert "1 of 2 models are damaged: srpo models fetch 'tiny-clip'" in err
    code, _, err = srpo(capsys, "fetch", "tiny-clip", "--cache", tmp_path)
    assert (code, weights.read_bytes()) == (0, whole)
    assert "damaged in the cache, fetched again: model.safetensors" in err
    assert srpo(capsys, "verify", "--cache", tmp_path)[0] == 0


def test_offline_says_all_that_is_missing_at_once(capsys, tmp_path):
    code, _, err = srpo(capsys, "fetch", "hpsv2.1", "pickscore", "tiny-clip", "--offline", "--cache", tmp_path)
    assert code == 2
    assert "hpsv2.1 (hf://xswu/HPSv2); pickscore (hf://yuvalkirstain/PickScore_v1)" in err
    assert f"srpo models fetch 'hpsv2.1' 'pickscore' --cache {tmp_path}" in err
    assert "tiny-clip" not in err
    assert len(err.strip().splitlines()) == 1


def test_the_environment_names_the_cache(capsys, tmp_path, monkeypatch):
    assert srpo(capsys, "verify")[::2] == (
        2,
        "srpo: no cache is named: it must be --cache DIR or SRPO_MODEL_CACHE, which runs read too\n",
    )
    monkeypatch.setenv("SRPO_MODEL_CACHE", str(tmp_path))
    assert srpo(capsys, "fetch", "tiny-clip")[0] == 0
    assert len([path for path in tmp_path.iterdir() if len(path.name) == 64]) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fetch", "pickscor"), "the catalogue has no model 'pickscor': did you mean 'pickscore'?"),
        (("list", "--catalogue", "nowhere.yaml"), "'nowhere.yaml' cannot be read"),
    ],
)
def test_bad_input_is_named(capsys, tmp_path, arguments, said):
    code, _, err = srpo(capsys, *arguments, "--cache", tmp_path)
    assert code == 2
    assert said in err


def test_a_name_is_checked_before_a_cache_is_asked_for(capsys):
    code, _, err = srpo(capsys, "fetch", "pickscor")
    assert code == 2
    assert "the catalogue has no model 'pickscor': did you mean 'pickscore'?" in err


@pytest.mark.parametrize("action", [(), ("list",), ("fetch",), ("verify",)])
def test_help_has_an_example(capsys, action):
    with pytest.raises(SystemExit) as ended:
        main(["models", *action, "--help"])
    assert ended.value.code == 0
    assert "example: srpo models" in capsys.readouterr().out
