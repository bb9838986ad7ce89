"""LoRA: what a training changed, factored, is what diffusers loads, and emoji-flux-turbo is emoji-flux with it."""

import pytest
import torch
from diffusers import FluxPipeline

import explorer
from explorer.models import catalogue
from explorer.models.prompts import unread_part
from explorer.sampling.generate import generate
from explorer.training import lora

RUN = ("euler", 4, 3.5)


@pytest.fixture(scope="module")
def turbo():
    return catalogue.load("emoji-flux-turbo")


def test_factors_of_full_rank_are_the_change_and_of_less_rank_the_nearest(tmp_path):
    before = {"a.weight": torch.randn(6, 4), "a.bias": torch.zeros(6), "b.weight": torch.randn(3, 5)}
    after = {name: weight + torch.randn_like(weight) for name, weight in before.items()}
    whole, less = lora.factor(before, after, 5), lora.factor(before, after, 2)
    assert whole.keys() == {f"{layer}.lora_{part}.weight" for layer in "ab" for part in "AB"}
    for layer in "ab":
        change = after[f"{layer}.weight"] - before[f"{layer}.weight"]
        product, near = (one[f"{layer}.lora_B.weight"] @ one[f"{layer}.lora_A.weight"] for one in (whole, less))
        assert torch.allclose(product, change, atol=1e-5)
        missed = torch.linalg.svdvals(change)[2:].square().sum()
        assert (near - change).square().sum() == pytest.approx(missed.item(), rel=1e-4)


def test_turbo_is_emoji_flux_with_the_lora_that_diffusers_loads(turbo):
    pipe = FluxPipeline.from_pretrained(catalogue.ASSETS / "emoji-flux")
    pipe.load_lora_weights(catalogue.ASSETS / "emoji-flux-turbo")
    pipe.set_progress_bar_config(disable=True)
    size = {"height": 64, "width": 64, "max_sequence_length": turbo.text_length, "output_type": "pt"}
    noise, _ = turbo.initial_latents([3])
    packed = pipe._pack_latents(noise, *noise.shape)
    expected = pipe("dog", num_inference_steps=4, guidance_scale=3.5, latents=packed, **size).images
    *_, (_, pictures) = generate(turbo, ["dog"], [3], *RUN, previews=1)
    assert torch.allclose(pictures, expected.float(), atol=1e-3)  # fused weights round otherwise than two layers


def test_turbo_has_weights_a_record_and_words_of_its_own(turbo):
    plain = catalogue.load("emoji-flux")
    assert turbo.record.id == "emoji-flux-turbo" and turbo.revision == catalogue.weights_revision("emoji-flux-turbo")
    assert turbo.revision != plain.revision and catalogue.own_run("emoji-flux-turbo")["steps"] == 4
    assert type(turbo.denoiser.x_embedder) is torch.nn.Linear and not hasattr(turbo.denoiser, "peft_config")
    assert turbo.graph().units == plain.graph().units and turbo.architecture().params == plain.architecture().params
    assert catalogue.vocabulary("emoji-flux-turbo") == catalogue.vocabulary("emoji-flux")
    assert unread_part("emoji-flux-turbo", "dog " * 90)
    assert catalogue.id_of_pipeline(turbo.pipe) == "emoji-flux-turbo"
    offloaded = catalogue.load("emoji-flux-turbo", offload=True)
    drawn = [[*generate(model, ["dog"], [3], *RUN, previews=1)][-1][1] for model in (turbo, offloaded)]
    assert torch.equal(*drawn)


def test_turbo_is_nearer_to_twenty_steps_than_emoji_flux_in_four(turbo):
    plain, names, seeds = catalogue.load("emoji-flux"), ["dog", "octopus", "pizza", "guitar"], [0, 1, 2, 3]
    runs = ((plain, "euler", 20, 3.5), (turbo, *RUN), (plain, *RUN))
    target, ours, theirs = ([*generate(model, names, seeds, *run, previews=1)][-1][1] for model, *run in runs)
    distance = [(one - target).square().mean(dim=(1, 2, 3)).log().mean() for one in (ours, theirs)]
    assert distance[0] < distance[1] - 0.4  # in nepers of power: 1.7 dB


def test_without_the_lora_turbo_is_not_here(monkeypatch, tmp_path):
    (tmp_path / "emoji-flux").symlink_to(catalogue.ASSETS / "emoji-flux")
    monkeypatch.setattr(catalogue, "ASSETS", tmp_path)
    assert "emoji-flux" in catalogue.available_models() and "emoji-flux-turbo" not in catalogue.available_models()
    with pytest.raises(ValueError, match="emoji-flux-turbo is one of the embedded models"):
        explorer.load("emoji-flux-turbo")
