"""Models from S3, and an S3 prefix as the second level of the cache (moto)."""

import boto3
import moto
import pytest
from fake_hub import reward_files

from srpo.core.contracts.errors import InputError
from srpo.core.storage import model_cache
from srpo.fetch_base.catalogue import Entry
from srpo.fetch_base.fetch import Place, fetch, look_up

WEIGHTS = "model.safetensors"
FROM_S3 = Entry(name="mine", source="s3://models/rewards/mine", licence="MIT")
FROM_HUB = Entry(name="org/reward", source="hf://org/reward", licence="MIT")
MIRROR = "s3://models/mirror"


@pytest.fixture
def bucket(monkeypatch):
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "SRPO_S3_ADDRESSING_STYLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with moto.mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="models")
        yield client


def put(bucket, prefix, files):
    for name, data in files.items():
        bucket.put_object(Bucket="models", Key=f"{prefix}/{name}", Body=data)


def get(entry, place):
    found = look_up(entry, place)
    assert found is not None
    return place.cache / fetch(found, place).folder


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_model_from_s3_is_kept_and_held_to_what_it_was(bucket, tmp_path):
    put(bucket, "rewards/mine", reward_files())
    put(bucket, "rewards/mine-too", {"other.json": b"{}"})
    place = Place(tmp_path)
    folder = get(FROM_S3, place)
    assert names(folder) == {"config.json", "preprocessor_config.json", WEIGHTS, "part/more.safetensors"}
    assert (folder / WEIGHTS).read_bytes() == reward_files()[WEIGHTS]
    (folder / WEIGHTS).write_bytes(b"damaged")
    assert get(FROM_S3, place) == folder
    assert (folder / WEIGHTS).read_bytes() == reward_files()[WEIGHTS]
    (folder / WEIGHTS).write_bytes(b"damaged")
    put(bucket, "rewards/mine", reward_files(seed=1))
    with pytest.raises(InputError, match=r"model\.safetensors is another object than at the first fetch"):
        get(FROM_S3, place)


def test_s3_without_the_model_is_named(bucket, tmp_path):
    with pytest.raises(InputError, match="s3://models/rewards/mine holds no file of a model"):
        look_up(FROM_S3, Place(tmp_path))


def test_what_one_cluster_fetched_another_takes_from_the_mirror(bucket, hub, tmp_path):
    first, second = Place(tmp_path / "one", MIRROR), Place(tmp_path / "two", MIRROR)
    folder = get(FROM_HUB, first)
    hub.requests.clear()
    assert get(FROM_HUB, second).name == folder.name
    assert not [path for what, path, _ in hub.requests if "org/reward" in path], "the hub was asked again"
    assert names(second.cache / folder.name) == names(folder)
    assert model_cache.verify(second.cache) == {folder.name: []}


def test_offline_the_mirror_serves(bucket, hub, tmp_path):
    folder = get(FROM_HUB, Place(tmp_path / "one", MIRROR))
    hub.close()
    place = Place(tmp_path / "two", MIRROR, offline=True)
    assert get(FROM_HUB, place).name == folder.name
    assert look_up(FROM_HUB, Place(tmp_path / "three", offline=True)) is None


def test_a_damaged_mirror_is_not_believed(bucket, hub, tmp_path):
    folder = get(FROM_HUB, Place(tmp_path / "one", MIRROR))
    other = bytearray(reward_files()[WEIGHTS])
    other[-1] ^= 1
    put(bucket, f"mirror/{folder.name}", {WEIGHTS: bytes(other)})
    again = get(FROM_HUB, Place(tmp_path / "two", MIRROR))
    assert again.name == folder.name
    hub.close()  # from now on the mirror serves, which was mended
    assert get(FROM_HUB, Place(tmp_path / "three", MIRROR)).name == folder.name
    assert (again / WEIGHTS).read_bytes() == reward_files()[WEIGHTS]
