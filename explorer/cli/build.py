"""Commands that build what the project ships, and the page: train, precompute, serve."""

import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from explorer import catalogue, experiment, shipped
from explorer.cli.flags import AsJson, Device, Seed, app, progress, say
from explorer.cli.pruning import Kept, followed
from explorer.work import finished

# What DiP-GO is shipped for; order 1 pays where calls are many, and PNDM wants its calls at even distances.
TRAJECTORIES = {
    ("ddim", 25): {"order": 0},
    ("dpm++", 20): {"order": 0},
    ("pndm", 50): {"start": "even"},
    ("ddim", 50): {},
}
SEEDS = (1, 2)  # beside the shipped file's 0
SHORTER = {"iterations": 100}  # than the paper's 1000 pictures, which would take half a day
RESULTS = catalogue.ASSETS / "results"


def _results(pictures: int) -> None:
    """Every rival of a learned method on emoji-unet, at the two full runs that the papers use."""
    from explorer.evidence import suite
    from explorer.evidence.evaluation import Full
    from explorer.evidence.results import publish

    model = catalogue.load("emoji-unet")
    runs = _runs("results")
    RESULTS.mkdir(parents=True, exist_ok=True)
    for full in (Full("ddim", 50), Full("dpm++", 25)):
        found = finished(suite.run(model, full, runs, pictures), progress)
        name = f"{full.sampler}-{full.steps}"
        found.to_json(RESULTS / f"emoji-unet-{name}.json", orient="records", indent=1)
        publish(runs / f"{name}.parquet", RESULTS / f"emoji-unet-{name}.parquet")


def _deepcache(pictures: int) -> None:
    """DeepCache at every interval and branch, at a sixth of the pictures, for there are many."""
    from explorer.evidence import suite
    from explorer.evidence.evaluation import Full, pairs_of
    from explorer.evidence.results import publish
    from explorer.prompts import chosen

    model, full = catalogue.load("emoji-unet"), Full("ddim", 50)
    runs, name = _runs("results"), "emoji-unet-ddim-50-deepcache"
    pairs, file = pairs_of(chosen(model, "evaluation"), max(2, pictures // 6)), runs / "deepcache.parquet"
    points = suite.deepcaches(model, full)
    work = experiment.evaluate(model, full, points, pairs, file, resume=True, keep=runs / "references")
    RESULTS.mkdir(parents=True, exist_ok=True)
    finished(work, progress).to_json(RESULTS / f"{name}.json", orient="records", indent=1)
    publish(file, RESULTS / f"{name}.parquet")


def _schedules(pictures: int) -> None:
    """What DiP-GO learns for emoji-unet, in our way and in the published one; a search that was stopped goes on."""
    from explorer.pruners.configs import PUBLISHED

    model = catalogue.load("emoji-unet")
    for ((sampler, steps), own), name in itertools.product(TRAJECTORIES.items(), ("", "published-")):
        out = shipped.FOLDER / model.id / f"dipgo-{name}{sampler}-{steps}.safetensors"
        settings = PUBLISHED | SHORTER if name else own
        _learned(model, {"sampler": sampler, "steps": steps} | settings, out)


def _learned(model: Any, settings: dict[str, Any], out: Path) -> None:
    """Learn what is not there yet."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        return
    config = experiment.config_of("dipgo", settings)
    kept = Kept(_runs("schedules") / out.name, {"model": model.revision, "config": config.model_dump(mode="json")})
    state = kept.load() if kept.path.exists() else None
    followed(experiment.prune(model, "dipgo", config, state=state), kept).save(out)
    kept.forget()


def _seeds(pictures: int) -> None:
    """What DiP-GO finds for 50 steps with other seeds, on the pictures of the duel."""
    from explorer.evidence import duel
    from explorer.evidence.evaluation import Full
    from explorer.evidence.suite import learned

    model, full = catalogue.load("emoji-unet"), Full("ddim", 50)
    folder = shipped.FOLDER / model.id / "seeds"
    for seed in SEEDS:
        out = folder / f"dipgo-{full.sampler}-{full.steps}-seed-{seed}.safetensors"
        _learned(model, {"sampler": full.sampler, "steps": full.steps, "seed": seed}, out)
    contenders = [one for ratio in duel.RATIOS for one in learned(model, full, ratio, folder)]
    _fought(model, full, contenders, 2 * pictures, "seeds")


def _duel(pictures: int) -> None:
    """What was learned against the strongest rivals, on twice as many pictures; where all is new, on a quarter."""
    from explorer.evidence import duel
    from explorer.evidence.evaluation import Full
    from explorer.evidence.results import read

    model = catalogue.load("emoji-unet")
    for sampler, steps in TRAJECTORIES:
        full, known = Full(sampler, steps), RESULTS / f"{model.id}-{sampler}-{steps}.parquet"
        work = duel.everybody(model, full, read(known)[1]) if known.exists() else duel.beside(model, full)
        count = 2 * pictures if known.exists() else max(2, pictures // 4)
        _fought(model, full, finished(work, progress), count, "duel")


def _fought(model: Any, full: Any, contenders: Sequence[Any], count: int, what: str) -> None:
    """Draw contenders on `count` pictures of the evaluation names; their rows and summary become results."""
    from explorer.evidence.evaluation import pairs_of
    from explorer.evidence.results import publish
    from explorer.prompts import chosen

    name = f"{model.id}-{full.sampler}-{full.steps}-{what}"
    pairs, file = pairs_of(chosen(model, "evaluation"), count), _runs("results") / f"{name}.parquet"
    drawing = experiment.evaluate(model, full, contenders, pairs, file, resume=True, truth_steps=0)
    finished(drawing, progress).to_json(RESULTS / f"{name}.json", orient="records", indent=1)
    publish(file, RESULTS / f"{name}.parquet")


def _widths(pictures: int) -> None:
    """What heads, neurons and channels are worth by every method, and what is left when they go."""
    from explorer.evidence import thinning

    for name, stage in thinning.STAGES.items():
        _thinned(catalogue.load(name), stage, pictures)


def _thinned(model: Any, stage: Any, pictures: int) -> None:
    """One model of these: learn what is not learned yet, draw, ship."""
    from explorer.evidence import thinning

    runs = _runs(f"widths/{model.id}")
    for what, names in stage.names.items():
        orders = finished(thinning.learned(model, names, runs), progress)
        _fought(model, stage.full, thinning.contenders(model, stage.full, orders), pictures, what)
    for name in stage.shipped:
        out = shipped.WIDTHS / model.id / f"{name}.safetensors"
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(runs / out.name, out)


def _ablations(pictures: int) -> None:
    """What each decision inside DiP-GO is worth, and what searches without a gradient find."""
    from explorer.evidence.ablations import ablate, search

    RESULTS.mkdir(parents=True, exist_ok=True)
    model = catalogue.load("emoji-unet")
    for name, work in {"ablations": ablate(model, _runs("ablations")), "searches": search(model)}.items():
        finished(work, progress).to_json(RESULTS / f"{model.id}-{name}.json", orient="records", indent=1)


def _features(pictures: int) -> None:
    """How alike features are along the trajectories that the page begins with, at a third of the pictures."""
    from explorer.prompts import cycled, names
    from explorer.similarity import measure

    model = catalogue.load("emoji-unet")
    for sampler, steps in (("ddim", 50), ("ddim", 25)):
        out = catalogue.ASSETS / "features" / model.id / f"{sampler}-{steps}.safetensors"
        out.parent.mkdir(parents=True, exist_ok=True)
        if not out.exists():
            prompts = cycled(names(model), max(2, pictures // 3))
            finished(measure(model, prompts, sampler=sampler, steps=steps), progress).save(out)


def _gallery(pictures: int) -> None:
    """What the slider shows: a few scenes by every method at every stop."""
    from explorer import gallery
    from explorer.evidence import packing, showcase

    model, runs = catalogue.load("emoji-unet"), _runs("gallery")
    finished(showcase.drawn(model, runs), progress)
    packing.pack(model, runs, gallery.FOLDER)


def _runs(part: str) -> Path:
    """Where long work keeps what it has so far."""
    folder = Path(os.environ.get("EXPLORER_RUNS") or "runs") / part
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _figures(pictures: int) -> None:
    """The figures of the README, from the results; needs kaleido (requirements-dev.txt) and a browser."""
    from explorer.evidence import report
    from explorer.evidence.results import read

    for file in sorted(RESULTS.glob("*.parquet")):
        report.draw(file)
        _, rows = read(file)
        for ratio in report.contested(rows):
            progress(f"{file.stem}, {report.in_words(rows, ratio)}")


PARTS = {
    "catalogue": lambda _: catalogue.measure(),
    "schedules": _schedules,
    "ablations": _ablations,
    "widths": _widths,
    "results": _results,
    "deepcache": _deepcache,
    "duel": _duel,
    "seeds": _seeds,
    "gallery": _gallery,
    "features": _features,
    "figures": _figures,
}


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="An embedded model, or a part of one.")],
    minutes: Annotated[float, typer.Option(min=0.01, help="How long to train, at most.")] = 60,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint.")] = False,
    device: Device = "cpu",
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Where checkpoints and samples go.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train the embedded models from the pictures."""
    from explorer import training

    training.train(name, minutes, resume, device, seed, out=out)
    say({"name": name, "minutes": minutes}, as_json, f"{name}: trained")


@app.command()
def precompute(
    what: Annotated[list[str] | None, typer.Argument(help=f"{', '.join(PARTS)}; all if none is named.")] = None,
    pictures: Annotated[int, typer.Option(min=2, help="Pictures of each contender in the results.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Rebuild what follows from the models: the catalogue's numbers, schedules, results (hours; goes on), figures."""
    if unknown := [part for part in what or PARTS if part not in PARTS]:
        raise ValueError(f"{unknown[0]!r} cannot be rebuilt; choose one of {', '.join(PARTS)}")
    for part in what or PARTS:
        PARTS[part](pictures)
    say({"rebuilt": list(what or PARTS)}, as_json, f"rebuilt {', '.join(what or PARTS)}")


@app.command()
def serve() -> None:
    """The page. Address and port: GRADIO_SERVER_NAME, GRADIO_SERVER_PORT."""
    from explorer import ui

    ui.launch()
