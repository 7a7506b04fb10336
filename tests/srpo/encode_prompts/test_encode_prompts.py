"""Stored embeddings against diffusers' own FluxPipeline, and the file that holds them."""

import json
import os
import shutil
import signal
import time
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch
from diffusers import FluxPipeline
from tiny_runs import TinyRun
from torch.multiprocessing.spawn import ProcessRaisedException

from srpo.core.backbones import load
from srpo.core.backbones.conditioning import read_conditioning
from srpo.core.backbones.flux_text import FluxTextEncoder
from srpo.core.backbones.load import load_text_encoder
from srpo.core.backbones.pipelines import text_shapes, text_tokens
from srpo.core.contracts.errors import InputError
from srpo.core.contracts.order import prompt_order
from srpo.core.contracts.prompts import of_split, read_prompts
from srpo.core.contracts.tensors import EmbeddingsReader
from srpo.core.execution.again import KilledError
from srpo.core.storage.models import read_models
from srpo.encode_prompts import parts
from srpo.encode_prompts.parts import Job
from srpo.encode_prompts.parts import encode as encode_parts


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
    seen = set()
    for prompt in [*prompts[:4], *prompts[60:64]]:
        found = read_conditioning(reader, [prompt.prompt_id])
        with torch.no_grad():
            states, pooled, _ = pipeline.encode_prompt(
                prompt.prompt,
                prompt_2=None,
                device=torch.device("cpu"),
                max_sequence_length=pipeline.tokenizer_2.model_max_length,
            )
        assert found.prompt_embeds.dtype == torch.float32
        assert torch.equal(found.prompt_embeds, states)
        assert torch.equal(found.pooled, pooled)
        seen.add(found.pooled.numpy().tobytes())
    assert len(seen) == 8
    with torch.no_grad():
        states, pooled, _ = pipeline.encode_prompt(
            "", prompt_2=None, device=torch.device("cpu"), max_sequence_length=pipeline.tokenizer_2.model_max_length
        )
    assert torch.equal(found.negative.prompt_embeds, states)
    assert torch.equal(found.negative.pooled, pooled)


def test_the_file_says_which_encoder_made_it(tiny_run, base, pipeline):
    info = reader_of(tiny_run).info
    assert info.encoder == base.digest
    assert info.dtype == "float32"
    assert info.prompt_embeds_shape == (pipeline.tokenizer_2.model_max_length, pipeline.text_encoder_2.config.d_model)
    assert info.pooled_shape == (pipeline.text_encoder.config.hidden_size,)


def encode(folder, prompts, seed=0, **config):
    """The stages up to the embeddings in a workspace of their own; ``(files of the parts, run, prompt table)``."""
    run = TinyRun(folder)
    run.artifacts |= run.stage("prepare_prompts", prompts, (), ("prompts",))
    run.artifacts |= run.stage("fetch_base", {}, (), ("models",))
    torch.manual_seed(seed)  # other random numbers before it
    made = run.stage("encode_prompts", config, ("models", "prompts"), ("embeddings",))
    return parts_of(made), run, read_prompts(run.artifacts["prompts"])


def parts_of(made):
    folder = made["embeddings"] / "embeddings.parquet"
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


MANY = {"train_prompts": 60, "held_out_prompts": 30}


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("one"), MANY, train_prompts=50)


def test_only_what_the_run_meets_is_encoded_in_the_order_in_which_it_is_read(one_process, tmp_path):
    parts, run, table = one_process
    train = of_split(table, "train")
    order = prompt_order(50, len(train), 0)
    met = [train[place].prompt_id for place in dict.fromkeys(order)]
    met += [prompt.prompt_id for prompt in table if prompt.split != "train"]
    reader = EmbeddingsReader(run.folder / "encode_prompts/embeddings/embeddings.parquet")
    assert list(reader.places) == ["", *met]
    assert len(met) == 80
    assert len(parts) == 3
    assert reader.info.dtype == "bfloat16"
    assert {column.compression for column in columns(run)} == {"UNCOMPRESSED"}


def columns(run):
    for file in (run.folder / "encode_prompts/embeddings/embeddings.parquet").iterdir():
        metadata = pq.read_metadata(file)
        for group in range(metadata.num_row_groups):
            yield from (metadata.row_group(group).column(number) for number in range(metadata.num_columns))


def test_the_same_configuration_gives_the_same_bytes_on_any_number_of_processes(one_process, tmp_path, monkeypatch):
    assert encode(tmp_path / "again", MANY, seed=1, train_prompts=50)[0] == one_process[0]
    monkeypatch.setattr(parts, "work", starts_late)
    assert encode(tmp_path / "two", MANY, seed=2, train_prompts=50, processes=2)[0] == one_process[0]


def test_embeddings_of_a_prompt_do_not_depend_on_the_others(one_process, tmp_path):
    _, run, _ = one_process
    other = encode(tmp_path, MANY, train_prompts=7, seed=3)[1]
    first, second = (
        EmbeddingsReader(one.folder / "encode_prompts/embeddings/embeddings.parquet") for one in (run, other)
    )
    shared = [prompt_id for prompt_id in second.places if prompt_id in first]
    assert len(shared) == 38
    assert first.read(shared) == second.read(shared)


def test_after_a_kill_finished_parts_are_not_encoded_again(one_process, tmp_path, monkeypatch):
    """The second part fails; the run after it makes the others only, and the bytes are those of an unbroken run."""
    encoded = []

    class Counting(FluxTextEncoder):
        def __call__(self, prompts):
            encoded.append(prompts)
            if len(encoded) == 40:
                raise KeyboardInterrupt
            return super().__call__(prompts)

    monkeypatch.setitem(load.TEXT_ENCODERS, "FluxPipeline", Counting)
    with pytest.raises(KeyboardInterrupt):
        encode(tmp_path, MANY, train_prompts=50)
    assert not list(tmp_path.rglob("embeddings.parquet"))
    assert encode(tmp_path, MANY, train_prompts=50)[0] == one_process[0]
    assert len(encoded) == 40 + 81 - 32


def test_a_damaged_part_is_made_again(one_process, tmp_path, monkeypatch):
    parts, run, _ = one_process
    (state,) = (run.workspace / "state/encode_prompts").iterdir()
    folder = shutil.copytree(state / "parts", tmp_path / "parts")
    (folder / "part-00001.parquet").write_bytes(parts["part-00001.parquet"][:-9])
    shutil.copy(folder / "part-00000.parquet", folder / "part-00002.parquet")  # other prompts
    reader = EmbeddingsReader(state / "parts")
    base = read_models(run.artifacts["models"], run.workspace)["base"]
    prompts = {prompt.prompt_id: prompt.prompt for prompt in read_prompts(run.artifacts["prompts"])} | {"": ""}
    job = Job(base.folder, reader.info, [(name, prompts[name]) for name in reader.places], folder)
    seen = []
    encode_parts(job, 1, lambda step, of: seen.append((step, of)))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == parts
    assert seen == [(64, 81), (81, 81)]


def test_a_volume_that_is_too_small_is_refused_before_an_encoder_is_loaded(tmp_path, monkeypatch):
    usage = shutil.disk_usage

    def small_for_embeddings(path):
        return SimpleNamespace(free=9_000) if "encode_prompts" in str(path) else usage(path)

    monkeypatch.setattr(shutil, "disk_usage", small_for_embeddings)
    monkeypatch.setattr(load.TEXT_ENCODERS["FluxPipeline"], "load", None)
    with pytest.raises(InputError, match=r"9 KB free: the embeddings of 10 prompts need 21\.8 KB"):
        encode(tmp_path, {"train_prompts": 12, "held_out_prompts": 3}, train_prompts=6)


def test_schnell_takes_256_tokens_and_a_tokenizer_may_take_less(tiny_run, base, tmp_path):
    tokens = {}
    for guidance in (True, False):
        folder = shutil.copytree(base.folder, tmp_path / str(guidance))
        change(folder / "transformer/config.json", guidance_embeds=guidance)
        change(folder / "tokenizer_2/tokenizer_config.json", model_max_length=512)
        tokens[guidance] = text_tokens(folder)
        assert text_tokens(folder, 512) == 512
        with pytest.raises(InputError, match=r"max_sequence_length is 513.*at most 512"):
            text_tokens(folder, 513)
    assert tokens == {True: 512, False: 256}
    assert text_tokens(base.folder) == 16
    encoder = load_text_encoder(tmp_path / "False", torch.device("cpu"), torch.float32)
    states = encoder(["a red circle"]).prompt_embeds
    assert states.shape[1:] == text_shapes(tmp_path / "False", 256)[0]


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_bfloat16_is_stored_and_read_as_it_is(tiny_run, base, tmp_path):
    config = {"train_prompts": 64, "dtype": "bfloat16"}
    made = tiny_run.stage("encode_prompts", config, ("models", "prompts"), ("embeddings",), into=tmp_path)
    small = EmbeddingsReader(made["embeddings"] / "embeddings.parquet")
    prompt_ids = list(small.places)[1:5]
    found = read_conditioning(small, prompt_ids)
    precise = read_conditioning(reader_of(tiny_run), prompt_ids)
    assert found.prompt_embeds.dtype == found.pooled.dtype == torch.bfloat16
    torch.testing.assert_close(found.pooled.float(), precise.pooled, rtol=0.05, atol=0.05)
    torch.testing.assert_close(found.prompt_embeds.float(), precise.prompt_embeds, rtol=0.1, atol=0.1)


def test_a_prompt_that_was_not_encoded_is_named(tiny_run):
    with pytest.raises(InputError, match=r"'no-such-prompt'.*encode_prompts"):
        reader_of(tiny_run).read(["no-such-prompt"])


@pytest.mark.real
def test_a_process_that_is_killed_is_told_from_one_that_fails(one_process, tmp_path, monkeypatch):
    """The first is begun again in the same task (srpo.core.execution.again), the second would fail again."""
    monkeypatch.setattr(parts, "work", ends_by_signal)
    for number, raised in ((signal.SIGKILL, KilledError), (None, ProcessRaisedException)):
        monkeypatch.setenv("SIGNAL_OF_THE_TEST", str(int(number)) if number else "")
        with pytest.raises(raised):
            encode(tmp_path / str(number), MANY, train_prompts=50, processes=2)


WORK = parts.work


def starts_late(rank, job, shares):
    """As on a busy machine: the other process has made a part before this one looks."""
    while rank == 0 and 1 in job.missing():
        time.sleep(0.1)
    WORK(rank, job, shares)


def ends_by_signal(rank, job, shares):
    if number := os.environ["SIGNAL_OF_THE_TEST"]:
        os.kill(os.getpid(), int(number))
    raise ValueError("of the work itself")
