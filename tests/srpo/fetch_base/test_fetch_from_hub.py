"""From a hub into the cache by the real client: once, resumed, verified, and what comes instead is refused."""

import json
import shutil
import threading

import pytest
from fake_hub import PAGE, reward_files

from srpo.core.contracts.errors import InputError
from srpo.core.storage import model_cache
from srpo.fetch_base import hub as client
from srpo.fetch_base.catalogue import Entry
from srpo.fetch_base.fetch import Place, fetch, look_up, problems

WEIGHTS = "model.safetensors"
KEPT = {"config.json", "preprocessor_config.json", WEIGHTS, "part/more.safetensors"}


def entry(**more):
    return Entry(**{"name": "org/reward", "source": "hf://org/reward", "licence": "MIT"} | more)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "cache")


def get(place, **more):
    """The folder of the model, fetched."""
    found = look_up(entry(**more), place)
    return place.cache / fetch(found, place).folder


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_model_is_fetched_once_and_kept_without_what_can_carry_code(hub, place):
    folder = get(place)
    assert names(folder) == KEPT
    assert all((folder / name).read_bytes() == hub.repos["org/reward"][name] for name in KEPT)
    assert folder.name == model_cache.digest_of(model_cache.list_files(folder))
    asked = len(hub.requests)
    assert get(place) == folder
    assert len(hub.requests) == asked
    assert not list((place.cache / "partial").glob("*")), "something is left of the download"


def test_a_branch_means_for_ever_what_it_meant_at_the_first_fetch(hub, place):
    first = get(place)
    hub.add("org/reward", reward_files(seed=1), commit="d" * 40)
    assert get(place) == first
    assert get(place, revision="d" * 40) != first
    shutil.rmtree(first)
    hub.add("org/reward", reward_files(), commit="c" * 40)  # the old commit, asked for by its name
    assert get(place) == first


def test_a_flipped_byte_is_found_and_only_that_file_fetched_again(hub, place):
    folder = get(place)
    path = folder / WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (folder / "stray.txt").write_text("not of the model")
    assert problems(look_up(entry(), place), place) == [WEIGHTS, "stray.txt"]
    before = len(hub.got("part/more.safetensors"))
    assert get(place) == folder
    assert path.read_bytes() == whole
    assert names(folder) == KEPT
    assert len(hub.got(WEIGHTS)) == 2
    assert len(hub.got("part/more.safetensors")) == before


def test_a_small_file_is_verified_by_its_git_hash(hub, place):
    hub.fault("config.json", "other")
    assert (get(place) / "config.json").read_bytes() == hub.repos["org/reward"]["config.json"]
    assert len(hub.got("config.json")) == 2


def test_throttling_errors_and_cut_bodies_are_waited_out(hub, place, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    hub.fault("listing", (503, {}), (429, {"Retry-After": "0"}))
    hub.fault(WEIGHTS, (429, {"Retry-After": "0"}), (500, {}), (502, {}), (504, {}), ("cut", 0))
    folder = get(place)
    assert (folder / WEIGHTS).read_bytes() == hub.repos["org/reward"][WEIGHTS]
    ranges = [headers.get("range") for headers in hub.got(WEIGHTS)]
    assert ranges[:-1] == [None] * 5
    assert ranges[-1] is not None, "what had arrived was asked for again"


def test_a_server_that_falls_silent_is_asked_again(hub, place, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    release = threading.Event()
    hub.fault(WEIGHTS, ("hang", release))
    try:
        assert (get(place) / WEIGHTS).read_bytes() == hub.repos["org/reward"][WEIGHTS]
    finally:
        release.set()


def test_what_keeps_failing_ends_and_goes_on_later_from_where_it_was(hub, place, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    monkeypatch.setattr(client, "ATTEMPTS", 2)
    hub.fault(WEIGHTS, ("cut", 0), *[(503, {})] * 3)
    with pytest.raises(client.HubError, match=r"keeps failing for org/reward \(it answered 503\)"):
        get(place)
    assert not any(len(path.name) == 64 for path in place.cache.iterdir()), "a half model appeared"
    assert (get(place) / WEIGHTS).read_bytes() == hub.repos["org/reward"][WEIGHTS]
    assert hub.got(WEIGHTS)[-1]["range"].startswith("bytes=")


def test_a_login_page_in_place_of_weights_is_named(hub, place):
    hub.fault(WEIGHTS, *["page"] * 20)
    with pytest.raises(InputError, match=r"a web page in place of model\.safetensors"):
        get(place)
    assert get_after_faults(hub, place).is_dir()


def get_after_faults(hub, place):
    hub.faults.clear()
    return get(place)


def test_a_login_page_in_place_of_the_listing_is_named(hub, place):
    hub.fault("listing", "page")
    with pytest.raises(InputError, match="does not answer as a model hub"):
        get(place)


def test_a_page_that_the_hub_holds_as_weights_is_no_model(hub, place):
    hub.repos["org/reward"][WEIGHTS] = PAGE + b" " * 4000
    with pytest.raises(InputError, match=r"web page.*model\.safetensors"):
        get(place)
    assert not any(len(path.name) == 64 for path in place.cache.iterdir())


def test_weights_that_are_none_are_no_model(hub, place):
    hub.repos["org/reward"][WEIGHTS] = b"\0" * 5000
    with pytest.raises(InputError, match=r"model\.safetensors is damaged or of another format: it must be safetensors"):
        get(place)


def test_bytes_that_keep_arriving_wrong_are_refused(hub, place):
    hub.fault(WEIGHTS, *["other"] * model_cache.TRIES)
    with pytest.raises(InputError, match=r"model\.safetensors keeps arriving as another file"):
        get(place)
    assert not any(len(path.name) == 64 for path in place.cache.iterdir())
    assert get(place).is_dir()


def test_the_catalogue_s_hash_holds_against_the_hub_s(hub, place):
    with pytest.raises(InputError, match=f"it must have {'0' * 64}"):
        get(place, sha256={WEIGHTS: "0" * 64})
    folder = get(place)
    good = next(row["sha256"] for row in model_cache.list_files(folder) if row["path"] == WEIGHTS)
    assert get(place, sha256={WEIGHTS: good}) == folder
    with pytest.raises(InputError, match="with another SHA-256"):  # also when it was looked up before
        get(place, sha256={WEIGHTS: "0" * 64})


def test_only_the_files_that_the_entry_names_are_taken(hub, place):
    assert names(get(place, files=("config.json", "part/*", "LICENSE*"))) == {"config.json", "part/more.safetensors"}
    with pytest.raises(InputError, match=r"has no file 'config\.jsn'"):
        get(place, files=("config.jsn",))
    with pytest.raises(InputError, match=r"'pytorch_model\.bin' can carry code"):
        get(place, files=("pytorch_model.bin",))


def test_files_of_several_sources_make_one_model(hub, place):
    hub.add("org/processor", {"preprocessor_config.json": b"{}", "config.json": b"{}"})
    part = entry(source="hf://org/processor", files=("preprocessor_config.json",))
    folder = get(place, files=("config.json", WEIGHTS), also=(part,))
    assert names(folder) == {"config.json", WEIGHTS, "preprocessor_config.json"}
    assert (folder / "preprocessor_config.json").read_bytes() == b"{}"
    with pytest.raises(InputError, match=r"takes 'preprocessor_config\.json' from two sources"):
        get(place, also=(part,))


def test_a_gated_model_needs_the_token_which_goes_to_the_hub_alone(hub, place, monkeypatch, tmp_path, capfd):
    from huggingface_hub import constants

    hub.gated.add("org/reward")
    with pytest.raises(InputError, match=r"no token was given.*HF_TOKEN"):
        get(place)
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    with pytest.raises(InputError, match="the token that was given does not open it") as error:
        get(place)
    assert "hf_of_somebody_else" not in str(error.value)
    monkeypatch.delenv("HF_TOKEN")
    secret = tmp_path / "mounted"
    secret.write_text(f"{hub.token}\n")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(secret))  # the client reads the variable when it is imported
    hub.fault(WEIGHTS, ("cut", 0), (503, {}))
    folder = get(place)
    assert {headers.get("authorization") for headers in hub.got(WEIGHTS, "hub")} == {f"Bearer {hub.token}"}
    assert {headers.get("authorization") for headers in hub.got(WEIGHTS, "cdn")} == {None}
    out, err = capfd.readouterr()
    written = b"".join(path.read_bytes() for path in place.cache.rglob("*") if path.is_file())
    assert hub.token not in out + err
    assert hub.token.encode() not in written
    assert folder.is_dir()


@pytest.mark.parametrize("token", ["hf_clé", "two words"])
def test_a_token_that_is_none_is_refused_unsaid(hub, place, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError, match="must be one word of ASCII") as error:
        get(place)
    assert token not in str(error.value)


@pytest.mark.parametrize(
    ("source", "said"), [("hf://org/none", "refuses org/none"), ("hf://org/reward@v9", "no revision 'v9'")]
)
def test_what_the_hub_does_not_have_is_named(hub, place, source, said):
    with pytest.raises(InputError, match=said):
        get(place, source=source)


def test_a_name_that_leads_out_of_the_folder_is_refused(hub, place):
    hub.repos["org/reward"]["../outside.json"] = b"{}"
    with pytest.raises(InputError, match=r"'\.\./outside\.json'"):
        get(place)


def test_too_little_room_is_said_before_anything_is_fetched(hub, place, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(model_cache.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"has 1 KB left and 'org/reward' needs 96\.2 KB"):
        get(place)
    assert not hub.got(WEIGHTS)


def test_a_damaged_record_is_made_again(hub, place):
    folder = get(place)
    for path in (place.cache / "known").iterdir():
        path.write_text("{ half")
    assert get(place) == folder
    assert all(json.loads(path.read_text())["folder"] == folder.name for path in (place.cache / "known").iterdir())
