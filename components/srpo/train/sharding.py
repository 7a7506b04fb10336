"""The transformer over the ranks: FSDP2 shards of master weights, read once; optimiser and moving average."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from huggingface_hub import split_torch_state_dict_into_shards
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from srpo.core.backbones.backbone import Backbone
from srpo.core.backbones.conditioning import DTYPES
from srpo.core.objective import draws
from srpo.core.storage.files import appearing, write_json
from srpo.core.storage.weights import weight_files
from srpo.train.adamw8bit import AdamW8bit, as_rows, first_row, local, sharded_like
from srpo.train.background import Writer
from srpo.train.config import Config
from srpo.train.quantised import BLOCKS, SCALE, quantise_frozen, quantised

ADAPTER = "default"
LORA_FILE = "pytorch_lora_weights.safetensors"  # where diffusers looks for it


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """The ranks that torchrun started, joined; gloo on CPUs and nccl on GPUs."""
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def sharded_transformer(config: Config, kind: type[Backbone], folder: Path, device: torch.device) -> Any:
    """The transformer of ``folder``, of a ``kind`` of backbone, in the configured dtypes: what is trained is sharded.

    Trained parameters are kept in float32, or in bfloat16 with ``precision: bf16_stochastic``. Gathered weights stay
    between the forwards of a rollout and are dropped by the backward pass, so that a rollout costs one all-gather and
    not one a model call. Since they stay, sharding what is not trained (the base under LoRA) would only add a copy:
    it stands whole on each rank, in the dtype it is computed in. For the same reason one rank whose weights need no
    cast shards nothing.
    """
    compute, master = DTYPES[config.compute_dtype], master_dtype(config)
    model = kind.empty_transformer(folder)
    with torch.device("meta"):
        model.to(compute if config.lora_rank else master)
        if config.lora_rank:
            model.requires_grad_(False)
            alpha: Any = config.lora_alpha  # peft says int and takes any number
            targets = list(config.lora_targets)
            model.add_adapter(LoraConfig(r=config.lora_rank, lora_alpha=alpha, target_modules=targets))
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.to(master)
            if config.quantised_base:
                quantise_frozen(model)
    ranks = dist.get_world_size()
    if ranks > 1 or compute != master:
        mesh = init_device_mesh(device.type, (ranks,))
        policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
        frozen = {parameter for parameter in model.parameters() if not parameter.requires_grad}
        for module in (*(block for name in BLOCKS for block in getattr(model, name, ())), model):
            fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=False, ignored_params=frozen)
    model.to_empty(device=device)
    check_sharding(model, ranks)
    load_base(config, model, folder)
    return model.train()


def recompute_blocks(model: Any, kept: int) -> None:
    """Let all blocks but the last ``kept`` compute their activations again in the backward pass.

    The last ones' are freed first, so that the room they leave is there when the others are computed again.
    """
    blocks = [block for name in BLOCKS for block in getattr(model, name, ())]
    again = set(blocks[: len(blocks) - kept])

    def call(block: Any, *inputs: Any) -> Any:
        return checkpoint(block, *inputs, use_reentrant=False) if block in again else block(*inputs)

    if again:
        model.enable_gradient_checkpointing(call)


def master_dtype(config: Config) -> torch.dtype:
    """What trained parameters are kept in between steps."""
    return torch.bfloat16 if config.precision == "bf16_stochastic" else torch.float32


def check_sharding(model: Any, ranks: int) -> None:
    """Make sure that what is trained lies on all ranks: sharding that was left out would train each rank on its own.

    Raises:
        RuntimeError: a trained parameter is not sharded over ``ranks`` ranks.
    """
    for name, parameter in model.named_parameters():
        over = parameter.device_mesh.size() if isinstance(parameter, DTensor) else 1
        if parameter.requires_grad and over != ranks:
            raise RuntimeError(f"{name} is sharded over {over} ranks, {ranks} have joined")


@torch.no_grad()
def load_base(config: Config, model: Any, folder: Path) -> None:
    """Fill ``model`` with the base's weights, tensor by tensor; LoRA's A is drawn from the seed and its B is zero.

    The first rank alone reads the files, which it maps; every other one is sent each tensor and keeps its own rows. So
    besides what stays, one tensor stands in memory at a time.
    """
    first = dist.get_rank() == 0
    stored = read_weights(folder) if first else {}
    for name, target in model.state_dict().items():
        kept = local(target)
        whole = kept if kept.shape == target.shape else kept.new_empty(target.shape)
        if first:
            value = initial(config, name, target.shape, stored)
            whole.copy_(quantised(value)[0] if whole.dtype == torch.int8 else value)
        if dist.get_world_size() > 1:
            dist.broadcast(whole, 0)
        if whole is not kept:
            rows = first_row(target)
            kept.copy_(whole[rows : rows + len(kept)])


def initial(config: Config, name: str, shape: torch.Size, stored: dict[str, Tensor]) -> Tensor:
    """The value that the parameter ``name`` starts from."""
    if ".lora_A." in name:
        return draws.noise(tuple(shape), config.seed, "lora", name) / config.lora_rank
    if ".lora_B." in name:
        return torch.zeros(shape)
    name = name.replace(".base_layer.", ".")
    if name.endswith(f".{SCALE}"):
        return quantised(stored[name.removesuffix(SCALE) + "weight"])[1]
    return stored[name]


@torch.no_grad()
def check_start(config: Config, model: Any, kind: type[Backbone], folder: Path) -> None:
    """Before the first step: what is trained starts from the numbers that sampling loads for the base, bit for bit.

    The base is opened once more, as `sample` does it: by diffusers. Each rank compares the rows that it holds; what
    stands whole on each rank is compared by the first. The files are mapped, so that one tensor at a time is read.

    Raises:
        RuntimeError: a tensor differs; it is named.
    """
    stored = next(iter(read_weights(folder).values()), torch.zeros(())).dtype
    sampled = kind.load_transformer(folder, stored if stored.is_floating_point else torch.float32).state_dict()
    for name, target in model.state_dict().items():
        kept = local(target)
        if ".lora_" in name or (kept.shape == target.shape and dist.get_rank() > 0):
            continue
        value = initial(config, name, target.shape, sampled)
        rows = first_row(target) if kept.shape != target.shape else 0
        value = quantised(value)[0] if kept.dtype == torch.int8 else value
        part = value[rows : rows + len(kept)] if kept.shape != target.shape else value
        if not torch.equal(part.to(kept), kept):
            raise RuntimeError(
                f"training would start from another {name!r} than the one that is sampled as the base: {folder}"
            )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a diffusers model folder, from the files that diffusers opens.

    They are views of the mapped files: a page is read when its tensor is copied to the shards, and never copied whole.
    """
    weights: dict[str, Tensor] = {}
    for file in weight_files(folder):
        weights |= load_file(file)
    return weights


def gather(model: Any) -> None:
    """Gather the weights now, on all ranks together; forwards then need no other rank, so their number may differ."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.unshard()


def drop_gathered(model: Any) -> None:
    """Free the gathered weights that a rollout left; the next forward gathers again."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def trained_parameters(model: Any) -> list[Any]:
    """The parameters that are trained, as shards."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def make_optimizer(config: Config, model: Any) -> torch.optim.Optimizer:
    """AdamW over the shards of the trained parameters: torch's own, or with moments of 8 bits."""
    betas, lr, decay = (config.beta1, config.beta2), config.learning_rate, config.weight_decay
    if config.precision == "bf16_stochastic":
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        return AdamW8bit(named, config.seed, lr, betas, decay)
    return torch.optim.AdamW(trained_parameters(model), lr=lr, betas=betas, weight_decay=decay, foreach=True)


class MovingAverage:
    """An exponential moving average of the trained shards; while it is ``swapped`` in, the model is the average.

    The average is float32 whatever the weights are: a bfloat16 one would stand still.
    """

    def __init__(self, model: Any, decay: float) -> None:
        self.model, self.decay = model, decay
        self.shards = {name: local(p).float().clone() for name, p in self._named()} if decay else {}

    def update(self) -> None:
        """Move towards the model's present weights; call after each optimiser step."""
        if self.decay:
            for name, parameter in self._named():
                self.shards[name].lerp_(local(parameter).float(), 1 - self.decay)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Within, the model has the averaged weights; without a decay nothing changes."""
        drop_gathered(self.model)
        held = {}
        if self.decay:
            for name, parameter in self._named():
                held[name] = local(parameter).clone()
                local(parameter).copy_(self.shards[name])
        try:
            yield
        finally:
            drop_gathered(self.model)
            for name, parameter in self._named():
                if self.decay:
                    local(parameter).copy_(held[name])

    def state(self) -> dict[str, Any]:
        """The average as a state dict of sharded tensors, for a distributed checkpoint; they share its memory."""
        return {name: sharded_like(p, as_rows(self.shards[name])) for name, p in self._named() if self.decay}

    def _named(self) -> list[tuple[str, Any]]:
        return [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]


def save_weights(writer: Writer, config: Config, model: Any, folder: Path, base: Path) -> None:
    """Gather the transformer as it is now; ``writer`` leaves it as bfloat16 safetensors in a diffusers folder, whole.

    LoRA is merged, so that every consumer can load it; the adapter alone lies beside it in ``lora/``, in float32. Its
    scale (alpha over rank) is in its matrices B: wherever a file without an alpha is loaded, it is with the scale 1.
    What the model holds in eight bits is merged as it is stored in ``base``, the folder that the model came from, in
    the compute dtype: that is what the adapter is loaded over. Tensors of the base that the model does not know go on.
    """
    writer.wait("weights")
    first, adapter, whole = dist.get_rank() == 0, {}, {}
    stored = read_weights(base) if first else {}  # mapped: what is not asked for is not read
    for name, value in model.state_dict().items():
        gathered = value.full_tensor() if isinstance(value, DTensor) else value
        if first and ".lora_" in name:
            adapter[name] = gathered.float().to("cpu", copy=True)  # training goes on in what it may share memory with
        elif first and config.quantised_base and (source := name.replace(".base_layer.", ".")) in stored:
            whole[source] = stored[source].to(DTYPES[config.compute_dtype])
        elif first and name.endswith(f".{SCALE}"):
            continue
        elif first and ".base_layer." in name:  # frozen, and as precise as it is until the adapter has been added
            whole[name.replace(".base_layer.", ".")] = gathered.cpu()
        elif first:
            whole[name] = gathered.to(torch.bfloat16).to("cpu", copy=True)
    whole |= {name: value for name, value in stored.items() if name not in whole}

    def write() -> None:
        if first:
            write_weights(config, model, folder, whole, adapter)

    writer.hand_over("weights", write)


def write_weights(
    config: Config, model: Any, folder: Path, whole: dict[str, Tensor], adapter: dict[str, Tensor]
) -> None:
    """Write what :func:`save_weights` gathered: weights under the base's names, and the adapter if there is one."""
    scale = config.lora_alpha / max(1, config.lora_rank)
    merge(whole, adapter, scale)
    shutil.rmtree(folder, ignore_errors=True)
    with appearing(folder) as partial:
        partial.mkdir()
        write_json(partial / "config.json", json.loads(model.to_json_string()) | {"_class_name": class_of(model)})
        rounded = {name: v.to(torch.bfloat16) if v.is_floating_point() else v for name, v in whole.items()}
        write_shards(rounded, partial)
        if adapter:
            (partial / "lora").mkdir()
            scaled = {name: scale * value if ".lora_B." in name else value for name, value in adapter.items()}
            named = {f"transformer.{name.replace(f'.{ADAPTER}.', '.')}": v for name, v in scaled.items()}
            save_file({name: value.contiguous() for name, value in named.items()}, partial / "lora" / LORA_FILE)


def class_of(model: Any) -> str:
    """The name of the model's own class: sharding gives it another one, which no reader knows."""
    return next(kind.__name__ for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))


def merge(whole: dict[str, Tensor], adapter: dict[str, Tensor], scale: float) -> None:
    """Add ``scale * B A`` to the weights of ``whole``, which have the names of a model without adapters.

    The sum is computed in float32 and rounded once.
    """
    for name, a in adapter.items():
        if f".lora_A.{ADAPTER}." in name:
            b = adapter[name.replace(".lora_A.", ".lora_B.")]
            target = name.replace(f".lora_A.{ADAPTER}.", ".")
            whole[target] = (whole[target].float() + scale * (b @ a)).to(torch.bfloat16)


def write_shards(weights: dict[str, Tensor], folder: Path) -> None:
    """Write tensors as diffusers does: one file, or shards of 10 GB with an index."""
    pattern = "diffusion_pytorch_model{suffix}.safetensors"
    plan = split_torch_state_dict_into_shards(weights, filename_pattern=pattern, max_shard_size="10GB")
    for name, keys in plan.filename_to_tensors.items():
        save_file({key: weights[key].contiguous() for key in keys}, folder / name, {"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / "diffusion_pytorch_model.safetensors.index.json", index)
