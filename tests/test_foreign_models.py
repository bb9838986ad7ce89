"""Models as people have them: configurations, weights and layers that others have changed."""

import json

import diffusers
import pytest
import torch
from peft import LoraConfig
from torch.utils.flop_counter import FlopCounterMode

import explorer
from explorer.experiment import prune
from explorer.models import catalogue, hub
from explorer.progress import run_to_completion
from explorer.pruners import method_config
from explorer.sampling.generate import generate
from tests.conftest import ddpm_pipeline, sd_pipeline, sd_unet, sdxl_unet, small_unet
from tests.ldm_checkpoint import save_single_file

DRAWING = {"sampler": "ddim", "steps": 2, "guidance": 3.0}


def draw(model):
    return list(generate(model, ["dog"], [0], **DRAWING))[-1][1]


def saved(folder, pipe, **options):
    pipe.save_pretrained(folder, **options)
    return folder


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# -- weights


def test_a_variant_is_found_where_it_is_the_only_one(tmp_path):
    folder = saved(tmp_path / "half", sd_pipeline().to(torch.float16), variant="fp16")
    model = explorer.load(folder, dtype="float16")
    assert model.denoiser.dtype == torch.float16 and draw(model).isfinite().all()
    assert model.revision == catalogue.load(folder).revision


def test_the_usual_weights_come_before_a_variant(tmp_path):
    folder = saved(tmp_path / "both", sd_pipeline())
    saved(folder, sd_pipeline().to(torch.float16), variant="fp16")
    whole = explorer.load(saved(tmp_path / "one", sd_pipeline()))
    assert torch.equal(draw(explorer.load(folder)), draw(whole))


def test_a_variant_is_read_where_it_is_asked_for(tmp_path, run):
    folder = saved(tmp_path / "both", sd_pipeline())
    other = sd_pipeline()
    other.unet.conv_in.weight.mul_(2)
    saved(folder, other.to(torch.float16), variant="fp16")
    usual, half = explorer.load(folder), explorer.load(folder, variant="fp16")
    assert not torch.equal(usual.denoiser.conv_in.weight, half.denoiser.conv_in.weight)
    with pytest.raises(ValueError, match="unet holds no weights of the variant 'bf16', only the usual ones"):
        explorer.load(folder, variant="bf16")
    options = ("--model", folder, "--steps", 2, "--prompt", "dog", "--out", tmp_path / "dog.png")
    assert run("generate", *options, "--variant", "fp16")[0] == 0
    code, _, error = run("generate", *options, "--variant", "bf16")
    assert code == 2 and "no weights of the variant 'bf16'" in error


def test_shards_are_read_and_weights_that_run_code_are_one_sentence(tmp_path):
    shards = saved(tmp_path / "shards", sd_pipeline(), max_shard_size="20KB")
    assert len(list((shards / "unet").glob("*.safetensors"))) > 1 and draw(explorer.load(shards)).isfinite().all()
    pickled = saved(tmp_path / "pickled", sd_pipeline(), safe_serialization=False)
    with pytest.raises(ValueError, match="holds only diffusion_pytorch_model.bin, which runs code when it is read"):
        explorer.load(pickled)


# -- configurations


def test_a_pipeline_with_code_of_its_own_is_known_by_its_class(tmp_path):
    folder = saved(tmp_path / "custom", sd_pipeline())
    edit(folder / "model_index.json", _class_name=["my_pipeline", "StableDiffusionPipeline"])
    assert explorer.load(folder).pipeline == "StableDiffusionPipeline"
    edit(folder / "model_index.json", _class_name=["my_pipeline", "MyPipeline"])
    with pytest.raises(ValueError, match="holds a MyPipeline; known pipelines are"):
        explorer.load(folder)


def test_a_tokenizer_without_a_length_takes_the_text_encoders(tmp_path, sd_folder):
    folder = saved(tmp_path / "tiny-sd", sd_pipeline())
    config = folder / "tokenizer" / "tokenizer_config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({key: value for key, value in content.items() if key != "model_max_length"}))
    whole, model = explorer.load(sd_folder), explorer.load(folder)
    assert model.text_length == whole.text_length == 8
    assert torch.equal(draw(model), draw(whole))


def test_pictures_that_are_not_square_are_counted_and_drawn(tmp_path):
    pipe = sd_pipeline()
    pipe.unet.register_to_config(sample_size=[8, 16])
    model = explorer.load(saved(tmp_path / "wide", pipe))
    assert draw(model).shape == (1, 3, 16, 32)
    assert model.graph().macs_per_call > explorer.load(saved(tmp_path / "square", sd_pipeline())).graph().macs_per_call


def test_a_size_that_is_missing_is_one_sentence(tmp_path):
    pipe = sd_pipeline()
    pipe.unet.register_to_config(sample_size=None)
    with pytest.raises(ValueError, match="has no sample_size"):
        explorer.load(saved(tmp_path / "no-size", pipe))


def with_edm(pipe):
    pipe.scheduler = diffusers.EDMEulerScheduler()


def with_guidance_embedding(pipe):
    pipe.unet = small_unet(time_cond_proj_dim=8)


def with_picture_conditions(pipe):
    pipe.unet = small_unet(in_channels=9)


UNKNOWN = {
    with_edm: "the noise levels of EDMEulerScheduler",
    with_guidance_embedding: "timestep_cond",
    with_picture_conditions: "latents of a picture",
}


@pytest.mark.parametrize("change", UNKNOWN)
def test_what_only_the_pipeline_itself_makes_is_refused_before_anything_is_drawn(tmp_path, change):
    pipe = sd_pipeline()
    change(pipe)
    model = explorer.load(saved(tmp_path / "other", pipe))
    with pytest.raises(ValueError, match=f"other needs {UNKNOWN[change]}, which only its own pipeline makes"):
        draw(model)
    assert model.graph().macs_per_call > 0  # what needs no drawing still works


# -- counting


CONFIGURATIONS = {
    "plain": {},
    "guidance embedding": {"time_cond_proj_dim": 8},
    "classes": {"num_class_embeds": 5},
    "times as classes": {"class_embed_type": "timestep"},
    "projected classes": {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 6},
    "wide text": {"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 20},
    "nested blocks": {"transformer_layers_per_block": (1, 2, 1, 1)},
    "text width by block": {"cross_attention_dim": (12, 12, 12, 12)},
    "addition of text": {"addition_embed_type": "text", "addition_embed_type_num_heads": 4},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_layer_of_a_u_net_is_counted(name):
    """Compare with PyTorch's own count of the same call, which counts two for each and no biases."""
    unet = sd_unet(**CONFIGURATIONS[name])
    model = catalogue.Model("any", "StableDiffusionPipeline", unet, {}, 5)
    ran = []
    layers = [module for module in unet.modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)]
    for layer in layers:
        layer.register_forward_hook(lambda layer, _, output: ran.append((layer, output.numel())))
    with FlopCounterMode(display=False) as flops:
        unet(**model.example_inputs(unet))
    biases = sum(size for layer, size in ran if layer.bias is not None)
    counts = flops.get_flop_counts()["Global"]
    without_attention = sum(
        count for op, count in counts.items() if "attention" not in str(op) and "bmm" not in str(op)
    )
    assert model.graph().macs_per_call == without_attention // 2 + biases
    assert {layer for layer, _ in ran} == set(layers)  # nothing stands by without being counted


def test_inputs_that_are_not_known_are_one_sentence():
    unet = sd_unet()
    unet.register_to_config(addition_embed_type="image_hint")
    with pytest.raises(ValueError, match="addition_embed_type 'image_hint' needs inputs that are not known here"):
        catalogue.Model("any", "StableDiffusionPipeline", unet, {}, 5).example_inputs(unet)


# -- cutting


@pytest.fixture
def model(sd_model):
    return sd_model


def widths_of(model):
    return run_to_completion(prune(model, "magnitude", method_config("magnitude", {}))).at(0.2)


def add_lora(unet):
    unet.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "net.0.proj", "conv1"]), "style")


def test_layers_of_lora_are_counted_and_refused_until_they_are_merged(model):
    widths, plain = widths_of(model), explorer.load(model.pipe.config._name_or_path).architecture()
    torch.manual_seed(0)
    add_lora(model.pipe.unet)
    counted = model.with_shared_weights()
    counted._architectures = {}
    architecture = counted.architecture()
    assert architecture.params == sum(one.numel() for one in model.denoiser.parameters()) > plain.params
    assert architecture.graph.macs_per_call > plain.graph.macs_per_call
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    with pytest.raises(ValueError, match=r"conv1 has an adapter \(LoRA\), so that it cannot be cut; merge it first"):
        explorer.prune_widths(model, widths)
    assert all(torch.equal(value, before[name]) for name, value in model.denoiser.state_dict().items())
    model.pipe.fuse_lora()
    model.pipe.unload_lora_weights()
    assert explorer.prune_widths(model, widths).architecture().params < plain.params


def share_weights(unet):
    unet.conv_out.weight = unet.conv_in.weight


def fuse_projections(unet):
    unet.fuse_qkv_projections()


def quantise(unet):
    unet.conv_in.weight = torch.nn.Parameter(unet.conv_in.weight.to(torch.int8), requires_grad=False)


OBSTACLES = {
    share_weights: "conv_out.weight shares its weights with conv_in.weight",
    fuse_projections: r"attn1 computes queries, keys and values at once, .* pipe.unfuse_qkv_projections",
    quantise: "conv_in is quantised, so that it cannot be cut; load the model without quantisation",
}


@pytest.mark.parametrize("change", OBSTACLES)
def test_networks_that_cannot_be_cut_are_one_sentence(model, change):
    widths = widths_of(model)
    change(model.denoiser)
    with pytest.raises(ValueError, match=OBSTACLES[change]):
        explorer.prune_widths(model, widths)


def test_channels_of_lora_are_refused_as_well(model):
    add_lora(model.pipe.unet)
    with pytest.raises(ValueError, match=r"has an adapter \(LoRA\)"):
        model.prunable_dims(channels=True)


def test_small_and_large_u_nets_can_be_cut():
    for unet in (small_unet(), sd_unet(), sdxl_unet()):
        assert catalogue.Model("any", "StableDiffusionPipeline", unet, {}, 5).prunable_dims(channels=True)


# -- the hub

SDXL_FILES = [
    *("model_index.json", "sd_xl_base.safetensors", "unet/config.json", "tokenizer/merges.txt", "unet/code.py"),
    *("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"),
    *("vae/diffusion_pytorch_model.fp16-00001-of-00002.safetensors", "unet/model.onnx", "unet/old.bin"),
]


def test_one_set_of_weights_is_fetched_and_no_code():
    assert hub.choose_files(SDXL_FILES) == [
        *("model_index.json", "unet/config.json", "tokenizer/merges.txt"),
        *("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.fp16-00001-of-00002.safetensors"),
    ]
    half = hub.choose_files(SDXL_FILES, variant="fp16")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in half
    assert "unet/diffusion_pytorch_model.safetensors" not in half
    assert hub.choose_files(["model_index.json", "safety_checker/model.safetensors"]) == ["model_index.json"]


def test_a_repository_that_was_downloaded_is_found_by_its_name(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--somebody--their-model" / "snapshots" / ("0" * 40)
    saved(snapshot, sd_pipeline())
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = explorer.load("somebody/their-model")
    assert model.id == "somebody-their-model" and draw(model).isfinite().all()
    with explorer.apply(model.pipe, run_to_completion(prune(model, "uniform", method_config("uniform", {}))).at(0.5)):
        pass  # the pipeline is known to hold the model of that name
    (snapshot / "vae" / "diffusion_pytorch_model.safetensors").unlink()  # as after a download that was interrupted
    with pytest.raises(ValueError, match="weights of somebody/their-model are not on this machine"):
        explorer.load("somebody/their-model")


def test_a_repository_that_is_not_here_is_one_sentence():
    with pytest.raises(ValueError, match="weights of somebody/nothing are not on this machine and the hub cannot be"):
        explorer.load("somebody/nothing")


# -- one file, and folders of sibling pipelines


def test_a_checkpoint_in_one_file_is_the_folder_that_it_was_made_of(tmp_path):
    folder = saved(tmp_path / "whole", sd_pipeline())
    for weights in folder.glob("*/*.safetensors"):
        weights.rename(tmp_path / f"{weights.parent.name}.safetensors")
    with pytest.raises(ValueError, match="holds no weights"):
        explorer.load(folder)
    save_single_file(sd_pipeline(), folder / "tiny.safetensors")
    model = explorer.load(folder / "tiny.safetensors")
    assert (model.id, len(model.revision)) == ("tiny", 12)
    assert torch.equal(draw(model), draw(explorer.load(saved(tmp_path / "again", sd_pipeline()))))
    assert explorer.load(folder / "tiny.safetensors", weights=False).graph().units == model.graph().units


def test_one_file_without_configurations_asks_the_hub_and_nonsense_is_one_sentence(tmp_path):
    save_single_file(sd_pipeline(), tmp_path / "tiny.safetensors")
    with pytest.raises(ValueError, match="configurations of stable-diffusion-v1-5/.* cannot be reached"):
        explorer.load(tmp_path / "tiny.safetensors")
    (tmp_path / "nonsense.safetensors").write_bytes(b"\xff" * 50)
    with pytest.raises(ValueError, match="nonsense.safetensors cannot be read as a checkpoint"):
        explorer.load(tmp_path / "nonsense.safetensors")


@pytest.mark.parametrize("kind", ["StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"])
def test_a_folder_of_a_sibling_draws_from_noise(tmp_path, kind):
    whole = sd_pipeline()
    folder = saved(tmp_path / "sibling", getattr(diffusers, kind).from_pipe(whole))
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == kind
    model = explorer.load(folder)
    assert model.pipeline == "StableDiffusionPipeline"
    assert torch.equal(draw(model), draw(explorer.load(saved(tmp_path / "whole", whole))))


def test_an_unconditional_model_under_ddim_is_known(tmp_path):
    folder = saved(tmp_path / "ddim", diffusers.DDIMPipeline(ddpm_pipeline().unet, diffusers.DDIMScheduler()))
    assert draw(explorer.load(folder)).shape[1] == 3


@pytest.mark.parametrize("kind", ["StableDiffusionPAGPipeline", "StableDiffusionPanoramaPipeline"])
def test_a_folder_whose_pipeline_draws_otherwise_is_refused(tmp_path, kind):
    folder = saved(tmp_path / "other", sd_pipeline())
    edit(folder / "model_index.json", _class_name=kind)
    with pytest.raises(ValueError, match=f"holds a {kind}; known pipelines are"):
        explorer.load(folder)
