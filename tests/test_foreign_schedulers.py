"""Masks under other people's noise schedules and samplers, compared with an estimate that is held by hand."""

import diffusers
import pytest
import torch

import explorer
from explorer.sampling import generate as sampling
from tests.conftest import BETAS
from tests.foreign_fixtures import generate, schedule


@pytest.fixture
def model(sd_model):
    return sd_model


@pytest.mark.parametrize("steps", [4, 7])
@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_zero_terminal_snr_gives_finite_pictures_with_and_without_a_mask(model, steps, prediction_type):
    model.pipe.scheduler = diffusers.DDIMScheduler.from_config(
        model.pipe.scheduler.config, rescale_betas_zero_snr=True, prediction_type=prediction_type
    )
    assert model.pipe.scheduler.alphas_cumprod.min() == 0
    pipe, full = model.pipe, generate(model.pipe, steps)
    with explorer.apply(pipe, schedule(model, steps, ratio=0)):
        assert torch.equal(generate(pipe, steps), full)
    with explorer.apply(pipe, schedule(model, steps, ratio=steps // 2 / steps)):
        pruned = generate(pipe, steps)
    assert pruned.isfinite().all() and pruned.std() > 0.01
    by_hand = hold_epsilon(pipe, schedule(model, steps, ratio=steps // 2 / steps).keep, lambda: generate(pipe, steps))
    torch.testing.assert_close(pruned, by_hand, rtol=0, atol=1e-5)


def hold_epsilon(pipe, keep, draw):
    """Draw with x = a x0 + s e solved by hand: e is held in the calls that `keep` leaves out."""
    original, held, made, kind = pipe.unet.forward, [], [0], pipe.scheduler.config.prediction_type

    def hold(x, timestep, **conditioning):
        a = pipe.scheduler.alphas_cumprod[int(timestep)].double().sqrt()
        s, row = (1 - a**2).sqrt(), keep[made[0]]
        made[0] += 1
        if row.any():
            output = original(x, timestep, **conditioning)[0]
            y = output.double()
            held[:] = [a * y + s * x if kind == "v_prediction" else (x - a * y) / s]
            return (output,)
        x0 = (x - s * held[0]) / a
        return ((a * held[0] - s * x0 if kind == "v_prediction" else x0).to(x.dtype),)

    pipe.unet.forward = hold
    picture = draw()
    del pipe.unet.forward
    assert made == [len(keep)]
    return picture


@pytest.mark.parametrize("steps", [4, 7])
def test_our_own_loop_is_finite_at_zero_terminal_snr_and_names_the_cause_where_it_cannot_be(model, steps):
    model.scheduler_config = dict(model.scheduler_config) | {"rescale_betas_zero_snr": True}
    for result in (None, schedule(model, steps)):
        frames = list(sampling.generate(model, ["dog"], [0], "ddim", steps, 3.0, result))
        assert frames[-1][1].isfinite().all() and frames[-1][1].std() > 0.01
    model.scheduler_config |= {"prediction_type": "epsilon"}
    with pytest.raises(ValueError, match=r"at timestep 999 the input is noise only \(zero terminal SNR\)"):
        list(sampling.generate(model, ["dog"], [0], "ddim", steps, 3.0))


@pytest.mark.parametrize("kind", [diffusers.EDMEulerScheduler, diffusers.EDMDPMSolverMultistepScheduler])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_edm_holds_the_noise_estimate(model, kind, prediction_type):
    """Compare with (x - D(x)) / sigma, Karras et al. 2022, held by hand in calls 1 and 3."""
    pipe = model.pipe
    pipe.scheduler = scheduler = kind(prediction_type=prediction_type)
    with explorer.apply(pipe, schedule(model), strict=False):
        pruned = generate(pipe)
    original, held, calls = pipe.unet.forward, [], [0]

    def hold(scaled, timestep, **conditioning):
        sigma = float(torch.exp(4 * timestep.double()))
        x = scaled.double() * (sigma**2 + scheduler.config.sigma_data**2) ** 0.5
        zeros = scheduler.precondition_outputs(x, torch.zeros_like(x), sigma)  # D(x) = zeros + scale * output
        scale = scheduler.precondition_outputs(torch.zeros_like(x), torch.ones_like(x), sigma)
        calls[0] += 1
        if calls[0] % 2:
            output = original(scaled, timestep, **conditioning)[0]
            held[:] = [(x - (zeros + scale * output)) / sigma]
        return (((x - sigma * held[0] - zeros) / scale).to(scaled.dtype),)

    pipe.unet.forward = hold
    by_hand = generate(pipe)
    del pipe.unet.forward
    torch.testing.assert_close(pruned, by_hand, rtol=0, atol=1e-4)
    assert pruned.isfinite().all()


COMPATIBLE = {kind.__name__: kind for kind in diffusers.DDIMScheduler(**BETAS).compatibles}
del COMPATIBLE["EDMEulerScheduler"]  # which holds another quantity, see above


@pytest.mark.parametrize("name", sorted(COMPATIBLE))
def test_every_scheduler_makes_the_plain_picture_and_the_one_held_by_hand(model, name):
    """Leave nothing out, and then every second call: the model predicts noise, so its last output is held as it is."""
    pipe, kind = model.pipe, COMPATIBLE[name]
    try:
        pipe.scheduler = kind.from_config(pipe.scheduler.config, prediction_type="epsilon")
    except ImportError as error:
        pytest.skip(f"{name} needs a package that is not installed: {error}")
    full = generate(pipe)
    calls, held, made, original = pipe._num_timesteps, [], [0], pipe.unet.forward
    with explorer.apply(pipe, schedule(model, calls, ratio=0), strict=False):
        assert torch.equal(generate(pipe), full)
    mask = schedule(model, calls, ratio=calls // 2 / calls)  # whole calls only
    with explorer.apply(pipe, mask, strict=False):
        pruned = generate(pipe)

    def hold(*args, **kwargs):
        if mask.keep[made[0]].any():
            held[:] = original(*args, **kwargs)
        made[0] += 1
        return (held[0],)

    pipe.unet.forward = hold
    by_hand = generate(pipe)
    del pipe.unet.forward
    assert made == [calls] and torch.equal(pruned, by_hand)
