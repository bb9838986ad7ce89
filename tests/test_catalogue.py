import resource
import subprocess
import sys
import time

import pytest
import torch

from explorer.models import catalogue
from explorer.models.catalogue import load
from explorer.models.memory import stored_dtype
from explorer.models.model import _whole_call_cost
from explorer.sampling.generate import generate
from tests.conftest import sd_pipeline

pytestmark = pytest.mark.slow

REAL = {  # parameters and MACs a call without and with attention products, G
    "sd15": (859_520_964, 338.80, 401.83),
    "sd21": (865_910_724, 760.91, 1074.98),
    "sdxl": (2_567_463_684, 2990.01, 3381.97),
    "ssd-1b": (1_331_334_404, 1854.60, None),  # the file of its weights has 5.33 GB
    "dit-xl-2-256": (749_826_464, None, 118.74),
    "dit-xl-2-512": (749_826_464, None, 524.88),
    "ddpm-cifar10": (35_746_307, 6.06, None),
}


@pytest.mark.parametrize("id", REAL)
def test_cost_of_real_models_from_their_architecture_alone(id, document):
    """The paper's figure for SD-1.5 is 338.8 G."""
    found = document("cost", "--model", id)
    params, macs, with_attention = REAL[id]
    assert found["params"] == params
    assert macs is None or found["macs_per_call"] / 1e9 == pytest.approx(macs, abs=0.006)
    total = found["macs_per_call"] + found["macs_per_call_attention"]
    assert with_attention is None or total / 1e9 == pytest.approx(with_attention, abs=0.006)


def test_largest_model_is_counted_within_20_seconds_and_2_gigabytes():
    started = time.perf_counter()
    command = [sys.executable, "-m", "explorer", "cost", "--model", "sdxl"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 * 2**20
    assert time.perf_counter() - started < 60  # 20 s on an idle machine; the tests share theirs


def test_units_and_fixed_parts_add_up():
    architecture = load("sd15", weights=False).architecture("module")
    assert (
        architecture.graph.macs.sum() + architecture.graph.macs_fixed
        == architecture.graph.macs_per_call
        == 338_799_122_624
    )
    attention = [unit.macs for unit in architecture.graph.units if ".attn" in unit.name]
    assert attention and min(attention) > 0


def test_the_committed_catalogue_is_what_the_architectures_say():
    for row in catalogue.list_models():
        architecture = load(row["id"], weights=False).architecture()
        assert (row["params"], row["macs_per_call"]) == (architecture.params, architecture.graph.macs_per_call)


def test_folder_of_each_pipeline_loads_generates_and_has_a_cost(pipeline_folder):
    model = load(pipeline_folder)
    assert model.id == pipeline_folder.name and len(model.revision) == 12
    without = load(pipeline_folder, weights=False)
    with_weights = model.architecture().params
    _whole_call_cost.cache_clear()  # or both would be one count
    assert without.architecture().params == with_weights == sum(p.numel() for p in model.denoiser.parameters())
    assert without.graph("module").units == model.graph("module").units
    *_, (frame, pictures) = generate(model, ["dog"], [0], "ddim", 3, 2.0)
    assert frame.calls == 3 and pictures.shape[:2] == (1, 3) and 0 <= pictures.min() <= pictures.max() <= 1


def test_a_copy_shares_weights_but_no_modules(sd_folder):
    model = load(sd_folder)
    other = model.with_shared_weights()
    pairs = zip(model.denoiser.parameters(), other.denoiser.parameters(), strict=True)
    assert all(a is b for a, b in pairs)
    assert not set(map(id, model.denoiser.modules())) & set(map(id, other.denoiser.modules()))


def test_without_weights_everything_but_generating_works():
    model = load("sd15", weights=False)
    assert len(model.graph("stage").units) == 9
    with pytest.raises(ValueError, match="the weights of sd15 are not here; its units, MACs, parameters and"):
        model.encode(["dog"], 7.5)
    with pytest.raises(ValueError, match="not on this machine and the hub cannot be reached.*see the command cost"):
        load("sd15")
    with pytest.raises(ValueError, match="not on this machine"):
        load("stable-diffusion-v1-5/stable-diffusion-v1-5")


@pytest.mark.parametrize("id", ["nope", "", "/", "../../etc", "a" * 3000])
def test_an_unknown_model_is_refused_with_the_known_ones(id):
    known = r"\(emoji-unet, emoji-dit, emoji-flux, emoji-flux-turbo, emoji-ddpm, sd15"
    with pytest.raises(ValueError, match=f"neither a model of the catalogue {known}"):
        load(id)


def test_damaged_or_foreign_folders_are_refused(tmp_path, sd_folder):
    (tmp_path / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    with pytest.raises(ValueError, match="holds a KandinskyPipeline; known pipelines are StableDiffusionPipeline"):
        load(tmp_path)
    (tmp_path / "model_index.json").write_text("{broken")
    with pytest.raises(ValueError, match="model_index.json"):
        load(tmp_path)
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(sd_folder, broken)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match="does not load as a StableDiffusionPipeline"):
        load(broken)
    with pytest.raises(ValueError, match="dtype 'int8'"):
        load(sd_folder, dtype="int8")


def test_class_conditional_model_names_unknown_classes(tmp_path):
    from tests.conftest import dit_pipeline

    dit_pipeline().save_pretrained(tmp_path / "dit")
    model = load(tmp_path / "dit")
    assert torch.equal(model.encode(["7"], 1.0)["class_labels"], torch.tensor([7]))
    with pytest.raises(ValueError, match="'a poem' is none of them"):
        model.encode(["a poem"], 1.0)


def test_the_listing_needs_no_torch():
    code = (
        "import sys; from explorer import experiment; from explorer.models import catalogue, prompts; "
        "catalogue.list_models(); "
        "prompts.unknown_words('emoji-unet', 'dog'); assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    keys = {"id", "pipeline", "denoiser", "params", "macs_per_call", "embedded", "available", "path"}
    keys |= {"license", "gated", "dtype", "weights_gb", "run"}
    assert all(set(row) == keys for row in catalogue.list_models())


@pytest.mark.parametrize(
    ("stored", "loaded"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float32")]
)
def test_auto_loads_weights_as_they_are_stored_but_for_float16_on_a_cpu(stored, loaded, tmp_path):
    pipe = sd_pipeline()
    pipe.to(getattr(torch, stored))
    pipe.save_pretrained(tmp_path / "pipe")
    model = catalogue.load(tmp_path / "pipe", dtype="auto")
    assert model.denoiser.dtype == getattr(torch, loaded)
    assert stored_dtype(tmp_path / "pipe" / "unet", "cuda") == stored
    *_, (frame, pictures) = generate(model, ["dog"], [0], "ddim", 2, 3.0)
    assert frame.done and pictures.isfinite().all()
    with pytest.raises(ValueError, match="dtype 'int8' is unknown; choose float32, float16, bfloat16 or auto"):
        catalogue.load(tmp_path / "pipe", dtype="int8")
