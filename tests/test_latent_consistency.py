"""A model whose prompt's strength is told to the network as an embedding: the project's loop is its pipeline's."""

import diffusers
import pytest
import torch

import explorer
from explorer.experiment import prune
from explorer.models import catalogue
from explorer.progress import run_to_completion
from explorer.pruners import method_config
from explorer.sampling.generate import generate
from tests.conftest import BETAS, sd_pipeline, small_unet

PROMPTS, SEEDS = ["dog", "cat"], [3, 4]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lcm") / "tiny"
    parts = sd_pipeline().components | {
        "unet": small_unet(time_cond_proj_dim=8),
        "scheduler": diffusers.LCMScheduler(**BETAS),
    }
    diffusers.LatentConsistencyModelPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    return catalogue.load(folder)


def plain(model, steps, guidance):
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    options = {"height": 16, "width": 16, "output_type": "pt", "generator": generators}
    return model.pipe(PROMPTS, num_inference_steps=steps, guidance_scale=guidance, **options).images


def ours(model, steps, guidance, mask=None):
    *_, (_, pictures) = generate(model, PROMPTS, SEEDS, "lcm", steps, guidance, mask)
    return pictures


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("guidance", [1.0, 8.0])
def test_the_loop_is_the_pipelines_bit_for_bit(model, steps, guidance):
    expected = plain(model, steps, guidance)
    assert torch.equal(ours(model, steps, guidance), expected)
    assert not torch.equal(ours(model, steps, guidance + 3), expected)


def test_a_schedule_leaves_blocks_out_in_the_loop_and_in_the_pipeline(model):
    config = method_config("uniform", {"guidance": 8.0, "sampler": "lcm"}, {"steps": 4})
    mask = run_to_completion(prune(model, "uniform", config)).at(0.5)
    pruned = ours(model, 4, 8.0, mask)
    assert not torch.equal(pruned, ours(model, 4, 8.0))
    with explorer.apply(model.pipe, mask):
        assert torch.equal(plain(model, 4, 8.0), pruned)
