"""The names of FLUX.1's original layout, which ComfyUI and the original code read, and what each tensor is made of.

Query, key and value of a block are one matrix (in single blocks with the MLP's input), and the last modulation has
shift before scale. Needs no torch.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from srpo.core.contracts.errors import InputError

WHOLE = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
DOUBLE = {
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
DOUBLE_NORMS = {
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
}
SINGLE = {
    "modulation.lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
}
SINGLE_NORMS = {"norm.query_norm": "attn.norm_q", "norm.key_norm": "attn.norm_k"}


class Target(NamedTuple):
    """A tensor of the original layout: the diffusers tensors that it is made of, row by row."""

    name: str
    sources: tuple[str, ...]
    swapped: bool = False  # its two halves change places


def layout(double: int, single: int, guidance: bool) -> list[Target]:
    """Every tensor of the original layout of a model with that many blocks, in order."""
    targets = []

    def linear(name: str, sources: tuple[str, ...], swapped: bool = False) -> None:
        for part in ("weight", "bias"):
            targets.append(Target(f"{name}.{part}", tuple(f"{source}.{part}" for source in sources), swapped))

    for name, source in WHOLE.items():
        if guidance or not name.startswith("guidance_in"):
            linear(name, (source,))
    linear("final_layer.adaLN_modulation.1", ("norm_out.linear",), swapped=True)
    for count, blocks, here, linears, norms in (
        (double, "double_blocks", "transformer_blocks", DOUBLE, DOUBLE_NORMS),
        (single, "single_blocks", "single_transformer_blocks", SINGLE, SINGLE_NORMS),
    ):
        for block in range(count):
            for name, sources in linears.items():
                linear(f"{blocks}.{block}.{name}", tuple(f"{here}.{block}.{source}" for source in sources))
            for name, source in norms.items():
                targets.append(Target(f"{blocks}.{block}.{name}.scale", (f"{here}.{block}.{source}.weight",)))
    return targets


def layout_of(config: Mapping[str, Any], names: Iterable[str]) -> list[Target]:
    """The original layout of the transformer with the settings ``config``; ``names`` are its tensors in diffusers.

    Raises:
        InputError: it is no FLUX.1 transformer, a tensor is missing, or one has no place in the layout.
    """
    if config.get("_class_name") != "FluxTransformer2DModel":
        given = config.get("_class_name")
        raise InputError(f"the transformer is a {given}: the original layout must be of a FluxTransformer2DModel")
    targets = layout(config["num_layers"], config["num_single_layers"], bool(config.get("guidance_embeds")))
    wanted, given = {name for target in targets for name in target.sources}, set(names)
    if wanted != given:
        missing, extra = sorted(wanted - given), sorted(given - wanted)
        words = f"lacks {missing[0]!r}" if missing else f"has {extra[0]!r}, which the original layout does not know"
        raise InputError(f"the transformer {words}: it must be a whole FLUX.1 transformer")
    return targets
