"""The transformer over the ranks: FSDP2 shards of float32 master weights, read once; optimiser and moving average."""

import contextlib
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
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from srpo.core.backbones.backbone import Backbone
from srpo.core.backbones.conditioning import DTYPES
from srpo.core.objective import draws
from srpo.core.storage.files import appearing, write_json
from srpo.train.config import Config

ADAPTER = "default"
BLOCKS = ("transformer_blocks", "single_transformer_blocks")  # what is sharded by itself, where a model has it
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
    """The transformer of ``folder``, of a ``kind`` of backbone, sharded over all ranks, in the configured dtypes.

    Trained parameters are kept in float32; with LoRA the frozen base is kept in the compute dtype. Only rank 0
    reads the weights; the others start from empty shards. Gathered weights stay between the forwards of a rollout and
    are dropped by the backward pass, so that a rollout costs one all-gather and not one a model call.
    """
    compute, master = DTYPES[config.compute_dtype], torch.float32
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
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for name in BLOCKS:
        for block in getattr(model, name, ()):
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    model.to_empty(device=device)
    whole: dict[str, Any] = initial_weights(config, model, folder) if dist.get_rank() == 0 else {}
    set_model_state_dict(model, whole, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return model.train()


def initial_weights(config: Config, model: Any, folder: Path) -> dict[str, Tensor]:
    """The base's weights under the model's own names; LoRA's A is drawn from the seed and its B is zero."""
    stored = read_weights(folder)
    weights = {}
    for name, parameter in model.state_dict().items():
        if ".lora_A." in name:
            weights[name] = draws.noise(tuple(parameter.shape), config.seed, "lora", name) / config.lora_rank
        elif ".lora_B." in name:
            weights[name] = torch.zeros(tuple(parameter.shape))
        else:
            weights[name] = stored[name.replace(".base_layer.", ".")]  # cast as it is copied, tensor by tensor
    return weights


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a diffusers model folder, from one safetensors file or its shards.

    They are views of the mapped files: a page is read when its tensor is copied to the shards, and never copied whole.
    """
    weights: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
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
    """AdamW over the shards of the trained parameters."""
    betas = (config.beta1, config.beta2)
    parameters = trained_parameters(model)
    return torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=betas, weight_decay=config.weight_decay, foreach=True
    )


class MovingAverage:
    """An exponential moving average of the trained shards; while it is ``swapped`` in, the model is the average."""

    def __init__(self, model: Any, decay: float) -> None:
        self.model, self.decay = model, decay
        self.shards = {name: _local(p).detach().clone() for name, p in self._named()} if decay else {}

    def update(self) -> None:
        """Move towards the model's present weights; call after each optimiser step."""
        if self.decay:
            for name, parameter in self._named():
                self.shards[name].lerp_(_local(parameter).detach(), 1 - self.decay)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Within, the model has the averaged weights; without a decay nothing changes."""
        drop_gathered(self.model)
        self._swap()
        try:
            yield
        finally:
            drop_gathered(self.model)
            self._swap()

    def state(self) -> dict[str, Any]:
        """The average as a state dict of sharded tensors, for a distributed checkpoint."""
        return {
            name: DTensor.from_local(
                self.shards[name], p.device_mesh, p.placements, shape=p.shape, stride=p.stride(), run_check=False
            )
            for name, p in self._named()
            if self.decay
        }

    def _swap(self) -> None:
        if self.decay:
            for name, parameter in self._named():
                local = _local(parameter).detach()
                held = local.clone()
                local.copy_(self.shards[name])
                self.shards[name].copy_(held)

    def _named(self) -> list[tuple[str, Any]]:
        return [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]


def save_weights(config: Config, model: Any, folder: Path) -> None:
    """Write the whole transformer as bfloat16 safetensors in a diffusers folder, from rank 0; it appears whole.

    LoRA is merged, so that every consumer can load it; the adapter alone lies beside it in ``lora/``.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = get_model_state_dict(model, options=options)
    if dist.get_rank() == 0:
        adapter = {name: value for name, value in weights.items() if ".lora_" in name}
        whole = merged(weights, config.lora_alpha / config.lora_rank) if config.lora_rank else weights
        shutil.rmtree(folder, ignore_errors=True)
        with appearing(folder) as partial:
            partial.mkdir()
            model.save_config(partial)
            write_shards({name: value.to(torch.bfloat16) for name, value in whole.items()}, partial)
            if adapter:
                (partial / "lora").mkdir()
                named = {f"transformer.{name.replace(f'.{ADAPTER}.', '.')}": v for name, v in adapter.items()}
                save_file({name: value.contiguous() for name, value in named.items()}, partial / "lora" / LORA_FILE)
    dist.barrier()


def merged(weights: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Base weights with ``scale * B A`` added, under the names of a model without adapters; computed in float32."""
    whole = {name.replace(".base_layer.", "."): value for name, value in weights.items() if ".lora_" not in name}
    for name, a in weights.items():
        if f".lora_A.{ADAPTER}." in name:
            b = weights[name.replace(".lora_A.", ".lora_B.")]
            target = name.replace(f".lora_A.{ADAPTER}.", ".")
            whole[target] = whole[target].float() + scale * (b.float() @ a.float())
    return whole


def write_shards(weights: dict[str, Tensor], folder: Path) -> None:
    """Write tensors as diffusers does: one file, or shards of 10 GB with an index."""
    pattern = "diffusion_pytorch_model{suffix}.safetensors"
    plan = split_torch_state_dict_into_shards(weights, filename_pattern=pattern, max_shard_size="10GB")
    for name, keys in plan.filename_to_tensors.items():
        save_file({key: weights[key].contiguous() for key in keys}, folder / name, {"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / "diffusion_pytorch_model.safetensors.index.json", index)


def _local(parameter: Any) -> Tensor:
    local: Tensor = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return local
