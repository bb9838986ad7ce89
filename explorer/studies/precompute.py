"""Rebuilds what follows from the models: the catalogue's numbers, schedules, widths, results, the gallery, figures.

    PARTS["results"](100, report)   # pictures per candidate, and a function that is called with each Progress

Each part continues where it stopped: what it has so far is in a folder of EXPLORER_RUNS. Importing this loads no torch.
"""

import itertools
import shutil
from collections.abc import Callable, Generator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer import experiment
from explorer.bundled import gallery, lesson, width_examples
from explorer.bundled import masks as bundled
from explorer.masks.result import load
from explorer.models import catalogue
from explorer.models.model import Model
from explorer.models.prompts import model_names, repeat_to, split_names
from explorer.progress import Progress, run_to_completion
from explorer.pruners import PUBLISHED, method_config
from explorer.pruners.resume import SavedState, run_with_saved_state
from explorer.studies.result_files import (
    RESULTS,
    Report,
    evaluate_into_results,
    evaluate_runs,
    reference_run,
    runs_folder,
    write_summary,
)

if TYPE_CHECKING:
    from explorer.evaluation.candidates import Candidate
    from explorer.studies.width_study import WidthStudy

UNET, DIT, FLUX, TURBO = "emoji-unet", "emoji-dit", "emoji-flux", "emoji-flux-turbo"
# What DiP-GO is bundled for; order 1 pays where calls are many, and PNDM and four calls need them at even distances.
TRAJECTORIES: Mapping[str, Mapping[tuple[str, int], Mapping[str, Any]]] = {
    UNET: {
        ("ddim", 25): {"order": 0},
        ("dpm++", 20): {"order": 0},
        ("pndm", 50): {"init": "even"},
        ("ddim", 50): {},
    },
    DIT: {("ddim", 25): {"order": 0}, ("ddim", 50): {"order": 1}, ("ddim", 250): {"order": 1}},
    FLUX: {("euler", 20): {"order": 1}},
    TURBO: {("euler", 4): {"order": 0, "init": "even"}},
}
PAPER_RATIOS = {250: (0.6, 0.75)}  # by steps: DiP-GO, table 3, for DiT
PUBLISHED_TOO = (UNET, FLUX, TURBO)
SEEDS = (1, 2)  # besides the bundled file's 0
FEWER_ITERATIONS = {"iterations": 100}  # than the paper's 1000, which would take half a day


def learn_schedules(num_images: int, report: Report) -> None:
    """Plan calls; learn schedules by DiP-GO with our algorithm, for emoji-unet and emoji-flux also as published."""
    from explorer.studies.extrapolation_study import bundle_plan

    for model_id, trajectories in TRAJECTORIES.items():
        model, names = catalogue.load(model_id), ("", "published-") if model_id in PUBLISHED_TOO else ("",)
        for ((sampler, steps), own), name in itertools.product(trajectories.items(), names):
            out = bundled.SCHEDULES / model.id / f"dipgo-{name}{sampler}-{steps}.safetensors"
            reference, chosen = reference_run(model_id, sampler, steps), PUBLISHED | FEWER_ITERATIONS if name else own
            _learn_dipgo(model, vars(reference) | dict(chosen), out, report)
            bundle_plan(model, reference, report)


def _learn_dipgo(model: Model, chosen: Mapping[str, Any], out: Path, report: Report) -> None:
    """Learn the importance `out` unless it is there; a search that was stopped is resumed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        return
    config = method_config("dipgo", chosen)
    about = {"model": model.revision, "config": config.model_dump(mode="json")}
    saved = SavedState(runs_folder("schedules") / out.name, about)
    state = saved.load() if saved.path.exists() else None
    work = experiment.prune(model, "dipgo", config, state=state)
    run_with_saved_state(work, saved, report).save(out)
    saved.delete()


def run_ablations(num_images: int, report: Report) -> None:
    """Measure what each decision inside DiP-GO contributes, and what searches without a gradient find."""
    from explorer.studies.ablations import ablate, search

    model = catalogue.load(UNET)
    for name, work in {"ablations": ablate(model, runs_folder("ablations")), "searches": search(model)}.items():
        write_summary(f"{model.id}-{name}", run_to_completion(work, report))


def run_width_study(num_images: int, report: Report) -> None:
    """Compare all methods for heads, neurons and channels, and bundle what the page uses."""
    from explorer.studies.width_study import STUDIES

    for name, study in STUDIES.items():
        _run_width_study(catalogue.load(name), study, num_images, report)


def _run_width_study(model: Model, study: "WidthStudy", num_images: int, report: Report) -> None:
    """Learn what is not learned yet for one model, evaluate, and bundle."""
    from explorer.studies.width_study import learn_importances, make_candidates

    runs = runs_folder(f"widths/{model.id}")
    for kind, variants in study.variants.items():
        importances = run_to_completion(learn_importances(model, variants, runs), report)
        candidates = make_candidates(model, study.reference, importances, param_ratios=study.param_ratios)
        evaluate_into_results(model, study.reference, candidates, num_images, kind, report)
    for name in study.bundled:
        out = bundled.WIDTHS / model.id / f"{name}.safetensors"
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(runs / out.name, out)


def evaluate_suite(num_images: int, report: Report) -> None:
    """Evaluate all baselines and the bundled schedules of emoji-unet, for the two full runs that the papers use."""
    from explorer.evaluation.candidates import ReferenceRun
    from explorer.evaluation.results import publish
    from explorer.studies import baseline_suite

    model, runs = catalogue.load(UNET), runs_folder("results")
    for reference in (ReferenceRun("ddim", 50), ReferenceRun("dpm++", 25)):
        name = f"{reference.sampler}-{reference.steps}"
        work = baseline_suite.run(model, reference, runs, num_images)
        write_summary(f"{model.id}-{name}", run_to_completion(work, report))
        publish(runs / f"{name}.parquet", RESULTS / f"{model.id}-{name}.parquet")


def evaluate_deepcache(num_images: int, report: Report) -> None:
    """Evaluate DeepCache at every interval and branch, with fewer pictures because there are many."""
    from explorer.evaluation.candidates import ReferenceRun, make_samples
    from explorer.evaluation.results import publish
    from explorer.studies.baseline_suite import deepcache_candidates

    model, reference = catalogue.load(UNET), ReferenceRun("ddim", 50)
    runs, name = runs_folder("results"), f"{model.id}-ddim-50-deepcache"
    samples, file = make_samples(split_names(model, "evaluation"), max(2, num_images // 6)), runs / "deepcache.parquet"
    options: dict[str, Any] = {"resume": True, "keep": runs / "references"}
    work = experiment.evaluate(model, reference, deepcache_candidates(model, reference), samples, file, **options)
    write_summary(name, run_to_completion(work, report))
    publish(file, RESULTS / f"{name}.parquet")


def evaluate_head_to_head(num_images: int, report: Report) -> None:
    """Compare what was learned with the strongest baselines, on twice as many pictures.

    Where there are no earlier results to choose the baselines by, a quarter of the pictures is used.
    """
    from explorer.evaluation.results import read_results
    from explorer.studies import head_to_head as study

    work: Generator[Progress, None, list[Candidate]]
    for model_id, (sampler, steps) in [(name, run) for name, runs in TRAJECTORIES.items() for run in runs]:
        model, reference = catalogue.load(model_id), reference_run(model_id, sampler, steps)
        earlier = RESULTS / f"{model_id}-{sampler}-{steps}.parquet"
        if earlier.exists():
            work = study.with_strongest_baselines(model, reference, read_results(earlier)[1])
            count = 2 * num_images
        else:
            fixed = partial(study.with_fixed_baselines, ratios=PAPER_RATIOS.get(steps, study.RATIOS))
            work = (study.with_two_baselines if model_id == UNET else fixed)(model, reference)
            count = max(2, num_images // 4)
        evaluate_into_results(model, reference, run_to_completion(work, report), count, "head-to-head", report)


def evaluate_caches(num_images: int, report: Report) -> None:
    """Compare the schedules of the transformers with the caches of diffusers, and of cache-dit where that is there."""
    from explorer.studies.head_to_head import with_caches

    evaluate_runs(with_caches, ((DIT, "ddim", 50), (FLUX, "euler", 20)), max(2, num_images // 4), "caches", report)


def evaluate_extrapolation(num_images: int, report: Report) -> None:
    """Compare polynomials with learned coefficients, for whole calls, planned calls and what is shipped."""
    from explorer.studies.extrapolation_study import with_learned_extrapolation

    runs = ((FLUX, "euler", 20), (DIT, "ddim", 50), (UNET, "ddim", 50))
    evaluate_runs(with_learned_extrapolation, runs, max(2, num_images // 4), "extrapolation", report)


def compare_readings(num_images: int, report: Report) -> None:
    """Compare what a skipped block can hand back, by DiP-GO for each: its last output, or its last change."""
    from explorer.evaluation.candidates import Candidate
    from explorer.studies.head_to_head import RATIOS

    model, reference = catalogue.load(DIT), reference_run(DIT, "ddim", 50)
    candidates = []
    for reuse, order in itertools.product(("output", "residual"), (0, 1)):
        own, out = {"reuse": reuse, "order": order}, runs_folder("readings") / f"{reuse}-{order}.safetensors"
        _learn_dipgo(model, vars(reference) | own, out, report)
        found, run = load(out), (reference.sampler, reference.steps)
        candidates += [Candidate("dipgo", *run, ratio, own, mask=found.at(ratio)) for ratio in RATIOS]
    evaluate_into_results(model, reference, candidates, max(2, num_images), "readings", report)
    out = bundled.SCHEDULES / model.id / "dipgo-residual-ddim-50.safetensors"
    shutil.copyfile(runs_folder("readings") / "residual-0.safetensors", out)


def evaluate_seeds(num_images: int, report: Report) -> None:
    """Learn by DiP-GO for 50 steps with other seeds, and evaluate on the pictures of the head-to-head comparison."""
    from explorer.evaluation.candidates import ReferenceRun
    from explorer.studies.baseline_suite import bundled_candidates
    from explorer.studies.head_to_head import RATIOS

    model, reference = catalogue.load(UNET), ReferenceRun("ddim", 50)
    folder = bundled.SCHEDULES / model.id / "seeds"
    for seed in SEEDS:
        out = folder / f"dipgo-{reference.sampler}-{reference.steps}-seed-{seed}.safetensors"
        chosen = {"sampler": reference.sampler, "steps": reference.steps, "seed": seed}
        _learn_dipgo(model, chosen, out, report)
    candidates = [one for ratio in RATIOS for one in bundled_candidates(model, reference, ratio, folder)]
    evaluate_into_results(model, reference, candidates, 2 * num_images, "seeds", report)


def make_gallery(num_images: int, report: Report) -> None:
    """Render and pack the galleries that the slider shows, but those that are complete already."""
    from explorer.studies.galleries import GALLERIES
    from explorer.studies.gallery_pack import pack
    from explorer.studies.gallery_render import render

    for name, shown in GALLERIES.items():
        model, runs, target = catalogue.load(name), runs_folder(f"gallery/{name}"), gallery.GALLERIES / name
        if gallery.check_gallery(target, model.revision) != gallery.GalleryCheck(usable=True):
            run_to_completion(render(model, shown, runs), report)
            pack(model, shown, runs, target)


def measure_gallery_speeds(num_images: int, report: Report) -> None:
    """Measure the speed of every entry of the galleries; nothing else may run on the machine meanwhile."""
    from explorer.studies.gallery_speed import measure_speeds

    for name in catalogue.EMBEDDED:
        run_to_completion(measure_speeds(catalogue.load(name), gallery.GALLERIES / name), report)


def generate_width_examples(num_images: int, report: Report) -> None:
    """Generate the pictures that Width pruning shows before a visitor generates any."""
    from explorer.studies.width_pictures import generate_examples

    for model_id in filter(bundled.width_headers, catalogue.EMBEDDED):
        run_to_completion(generate_examples(model_id, width_examples.FOLDER / model_id), report)


def measure_features(num_images: int, report: Report) -> None:
    """Measure how similar features are along the trajectories that the page begins with, on a third of the pictures."""
    from explorer.measures.feature_similarity import measure

    model = catalogue.load(UNET)
    for sampler, steps in (("ddim", 50), ("ddim", 25)):
        out = catalogue.ASSETS / "features" / model.id / f"{sampler}-{steps}.safetensors"
        out.parent.mkdir(parents=True, exist_ok=True)
        if not out.exists():
            prompts = repeat_to(model_names(model), max(2, num_images // 3))
            run_to_completion(measure(model, prompts, sampler=sampler, steps=steps), report).save(out)


def make_lesson(num_images: int, report: Report) -> None:
    """Compute what the SuperNet tab teaches with, from the gallery and the examples of widths too."""
    from explorer.studies.lesson import make_lesson

    run_to_completion(make_lesson(catalogue.load(UNET), lesson.FOLDER), report)


def draw_result_figures(num_images: int, report: Report) -> None:
    """Draw the figures of all results and report their rankings. Needs kaleido (requirements-dev.txt) and a browser."""
    from explorer.evaluation.results import read_results
    from explorer.studies.report import describe_ranking, draw_figures, ratios_with_several

    files = sorted(RESULTS.glob("*.parquet"))
    for number, file in enumerate(files, start=1):
        draw_figures(file)
        _, rows = read_results(file)
        for ratio in ratios_with_several(rows):
            report(Progress(number, len(files), f"{file.stem}, {describe_ranking(rows, ratio)}"))


# what the command `precompute` runs, in this order where no part is named: (pictures per candidate, report)
PARTS: Mapping[str, Callable[[int, Report], None]] = {
    "catalogue": lambda num_images, report: catalogue.measure(),
    "schedules": learn_schedules,
    "ablations": run_ablations,
    "width-study": run_width_study,
    "results": evaluate_suite,
    "deepcache": evaluate_deepcache,
    "head-to-head": evaluate_head_to_head,
    "caches": evaluate_caches,
    "extrapolation": evaluate_extrapolation,
    "readings": compare_readings,
    "seeds": evaluate_seeds,
    "gallery": make_gallery,
    "gallery-speeds": measure_gallery_speeds,
    "width-examples": generate_width_examples,
    "features": measure_features,
    "lesson": make_lesson,
    "figures": draw_result_figures,
}
