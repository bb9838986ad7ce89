"""emoji-flux: three short runs, each from the one before, make what loads, generate and do what is asked."""

import pytest
import torch

from explorer import training
from explorer.models import catalogue
from explorer.sampling.generate import generate
from explorer.training import flux, provenance
from explorer.training.options import TrainingOptions
from explorer.training.unet import Captions, latest_autoencoder
from tests.test_generators import emoji  # noqa: F401 (a fixture)

pytestmark = pytest.mark.slow
MINUTES = 0.02


@pytest.fixture
def given(emoji):  # noqa: F811
    return flux.TrainingSet(TrainingOptions(MINUTES), None)


def lively(guidance_embeds=True):
    """Build a transformer whose blocks and output do something, which those of a fresh one do not."""
    torch.manual_seed(0)
    model = flux.build(192, guidance_embeds)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model.requires_grad_(False)


def test_three_short_runs_make_a_pipeline_and_its_lora(given, tmp_path, monkeypatch):
    monkeypatch.setattr(flux, "latest_autoencoder", lambda vae=latest_autoencoder(): vae)
    monkeypatch.setattr(flux, "latest_text_tower", lambda: (given.tower, given.tokenizer))
    monkeypatch.setattr(catalogue, "ASSETS", tmp_path)
    with pytest.raises(ValueError, match="train it first"):
        training.train("emoji-flux", minutes=MINUTES)
    for name, parts in (
        ("emoji-flux-teacher", []),
        ("emoji-flux", ["teacher", "guidance"]),
        ("emoji-flux-turbo", ["four steps"]),
    ):
        training.train(name, minutes=MINUTES)
        if not parts:
            continue
        model = catalogue.load(name)
        assert model.denoiser.config.guidance_embeds
        assert (model.text_length, model.latent_size) == (flux.TEXT_LENGTH, (16, 16))
        assert model.pipe.text_encoder.dtype == model.pipe.text_encoder_2.dtype == model.denoiser.dtype == torch.float32
        *_, (frame, shown) = generate(model, [given.emoji.names[0]], [0], "euler", 4, flux.GUIDANCE, previews=1)
        assert frame.done and shown.shape == (1, 3, 64, 64)
        before = provenance.read(tmp_path / name)
        training.train(name, minutes=MINUTES, resume=True)
        after = provenance.read(tmp_path / name)
        assert [run["part"] for run in before] == [run["part"] for run in after] == parts
        assert after[-1]["steps"] > before[-1]["steps"]
    files = sorted(file.name for file in (tmp_path / "emoji-flux-turbo").iterdir())
    assert files == ["pytorch_lora_weights.safetensors", "training.json"]


def test_words_of_captions_are_one_token_each(given):
    item = given.emoji.items[0]
    ids = given.encode([f"flat {item.name}", "zebra"])["ids"]
    assert (ids[0] != 0).sum() == 2 + item.name.count(" ") + 1 and (ids[1] != 0).sum() > 3
    assert len(set(given.encode(["", item.name])["pooled"][:, 0].tolist())) == 2


@torch.no_grad()
def test_what_guidance_adds_is_constant_for_one_guidance(given):
    teacher, same = lively(), flux.build(192, guidance_embeds=False)
    same.load_state_dict(flux.without_guidance(teacher, 3.5))
    x, sigma = torch.randn(2, 12, 16, 16), torch.tensor([0.9, 0.2])
    condition = given.encode_whole(["dog", ""])
    expected = flux.predict(teacher, x, sigma, condition, 3.5)
    assert torch.allclose(flux.predict(same, x, sigma, condition, 3.5), expected, atol=1e-5)
    assert not torch.allclose(flux.predict(teacher, x, sigma, condition, 1.0), expected, atol=1e-3)


@torch.no_grad()
def test_losses_vanish_for_what_they_ask_for(given, monkeypatch):
    teacher, generator = lively(), torch.Generator()
    captions = Captions(given.emoji, given.encode_whole, 0)
    own = flux.predict

    def as_guided(model, x, sigma, condition, guidance):
        """Let the student be what guidance makes of the teacher."""
        if model is teacher:
            return own(teacher, x, sigma, condition, guidance)
        nothing = {name: value.expand_as(condition[name]) for name, value in given.encode_whole([""]).items()}
        with_prompt, without = (own(teacher, x, sigma, one, 1.0) for one in (condition, nothing))
        return without + guidance[:, None, None, None] * (with_prompt - without)

    monkeypatch.setattr(flux, "predict", as_guided)
    loss, _ = flux.make_guidance_loss(object(), teacher, given, captions, 4)(generator.manual_seed(1), 0)
    assert loss < 1e-9

    def as_jump(model, x, sigma, condition, guidance):
        """Let the student go in one step where four of the teacher lead."""
        if model is teacher:
            return own(teacher, x, sigma, condition, guidance)
        start, now = x, sigma
        for _ in range(flux.SUBSTEPS):
            x = x - own(teacher, x, now, condition, guidance) / 16
            now = now - 1 / 16
        return (start - x) * 4

    monkeypatch.setattr(flux, "predict", as_jump)
    loss, _ = flux.make_step_loss(object(), teacher, given, captions, 8)(generator.manual_seed(1), 0)
    assert loss < 1e-9
