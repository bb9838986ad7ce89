"""Write the weights of a Stable Diffusion pipeline in one file, with the names of the original checkpoints."""

import re
from pathlib import Path

import diffusers
import torch
from safetensors.torch import save_file

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0"}
RESNET |= {"conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
ENDS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
ENDS |= {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
VAE = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
}
VAE |= {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
VAE |= {"conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out"}


def save_single_file(pipe: diffusers.StableDiffusionPipeline, file: Path) -> None:
    names, sources = (
        {},
        {"model.diffusion_model.": (pipe.unet, _unet_name), "first_stage_model.": (pipe.vae, _vae_name)},
    )
    sources["cond_stage_model.transformer.text_model."] = (pipe.text_encoder, lambda name, _: name)
    for prefix, (network, rename) in sources.items():
        names |= {prefix + rename(name, network): tensor for name, tensor in network.state_dict().items()}
    convolutions = re.compile(r"first_stage_model.*mid\.attn_1\.(q|k|v|proj_out)\.weight")
    save_file({name: x[..., None, None] if convolutions.fullmatch(name) else x for name, x in names.items()}, file)


def _replace(name: str, table: dict[str, str]) -> str:
    for ours, theirs in table.items():
        name = re.sub(rf"(^|\.){re.escape(ours)}\.", rf"\g<1>{theirs}.", name)
    return name


def _unet_name(name: str, unet: torch.nn.Module) -> str:
    layers = unet.config.layers_per_block + 1
    if found := re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", name):
        side, block, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        first = block * layers + (side == "down")
        if kind == "downsamplers":
            return f"input_blocks.{first + layers - 1}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            attends = hasattr(unet.up_blocks[block], "attentions")
            return f"output_blocks.{first + layers - 1}.{1 + attends}.{rest}"
        rest = _replace(rest, RESNET) if kind == "resnets" else rest
        return f"{'input' if side == 'down' else 'output'}_blocks.{first + layer}.{int(kind == 'attentions')}.{rest}"
    if found := re.match(r"mid_block\.(\w+)\.(\d)\.(.+)", name):
        if found[1] == "attentions":
            return f"middle_block.1.{found[3]}"
        return f"middle_block.{2 * int(found[2])}.{_replace(found[3], RESNET)}"
    return _replace(name, ENDS)


def _vae_name(name: str, vae: torch.nn.Module) -> str:
    last = len(vae.config.block_out_channels) - 1
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda found: f"up.{last - int(found[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{last - int(found[1])}.upsample", name)
    return _replace(name, VAE)
