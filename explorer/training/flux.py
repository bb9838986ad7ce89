"""emoji-flux: a small FLUX (double and single blocks) that learns flow matching, then guidance, then four steps.

Three runs, each from the one before: `emoji-flux-teacher` learns from the pictures; `emoji-flux` what guidance makes of
that network, from a number that it is told; `emoji-flux-turbo` to go as far with 4 steps as that one with 16, and what
changed is kept as LoRA.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import nn

from explorer.models import catalogue
from explorer.models.pipeline_files import load_folder
from explorer.models.pipelines import PIPELINES
from explorer.training import autoencoder, clip, lora, provenance
from explorer.training import data as pictures
from explorer.training.captions import list_words
from explorer.training.export import export, make_vocabulary
from explorer.training.loop import Loss, runs_folder
from explorer.training.options import TrainingOptions
from explorer.training.provenance import TrainingRun
from explorer.training.sampling import NUM_SAMPLES, generate_pictures, pick_evenly
from explorer.training.trainer import DenoiserTrainer, TrainerConfig
from explorer.training.unet import (
    NOISINESS,
    Captions,
    decoder_runs,
    draw_indices,
    latest_autoencoder,
    latest_text_tower,
)

TEACHER = TrainerConfig("emoji-flux-teacher", folder="transformer", part="teacher", batch=32, learning_rate=2e-3)
CONFIG = TrainerConfig("emoji-flux", folder="transformer", part="guidance", batch=32, learning_rate=5e-4)
TURBO = TrainerConfig("emoji-flux-turbo", folder="transformer", part="four steps", batch=32, learning_rate=1.5e-4)
GUIDANCE = catalogue.own_run(CONFIG.name)["guidance"]  # FluxPipeline's own default; what TURBO is distilled at
NUM_STEPS = catalogue.own_run(TURBO.name)["steps"]
LORA_RANK = 8  # of TURBO: 0, 8, 16 and all give 35.4, 39.3, 40.6 and 43.1 dB to 20 steps
MAX_GUIDANCE = 6.0  # that emoji-flux learns
TEXT_LENGTH = 12  # tokens of T5: style, name and two tags in words
TEXT_WIDTH = 128
SUBSTEPS = 4  # of the teacher, to each step of emoji-flux-turbo
_ADAPTER = PIPELINES["FluxPipeline"]


def build(pooled_width: int, guidance_embeds: bool = True) -> FluxTransformer2DModel:
    """Build a fresh transformer: 9 blocks of 8 narrow heads, in FLUX's ratio of double to single ones.

    As in `dit.build`, each block starts as the identity and the output as zero.
    """
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * autoencoder.LATENT_CHANNELS,
        num_layers=3,
        num_single_layers=6,
        attention_head_dim=16,
        num_attention_heads=8,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=pooled_width,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    double = [norm.linear for block in model.transformer_blocks for norm in (block.norm1, block.norm1_context)]
    single = [block.norm.linear for block in model.single_transformer_blocks]
    for layer in (*double, *single, model.norm_out.linear, model.proj_out):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def make_text_encoder(emoji: pictures.Emoji) -> tuple[transformers.T5Tokenizer, transformers.T5EncoderModel]:
    """Make a tiny T5, untrained, to which each word of the captions is one token and any other a few letters."""
    words = dict.fromkeys(f"▁{word}" for word in list_words(emoji))
    letters = dict.fromkeys(letter for word in words for letter in word)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(letter, -20.0) for letter in letters] + [(word, -5.0) for word in words if word not in letters]
    tokenizer = transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=TEXT_LENGTH)
    sizes = {"d_model": TEXT_WIDTH, "d_kv": 16, "num_heads": 8, "d_ff": 256, "num_layers": 2}
    config = transformers.T5Config(vocab_size=len(pieces), dropout_rate=0.0, **sizes)
    return tokenizer, transformers.T5EncoderModel(config).eval()


class TextAndTransformer(nn.Module):
    """What is trained together: the T5 and the transformer that reads what it makes of a caption."""

    def __init__(self, transformer: FluxTransformer2DModel, text_encoder: transformers.T5EncoderModel):
        super().__init__()
        self.transformer, self.text_encoder = transformer, text_encoder

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, ids: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        text = self.text_encoder(ids).last_hidden_state
        return predict(self.transformer, x, sigma, {"encoder_hidden_states": text, "pooled_projections": pooled}, 1.0)


def predict(
    transformer: FluxTransformer2DModel, x: torch.Tensor, sigma: torch.Tensor, condition: dict, guidance: Any
) -> torch.Tensor:
    """Predict the velocity (B, C, h, w) of x at noise levels sigma (B,) by what generates pictures as well."""
    rows, columns = (side // 2 for side in x.shape[2:])
    places = FluxPipeline._prepare_latent_image_ids(len(x), rows, columns, x.device, x.dtype)
    text_places = torch.zeros(condition["encoder_hidden_states"].shape[1], 3, device=x.device)
    given = condition | {"img_ids": places, "txt_ids": text_places}
    return _ADAPTER.call(transformer, x, 1000 * sigma, given, guidance)


class TrainingSet:
    """Latents, captions and the parts of a pipeline that all three runs share."""

    def __init__(self, options: TrainingOptions, text: Path | None):
        self.emoji = pictures.load(options.data).where(lambda item: item.name in pictures.well_known_names())
        self.latents = autoencoder.encode(latest_autoencoder(), self.emoji.pictures, options.device)
        self.tower, self.tokenizer = latest_text_tower()
        self.t5_tokenizer, self.t5 = make_text_encoder(self.emoji)
        if text:
            self.t5_tokenizer = transformers.T5Tokenizer.from_pretrained(text / "tokenizer_2")
            self.t5 = transformers.T5EncoderModel.from_pretrained(text / "text_encoder_2").float().eval()

    def encode(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """Encode captions by the frozen tower of CLIP, and as tokens of T5."""
        pooled = self.tower(**clip.tokenize(self.tokenizer, texts)).pooler_output
        return {"pooled": pooled, "ids": clip.tokenize(self.t5_tokenizer, texts)["input_ids"]}

    def encode_whole(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """Encode captions by both text encoders, as arguments of the transformer."""
        tokens = self.encode(texts)
        text = self.t5(tokens["ids"]).last_hidden_state
        return {"encoder_hidden_states": text, "pooled_projections": tokens["pooled"]}

    def publish(self, transformer: FluxTransformer2DModel, out: Path, runs: list[TrainingRun]) -> None:
        """Write a pipeline of this transformer."""
        scheduler, vae = FlowMatchEulerDiscreteScheduler(), latest_autoencoder()
        vae.register_to_config(shift_factor=0.0)  # which FluxPipeline requires
        parts = (self.tower, self.tokenizer, self.t5, self.t5_tokenizer, transformer)
        pipe = FluxPipeline(scheduler, vae, *parts)
        export(pipe, make_vocabulary(self.emoji), out, runs, torch.float16)


def make_flow_loss(model: TextAndTransformer, given: TrainingSet, captions: Captions, device: Any, batch: int) -> Loss:
    """Make the loss of flow matching (Lipman et al. 2023): x = (1 - sigma) picture + sigma noise moves by noise -
    picture."""

    def loss(generator: torch.Generator, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        picture, condition = _draw(given.latents, captions, batch, generator, device)
        x, sigma, noise = _add_noise(picture, generator)
        return F.mse_loss(model(x, sigma, **condition).float(), noise - picture), {}

    return loss


def _draw(
    latents: torch.Tensor, captions: Captions, batch: int, generator: torch.Generator, device: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    rng = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
    index = draw_indices(captions.has_bare_style, batch, rng)
    condition = captions.draw(index, rng)
    return latents[index].to(device), {name: value.to(device) for name, value in condition.items()}


def _add_noise(picture: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mix each picture (B, C, h, w) with noise, at levels that are spread evenly; returns mixture, levels and noise."""
    even = (torch.arange(len(picture)) + torch.rand(len(picture), generator=generator)) / len(picture)
    noise = torch.randn(picture.shape, generator=generator).to(picture.device)
    sigma = (even**NOISINESS).to(picture.device)
    return torch.lerp(picture, noise, sigma[:, None, None, None]), sigma, noise


def make_guidance_loss(
    student: FluxTransformer2DModel, teacher: FluxTransformer2DModel, given: TrainingSet, captions: Captions, batch: int
) -> Loss:
    """Make the loss of guidance distillation (Meng et al. 2023, section 3.1): what two passes give, from one."""
    nothing = _nothing(given, batch, device := teacher.device)

    def loss(generator: torch.Generator, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        picture, condition = _draw(given.latents, captions, batch, generator, device)
        x, sigma, _ = _add_noise(picture, generator)
        guidance = 1 + (MAX_GUIDANCE - 1) * torch.rand(batch, generator=generator).to(device)
        with torch.no_grad():
            with_prompt = predict(teacher, x, sigma, condition, 1.0)
            without = predict(teacher, x, sigma, nothing, 1.0)
            target = without + guidance[:, None, None, None] * (with_prompt - without)
        return F.mse_loss(predict(student, x, sigma, condition, guidance), target), {}

    return loss


@torch.no_grad()
def _nothing(given: TrainingSet, batch: int, device: Any) -> dict[str, torch.Tensor]:
    return {name: value.expand(batch, *value.shape[1:]).to(device) for name, value in given.encode_whole([""]).items()}


def make_step_loss(
    student: FluxTransformer2DModel, teacher: FluxTransformer2DModel, given: TrainingSet, captions: Captions, batch: int
) -> Loss:
    """Make the loss of progressive distillation (Salimans & Ho 2022, algorithm 2): one step of the student to where
    some of the teacher's lead. All four steps learn at once, from a whole run of the teacher, which starts at noise."""
    steps, device = NUM_STEPS, teacher.device

    def loss(generator: torch.Generator, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        picture, condition = _draw(given.latents, captions, batch // steps, generator, device)
        x = torch.randn(picture.shape, generator=generator).to(device)
        levels, states = torch.linspace(1, 0, steps * SUBSTEPS + 1).to(device), [x]
        with torch.no_grad():
            for now, then in zip(levels, levels[1:], strict=False):
                x = x + (then - now) * predict(teacher, x, now.expand(len(x)), condition, GUIDANCE)
                states.append(x)
        whole = states[::SUBSTEPS]
        start, target = torch.cat(whole[:-1]), (torch.cat(whole[:-1]) - torch.cat(whole[1:])) * steps
        sigma = levels[::SUBSTEPS][:-1].repeat_interleave(len(x))
        repeated = {name: value.repeat(steps, *[1] * (value.ndim - 1)) for name, value in condition.items()}
        return F.mse_loss(predict(student, start, sigma, repeated, GUIDANCE), target), {}

    return loss


def train_teacher(options: TrainingOptions) -> None:
    """Train transformer and T5 on the well-known names, and write the pipeline to `out` (default: the run's folder).

    `resume` continues from the run's checkpoint. Needs emoji-unet's autoencoder and emoji-clip; raises ValueError
    without.
    """
    options = replace(options, out=options.out or teacher_folder())
    trainer, given = DenoiserTrainer(TEACHER, options), TrainingSet(options, None)
    model = TextAndTransformer(build(given.tower.config.hidden_size), given.t5.train()).to(trainer.device)
    captions = Captions(given.emoji, given.encode, options.seed)

    def publish(trained: TextAndTransformer, runs: list[TrainingRun]) -> None:
        given.publish(trained.transformer, trainer.out, [*decoder_runs(trainer.out), *runs])

    own_run = catalogue.own_run(CONFIG.name)
    loss = make_flow_loss(model, given, captions, trainer.device, trainer.micro_batch)
    trainer.run(model, loss, publish, _grid(trainer.out, None, given.emoji.names, **own_run | {"guidance": 1.0}))


def teacher_folder() -> Path:
    """Name the folder of the pipeline that emoji-flux is distilled from."""
    return runs_folder(TEACHER.name) / "pipeline"


def train(options: TrainingOptions) -> None:
    """Distil guidance into emoji-flux; raises ValueError without a trained emoji-flux-teacher."""
    _distil(options, CONFIG, teacher_folder(), make_guidance_loss)


def train_turbo(options: TrainingOptions) -> None:
    """Distil emoji-flux to four steps; raises ValueError where it is not there."""
    _distil(options, TURBO, catalogue.ASSETS / CONFIG.name, make_step_loss)


def _distil(options: TrainingOptions, config: TrainerConfig, source: Path, make_loss: Callable[..., Loss]) -> None:
    if not (source / "model_index.json").exists():
        raise ValueError(f"{config.name} is distilled from {source.name}, which is not there: train it first")
    trainer, given = DenoiserTrainer(config, options), TrainingSet(options, source)
    teacher = FluxTransformer2DModel.from_pretrained(source / "transformer").float().requires_grad_(False)
    has_guidance = config is CONFIG
    student = trainer.prepare(build(given.tower.config.hidden_size, has_guidance))
    start = teacher.state_dict() if has_guidance else without_guidance(teacher, GUIDANCE)
    teacher.to(trainer.device)
    if not (trainer.resume and (trainer.out / "transformer").exists()):
        student.load_state_dict(start)
    captions = Captions(given.emoji, given.encode_whole, options.seed)

    def publish(trained: FluxTransformer2DModel, runs: list[TrainingRun]) -> None:
        if has_guidance:
            given.publish(trained, trainer.out, [*provenance.read(source), *runs])
        else:
            lora.export(lora.factor(start, trained.state_dict(), LORA_RANK), trainer.out, runs)

    folder, added = (trainer.out, None) if has_guidance else (source, trainer.out)
    loss = make_loss(student, teacher, given, captions, trainer.micro_batch)
    trainer.run(student, loss, publish, _grid(folder, added, given.emoji.names, **catalogue.own_run(config.name)))


@torch.no_grad()
def without_guidance(transformer: FluxTransformer2DModel, guidance: float) -> dict[str, torch.Tensor]:
    """Make the weights of a transformer without guidance that does what this one does at `guidance`: what it adds to
    the embedding of the time is constant."""
    embedder = transformer.time_text_embed
    number = torch.tensor([1000 * guidance], dtype=torch.float32)
    constant = embedder.guidance_embedder(embedder.time_proj(number))[0]
    weights = {name: value for name, value in transformer.state_dict().items() if ".guidance_embedder." not in name}
    bias = "time_text_embed.timestep_embedder.linear_2.bias"
    return weights | {bias: weights[bias] + constant}


def _grid(folder: Path, added: Path | None, names: Sequence[str], **run: Any) -> Callable[[], np.ndarray]:
    """Make what draws the sample grid with a pipeline, and with the LoRA in `added` if there is one."""
    chosen = pick_evenly(names, NUM_SAMPLES)
    return lambda: generate_pictures(
        load_folder(folder, folder.name, True, "cpu", "float32", lora=added), chosen, **run
    )
