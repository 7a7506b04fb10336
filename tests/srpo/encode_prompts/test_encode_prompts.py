"""Stored embeddings against diffusers' own FluxPipeline, and the file that holds them."""

import pyarrow.parquet as pq
import pytest
import torch
from diffusers import FluxPipeline
from tiny_runs import TinyRun

from srpo.core.backbones.conditioning import read_conditioning
from srpo.core.contracts.errors import InputError
from srpo.core.contracts.order import prompt_order
from srpo.core.contracts.prompts import of_split, read_prompts
from srpo.core.contracts.tensors import EmbeddingsReader
from srpo.core.storage.models import read_models


@pytest.fixture(scope="module")
def base(tiny_run):
    return read_models(tiny_run.artifacts["models"], tiny_run.workspace)["base"]


@pytest.fixture(scope="module")
def pipeline(base):
    return FluxPipeline.from_pretrained(base.folder, transformer=None, vae=None, torch_dtype=torch.float32)


def reader_of(tiny_run):
    return EmbeddingsReader(tiny_run.artifacts["embeddings"] / "embeddings.parquet")


def test_embeddings_are_those_of_the_pipeline_bit_for_bit(tiny_run, pipeline):
    reader = reader_of(tiny_run)
    prompts = [prompt for prompt in read_prompts(tiny_run.artifacts["prompts"]) if prompt.prompt_id in reader]
    torch.set_num_threads(1)
    for group in (prompts[:8], prompts[16:24]):
        found = read_conditioning(reader, [prompt.prompt_id for prompt in group])
        with torch.no_grad():
            states, pooled, _ = pipeline.encode_prompt(
                [prompt.prompt for prompt in group],
                prompt_2=None,
                device=torch.device("cpu"),
                max_sequence_length=pipeline.tokenizer_2.model_max_length,
            )
        assert found.prompt_embeds.dtype == torch.float32
        assert torch.equal(found.prompt_embeds, states)
        assert torch.equal(found.pooled, pooled)
        assert len(torch.unique(found.pooled, dim=0)) == 8


def test_the_file_says_which_encoder_made_it(tiny_run, base, pipeline):
    info = reader_of(tiny_run).info
    assert info.encoder == base.digest
    assert info.dtype == "float32"
    assert info.prompt_embeds_shape == (pipeline.tokenizer_2.model_max_length, pipeline.text_encoder_2.config.d_model)
    assert info.pooled_shape == (pipeline.text_encoder.config.hidden_size,)


def test_the_same_configuration_gives_the_same_bytes(tiny_run, tmp_path):
    """In another workspace, with other random numbers before it."""
    files = []
    for number in range(2):
        torch.manual_seed(number)
        run = TinyRun(tmp_path / str(number))
        prompts = run.stage("prepare_prompts", {"train_prompts": 12, "held_out_prompts": 3}, (), ("prompts",))
        models = run.stage("fetch_base", {}, (), ("models",))
        made = run.stage("encode_prompts", {"train_prompts": 6}, (), ("embeddings",), **prompts, **models)
        files.append(made["embeddings"] / "embeddings.parquet")
    assert files[0].read_bytes() == files[1].read_bytes()
    assert EmbeddingsReader(files[0]).info.dtype == "bfloat16"

    table = read_prompts(tmp_path / "0/prepare_prompts/prompts")
    train = of_split(table, "train")
    met = {train[place].prompt_id for place in prompt_order(6, len(train), 0)}
    met |= {prompt.prompt_id for prompt in table if prompt.split != "train"}
    stored = pq.read_table(files[0])["prompt_id"].to_pylist()
    assert stored == sorted(met)
    assert len(met) == 9


def test_bfloat16_is_stored_and_read_as_it_is(tiny_run, base, tmp_path):
    config = {"train_prompts": 64, "dtype": "bfloat16"}
    made = tiny_run.stage("encode_prompts", config, ("models", "prompts"), ("embeddings",), into=tmp_path)
    small = EmbeddingsReader(made["embeddings"] / "embeddings.parquet")
    prompt_ids = list(small.places)[:4]
    found = read_conditioning(small, prompt_ids)
    precise = read_conditioning(reader_of(tiny_run), prompt_ids)
    assert found.prompt_embeds.dtype == found.pooled.dtype == torch.bfloat16
    torch.testing.assert_close(found.pooled.float(), precise.pooled, rtol=0.05, atol=0.05)
    torch.testing.assert_close(found.prompt_embeds.float(), precise.prompt_embeds, rtol=0.1, atol=0.1)


def test_a_prompt_that_was_not_encoded_is_named(tiny_run):
    with pytest.raises(InputError, match=r"'no-such-prompt'.*encode_prompts"):
        reader_of(tiny_run).read("no-such-prompt")
