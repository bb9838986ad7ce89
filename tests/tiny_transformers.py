"""Tiny random transformers of the classes that are known, by a short name."""

import diffusers
import torch

SIZE = {"sample_size": 8, "in_channels": 4, "patch_size": 2}
HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}


def _built(kind, **settings):
    torch.manual_seed(0)
    model = kind(**settings).eval().requires_grad_(False)
    for parameter in model.parameters():  # tables that scale and shift, gates among them, begin at zero or small
        if parameter.ndim == 2 and parameter.std() < 1e-8:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def dit(**changes):
    settings = {"num_layers": 4, "out_channels": 8, "num_embeds_ada_norm": 1000, "activation_fn": "gelu-approximate"}
    return _built(diffusers.DiTTransformer2DModel, **SIZE | HEADS | settings, norm_elementwise_affine=False, **changes)


def pixart(**changes):
    settings = {"num_layers": 3, "out_channels": 8, "cross_attention_dim": 16, "caption_channels": 12}
    return _built(diffusers.PixArtTransformer2DModel, **SIZE | HEADS | settings | changes)


def sd3(**changes):
    text = {"joint_attention_dim": 12, "caption_projection_dim": 16, "pooled_projection_dim": 10}
    settings = SIZE | HEADS | text | {"num_layers": 3, "out_channels": 4, "pos_embed_max_size": 8}
    settings |= {"dual_attention_layers": (0,), "qk_norm": "rms_norm"}
    return _built(diffusers.SD3Transformer2DModel, **settings | changes)


def flux(**changes):
    text = {"joint_attention_dim": 12, "pooled_projection_dim": 10, "guidance_embeds": True}
    layers = {"num_layers": 2, "num_single_layers": 2, "axes_dims_rope": (2, 2, 4), "in_channels": 16}
    return _built(diffusers.FluxTransformer2DModel, **HEADS | text | layers | changes)


def hunyuan(**changes):
    text = {"cross_attention_dim": 12, "cross_attention_dim_t5": 16, "pooled_projection_dim": 8}
    lengths = {"text_len": 5, "text_len_t5": 4, "hidden_size": 16, "mlp_ratio": 2.0, "num_layers": 6}
    return _built(diffusers.HunyuanDiT2DModel, **SIZE | HEADS | text | lengths | changes)


def sana(**changes):
    cross = {"num_cross_attention_heads": 2, "cross_attention_head_dim": 8, "cross_attention_dim": 16}
    settings = SIZE | HEADS | cross | {"num_layers": 3, "out_channels": 4, "caption_channels": 12}
    return _built(diffusers.SanaTransformer2DModel, **settings | changes)


def lumina(**changes):
    rope = {"axes_dim_rope": (2, 2, 4), "axes_lens": (16, 16, 16)}
    layers = {"num_layers": 2, "num_refiner_layers": 1, "num_attention_heads": 4, "num_kv_heads": 2}
    settings = SIZE | rope | layers | {"hidden_size": 32, "multiple_of": 8, "cap_feat_dim": 12}
    return _built(diffusers.Lumina2Transformer2DModel, **settings | changes)


def qwen(**changes):
    settings = {"in_channels": 16, "out_channels": 4, "num_layers": 3, "joint_attention_dim": 12}
    return _built(diffusers.QwenImageTransformer2DModel, **HEADS | settings, axes_dims_rope=(2, 2, 4), **changes)


def wan(**changes):
    settings = {"in_channels": 4, "out_channels": 4, "num_layers": 3, "text_dim": 12, "freq_dim": 16, "ffn_dim": 24}
    return _built(diffusers.WanTransformer3DModel, **HEADS | settings | {"attention_head_dim": 12} | changes)


TRANSFORMERS = {
    "dit": dit,
    "pixart": pixart,
    "sd3": sd3,
    "flux": flux,
    "hunyuan": hunyuan,
    "sana": sana,
    "lumina": lumina,
    "qwen": qwen,
    "wan": wan,
}
