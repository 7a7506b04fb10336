"""The artifacts of the tiny world that training and sampling start from, made once by the stages themselves."""

import pytest
from s3_server import s3_server as s3_server  # a fixture, for all tests that want a real server
from tiny_runs import TinyRun


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    run = TinyRun(tmp_path_factory.mktemp("tiny"))
    drawn = {"train_prompts": 64}
    for name, config, inputs, output in (
        ("prepare_prompts", {}, (), "prompts"),
        ("fetch_base", {}, (), "models"),
        ("cache_rewards", drawn, ("models", "prompts"), "text_features"),
        ("encode_prompts", drawn | {"dtype": "float32"}, ("models", "prompts"), "embeddings"),
    ):
        run.artifacts |= run.stage(name, config, inputs, (output,))
    return run
