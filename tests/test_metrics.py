"""The metrics on cases whose answer is known, and the encoder of pictures on a tiny random model."""

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from explorer.measures import metrics  # noqa: E402
from explorer.measures.clip_encoder import ClipEncoder  # noqa: E402
from explorer.measures.table import METRICS, REFERENCE_METRICS  # noqa: E402
from explorer.training import clip  # noqa: E402
from explorer.training.captions import train_tokenizer  # noqa: E402
from explorer.training.data import Emoji, Item  # noqa: E402
from explorer.training.loop import TrainingPlan  # noqa: E402
from explorer.training.text_pretraining import describe_names, pretrain_text_tower  # noqa: E402

ASSETS = Path(__file__).parent.parent / "assets"


def pictures(count: int = 3, side: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_psnr_equals_its_formula():
    one = torch.full((2, 3, 16, 16), 0.5)
    other = one + torch.tensor([0.1, 0.01])[:, None, None, None]
    assert torch.allclose(metrics.psnr(other, one), torch.tensor([20.0, 40.0]), atol=1e-3)


def test_equal_pictures_have_the_best_values():
    some = pictures()
    assert torch.allclose(metrics.ssim(some, some), torch.ones(3), atol=1e-5)
    assert all(math.isinf(v) for v in metrics.psnr(some, some).tolist())


def test_ssim_falls_with_noise_and_is_given_per_picture():
    some = pictures()
    noise = torch.randn(some.shape, generator=torch.Generator().manual_seed(1))
    amounts = torch.tensor([0.01, 0.1, 0.5])[:, None, None, None]
    values = metrics.ssim((some + amounts * noise).clamp(0, 1), some).tolist()
    assert values == sorted(values, reverse=True) and values[0] > 0.95 > 0.7 > values[2]


def test_single_picture_is_a_batch():
    some = pictures(1)
    assert metrics.ssim(some, some).shape == metrics.psnr(some, some).shape == (1,)


@pytest.mark.parametrize(("side", "scales"), [(12, 2), (43, 2), (44, 3), (64, 3), (256, 5)])
def test_multi_scale_ssim_uses_the_scales_that_fit(side, scales):
    one, other = pictures(2, side), pictures(2, side).flip(0)
    assert torch.allclose(metrics.ms_ssim(one, one), torch.ones(2), atol=1e-4)
    assert (metrics.ms_ssim(one, other) < 0.7).all()
    weights = [weight / sum(metrics.MS_WEIGHTS[:scales]) for weight in metrics.MS_WEIGHTS[:scales]]
    library = multiscale_structural_similarity_index_measure(one, other, data_range=1.0, betas=tuple(weights))
    assert metrics.ms_ssim(one, other).mean().item() == pytest.approx(library.item())
    with pytest.raises(ValueError, match="at least 11 by 11"):
        metrics.ms_ssim(one[..., :10, :10], one[..., :10, :10])


def test_the_box_holds_the_foreground_and_not_less_than_every_metric_needs():
    white = torch.ones(3, 64, 64)
    assert metrics.foreground_box(white) == (slice(0, 64), slice(0, 64))
    white[:, 3:60, 10:55] = 0.5
    assert metrics.foreground_box(white) == (slice(3, 60), slice(10, 55))
    dot = torch.ones(3, 64, 64)
    dot[0, 62, 1] = 0.2
    rows, columns = metrics.foreground_box(dot)
    assert (rows, columns) == (slice(19, 64), slice(0, 45))


def test_white_border_inflates_a_metric_unless_it_is_excluded():
    reference = torch.ones(1, 3, 64, 64)
    reference[..., 8:56, 8:56] = 0.3 + 0.4 * pictures(1, 48)
    worse = reference.clone()
    worse[..., 8:56, 8:56] += 0.05 * torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    inside = (0.05 * torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(1))).square().mean()
    psnr = metrics.in_foreground(metrics.psnr, worse, reference).item()
    assert psnr == pytest.approx(-10 * inside.log10().item(), abs=0.02)
    assert metrics.in_foreground(metrics.ssim, worse, reference) < metrics.ssim(worse, reference)


def test_kid_and_fid_distinguish_distributions():
    generator = torch.Generator().manual_seed(0)
    one, same, other = (torch.randn(400, 8, generator=generator) + shift for shift in (0.0, 0.0, 0.5))
    assert abs(metrics.kid(one, same)) < 0.05 < metrics.kid(one, other)
    assert metrics.fid(one, same) < 0.2 < metrics.fid(one, other)
    assert metrics.fid(one, other) == pytest.approx(8 * 0.25, rel=0.3)  # the squared distance of the means
    assert metrics.fid(one[:79], same) is None
    with pytest.raises(ValueError, match="two pictures"):
        metrics.kid(one[:1], same)


def test_kid_equals_its_definition():
    x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    k = lambda a, b: float((a @ b / 2 + 1) ** 3)  # noqa: E731
    within_x = k(x[0], x[1])
    within_y = sum(k(y[i], y[j]) for i in range(3) for j in range(3) if i != j) / 6
    across = sum(k(a, b) for a in x for b in y) / 6
    assert metrics.kid(x, y) == pytest.approx(within_x + within_y - 2 * across)


def test_lpips_needs_a_package_and_weights_and_says_which_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: f"{tmp_path}")
    lpips, here = METRICS["lpips"], replace(METRICS["lpips"], needs="torch")
    assert "not installed" in replace(lpips, needs="a_package_that_is_not_there").missing
    assert f"the file {lpips.weights} in {tmp_path}" in here.missing
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / lpips.weights).touch()
    assert here.missing is None


@pytest.mark.parametrize("metric", REFERENCE_METRICS, ids=lambda metric: metric.name)
def test_metrics_refuse_pictures_that_do_not_match(metric):
    with pytest.raises(ValueError, match="equal batches"):
        metric.function(pictures(2), pictures(3))


def test_clip_score_is_a_hundred_times_the_cosine():
    first = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    second = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    assert torch.allclose(metrics.clip_score(first, second), torch.tensor([100.0, 70.7107]), atol=1e-3)


def test_retrieval_counts_ranks():
    texts = torch.eye(8)
    images = torch.eye(8)[:4].clone()
    images[3] = torch.tensor([0.9, 0.8, 0.7, 0.1, 0, 0, 0, 0])  # its own caption comes fourth
    found = metrics.retrieval(images, texts, [0, 1, 2, 3])
    assert (found.top1, found.top5, found.n) == (0.75, 1.0, 4)


def test_retrieval_merges_synonyms():
    texts = torch.eye(3)
    image = torch.tensor([[0.1, 1.0, 0.0]])
    assert metrics.retrieval(image, texts, [0]).top1 == 0
    assert metrics.retrieval(image, texts, [0], synonyms=[[0, 1]]).top1 == 1


def test_an_encoder_whose_embeddings_are_all_the_same_finds_nothing():
    found = metrics.retrieval(torch.ones(4, 5), torch.ones(9, 5), [0, 1, 2, 3])
    assert found.top1 == found.top5 == 0


def test_retrieval_refuses_captions_that_do_not_match():
    with pytest.raises(ValueError, match="caption indices"):
        metrics.retrieval(torch.ones(2, 3), torch.ones(2, 3), [0])
    with pytest.raises(ValueError, match="at least one"):
        metrics.retrieval(torch.ones(0, 3), torch.ones(2, 3), [])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> ClipEncoder:
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["dog", "cat", "red heart"], vocabulary=300)
    clip.save(clip.build(tokenizer, side=32, width=32, layers=2), tokenizer, folder)
    return ClipEncoder(folder)


def test_the_encoder_gives_unit_vectors_for_pictures_of_any_size(encoder):
    small, large = encoder.embed_pictures(pictures(3, 32)), encoder.embed_pictures(pictures(2, 64), batch=1)
    assert small.shape == (3, 32) and large.shape == (2, 32)
    assert torch.allclose(small.norm(dim=1), torch.ones(3), atol=1e-5)


def test_encoder_distinguishes_texts_and_truncates_long_ones(encoder):
    one, other, long = encoder.embed_texts(["dog", "cat", "red heart " * 100])
    assert not torch.allclose(one, other, atol=1e-3)
    assert torch.isfinite(long).all()


def test_embeddings_do_not_depend_on_the_batch(encoder):
    some = pictures(5)
    assert torch.allclose(encoder.embed_pictures(some), encoder.embed_pictures(some, batch=2), atol=1e-5)


def test_a_folder_without_an_encoder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no CLIP encoder"):
        ClipEncoder(tmp_path / "nothing")


def test_the_bundled_encoder_pools_two_prompts_differently():
    one, other = ClipEncoder(ASSETS / "emoji-judge").embed_texts(["dog", "rocket"])
    assert float(one @ other) < 0.99


def test_augmented_pictures_stay_in_range():
    batch = pictures(4, 64) * 2 - 1
    augmented = clip.augment(batch, torch.Generator().manual_seed(0))
    assert augmented.shape == batch.shape and augmented.abs().max() <= 1
    assert (augmented - batch).abs().mean() > 0.01
    assert torch.equal(augmented, clip.augment(batch, torch.Generator().manual_seed(0)))


def test_pretrained_text_tower_distinguishes_names(tmp_path):
    rng = np.random.default_rng(0)
    items = [
        Item(f"{word} thing", "flat", (word,), "objects") for word in ("round", "flat", "long", "tiny", "odd", "big")
    ]
    emoji = Emoji(rng.integers(0, 255, (6, 64, 64, 3), dtype=np.uint8), items)
    torch.manual_seed(0)
    tokenizer = train_tokenizer([text for item in items for text in (item.name, *item.tags)], vocabulary=400)
    model = clip.build(tokenizer, width=32, layers=2)
    plan = TrainingPlan(minutes=1, learning_rate=3e-3, steps=60, warmup=10)
    pretrain_text_tower(emoji, tokenizer, model, tmp_path, plan)
    clip.save(model, tokenizer, tmp_path / "clip")
    names, directions = describe_names(emoji, 32)
    found = metrics.retrieval(ClipEncoder(tmp_path / "clip").embed_texts(names), directions, range(6))
    assert found.top1 == 1
    assert torch.allclose(directions.norm(dim=1), torch.ones(6), atol=1e-5)
