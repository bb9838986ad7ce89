"""What the tests of other people's pipelines and schedulers share: a mask, a picture, and a model to change."""

import copy

import pytest
import torch

import explorer
from explorer.progress import run_to_completion
from explorer.pruners import PRUNERS, method_config

CALLS = 4


def schedule(model, calls=CALLS, method="uniform", ratio=0.5, **settings):
    config = method_config(method, settings, {"steps": calls, "sampler": "ddim"})
    return run_to_completion(PRUNERS[method].run(model, (), config)).at(ratio)


def generate(pipe, steps=CALLS, **options):
    generator = torch.Generator().manual_seed(3)
    defaults = {"prompt": "dog", "guidance_scale": 3.0, "output_type": "pt"}
    return pipe(num_inference_steps=steps, generator=generator, **defaults | options).images


@pytest.fixture(scope="session")
def loaded_sd(sd_folder):
    return explorer.load(sd_folder)


@pytest.fixture
def sd_model(loaded_sd):
    """Copy the model, because a test may leave something behind."""
    return copy.deepcopy(loaded_sd)
