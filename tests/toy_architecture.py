"""An architecture that diffusers does not have, all that it takes to add one: two streams, latents and text, side by
side. Every exact property is tested on it as on the others, see `conftest.DENOISERS`.

the project needs `walk`, `example_inputs` and an adapter of its pipeline; two rows register them.
"""

import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn

from explorer.models.architectures import DENOISERS
from explorer.models.denoiser_spec import DenoiserSpec, Layer, latents_and_timestep, own_branches
from explorer.models.pipeline_adapter import PipelineAdapter, cat
from explorer.models.pipelines import PIPELINES

NUM_TOKENS, WIDTH = 5, 8


class TwoStreamAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.text_qkv = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.out, self.text_out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q, k, v = torch.cat([self.qkv(x), self.text_qkv(text)], dim=1).chunk(3, dim=2)
        joint = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(joint[:, : x.shape[1]]), self.text_out(joint[:, x.shape[1] :])


class TwoStreamFeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.text_net = (nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH)) for _ in "ab")

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.net(x), self.text_net(text)


class ToyBlock(nn.Module):
    """A block that returns the text first, as MM-DiT's blocks do."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.ff = TwoStreamAttention(), TwoStreamFeedForward()

    def forward(
        self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, temb: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        for part in (self.attn, self.ff):
            change, text_change = part(hidden_states + temb, encoder_hidden_states)
            hidden_states, encoder_hidden_states = hidden_states + change, encoder_hidden_states + text_change
        return encoder_hidden_states, hidden_states


class ToyTransformer(diffusers.ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, in_channels: int = 3, sample_size: int = 8, num_layers: int = 4):
        super().__init__()
        self.embed, self.text_embed = nn.Conv2d(in_channels, WIDTH, 2, 2), nn.Linear(WIDTH, WIDTH)
        self.time = nn.Linear(1, WIDTH)
        self.blocks = nn.ModuleList(ToyBlock() for _ in range(num_layers))
        self.last = nn.Linear(2 * WIDTH, in_channels * 4)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        return_dict: bool = True,
    ) -> Any:
        height, width = sample.shape[2] // 2, sample.shape[3] // 2
        x, text = self.embed(sample).flatten(2).transpose(1, 2), self.text_embed(encoder_hidden_states)
        temb = self.time(timestep.reshape(-1, 1, 1).to(x.dtype) / 1000)
        for index, block in enumerate(self.blocks):
            if index % 2:  # some pipelines pass streams by name, some by position
                text, x = block(encoder_hidden_states=text, hidden_states=x, temb=temb)
            else:
                text, x = block(x, text, temb)
        x = self.last(torch.cat([x, text.mean(1, keepdim=True).expand_as(x)], dim=2))  # so that it reads both
        x = nn.functional.pixel_shuffle(x.transpose(1, 2).unflatten(2, (height, width)), 2)
        return SimpleNamespace(sample=x) if return_dict else (x,)


class ToyPipeline(diffusers.DiffusionPipeline):
    """Text without an encoder: a one-hot vector for each of its first letters."""

    def __init__(self, transformer: ToyTransformer, scheduler: Any):
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)

    def encode_prompt(self, prompts: list[str]) -> torch.Tensor:
        letters = [[ord(letter) % WIDTH for letter in f"{prompt:{NUM_TOKENS}}"[:NUM_TOKENS]] for prompt in prompts]
        return nn.functional.one_hot(torch.tensor(letters), WIDTH).to(self.transformer.dtype)

    @torch.no_grad()
    def __call__(
        self,
        prompt: list[str],
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        generator: Any = None,
        output_type: str = "np",
    ) -> Any:
        shape = (1, self.transformer.config.in_channels, *[self.transformer.config.sample_size] * 2)
        x = torch.cat([torch.randn(shape, generator=one) for one in generator])
        text, guided = self.encode_prompt(prompt), guidance_scale > 1
        text = torch.cat([self.encode_prompt([""] * len(prompt)), text]) if guided else text
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            both = self.scheduler.scale_model_input(torch.cat([x, x]) if guided else x, t)
            output = self.transformer(both, t, text, return_dict=False)[0]
            if guided:
                without, with_prompt = output.chunk(2)
                output = without + guidance_scale * (with_prompt - without)
            options = (
                {"generator": generator} if "generator" in inspect.signature(self.scheduler.step).parameters else {}
            )
            x = self.scheduler.step(output, t, x, **options, return_dict=False)[0]
        return SimpleNamespace(images=(x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy())


# -- what the project needs


def walk(transformer: Any) -> Iterator[Layer]:
    """Yield the blocks; each is its own stage and hands on two streams."""
    for index, _ in enumerate(transformer.blocks):
        name = f"blocks.{index}"
        reads = (index - 1,) if index else ()
        yield Layer(name, name, (name,), reads, True, ("encoder_hidden_states", "hidden_states"))


def example_inputs(transformer: Any, size: int, text_length: int) -> dict[str, Any]:
    """Build the arguments of a call for one batch element."""
    text = torch.zeros(1, NUM_TOKENS, WIDTH, device=transformer.device)
    return {**latents_and_timestep(transformer, size, "sample"), "encoder_hidden_states": text}


class ToyAdapter(PipelineAdapter):
    denoiser = "transformer"

    def encode(self, pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
        text = pipe.encode_prompt(prompts)
        return {"encoder_hidden_states": cat([pipe.encode_prompt([""] * len(prompts)), text]) if guided else text}


DENOISERS["ToyTransformer"] = DenoiserSpec(walk, example_inputs, branches=own_branches("attn", "ff"))
PIPELINES["ToyPipeline"] = ToyAdapter()

# From here on diffusers loads them from a folder, as it would if they were its own.
for _class in (ToyTransformer, ToyPipeline):
    _class.__module__ = "diffusers"
    setattr(diffusers, _class.__name__, _class)
