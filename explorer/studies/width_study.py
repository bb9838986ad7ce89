"""Compares ways of pruning widths: which elements each method removes, at the same share of parameters.

All candidates prune the same network to the same size and generate the same pictures; baselines are few-step samplers
of the whole network with as many MACs.
"""

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from explorer.evaluation.baselines import few_step_baselines
from explorer.evaluation.candidates import Candidate, ReferenceRun
from explorer.masks.width import WidthImportance
from explorer.models.catalogue import own_run
from explorer.models.model import Model
from explorer.models.prompts import repeat_to, split_names
from explorer.progress import Progress
from explorer.pruners import PRUNERS, method_config
from explorer.pruners.objective import Objective
from explorer.pruners.taylor import taylor_at_thresholds
from explorer.pruners.width_configs import TaylorConfig, WidthConfig
from explorer.pruners.width_ranking import make_width_result, select_dims

SEEDS = (0, 1, 2)
TUNING_IMAGES = 8  # on which few-step samplers choose their spacing
ECODIFF: dict[str, Any] = {"steps": 10, "iterations": 48}  # of both algorithms of EcoDiff
CHANNELS: dict[str, Any] = {"axis": "channels"}
WALK: dict[str, Any] = {"stride": 10}  # of the expansion over timesteps; the paper's is 1

Variants = Mapping[str, tuple[str, Mapping[str, Any]]]  # name -> method and settings
HEAD_VARIANTS: Variants = MappingProxyType(
    {
        **{f"ecodiff{f'-seed-{seed}' if seed else ''}": ("ecodiff", ECODIFF | {"seed": seed}) for seed in SEEDS},
        "ecodiff-published": ("ecodiff", ECODIFF | {"algorithm": "hard_concrete"}),
        "ecodiff-call": ("ecodiff", ECODIFF | {"algorithm": "hard_concrete", "loss_on": "single_call"}),
        "ecodiff-blocks": ("ecodiff", ECODIFF | {"ranking": "blocks"}),
        "taylor": ("taylor", WALK | {"axis": "heads and neurons"}),
        "magnitude": ("magnitude", {}),
        "magnitude-l1": ("magnitude", {"norm": 1}),
        **{f"random-seed-{seed}": ("random-width", {"seed": seed}) for seed in SEEDS},
    }
)
THRESHOLDS = (0.0, 0.01, 0.1, 0.2)  # besides the default
CHANNEL_VARIANTS: Variants = MappingProxyType(
    {
        **{f"taylor-channels{f'-seed-{s}' if s else ''}": ("taylor", CHANNELS | WALK | {"seed": s}) for s in SEEDS},
        **{f"taylor-channels-{t}": ("taylor", CHANNELS | WALK | {"threshold": t}) for t in THRESHOLDS},
        "taylor-channels-absolute": ("taylor", CHANNELS | WALK | {"accumulate": "absolute"}),
        "fisher-channels": ("taylor", CHANNELS | WALK | {"accumulate": "squared"}),
        "magnitude-channels": ("magnitude", CHANNELS),
        "magnitude-channels-l1": ("magnitude", CHANNELS | {"norm": 1}),
        **{f"random-channels-seed-{seed}": ("random-width", CHANNELS | {"seed": seed}) for seed in SEEDS},
    }
)
ADALN: dict[str, Any] = {"prune_adaln": True}
FLUX_RATIOS = (0.1, 0.2, 0.3)
PARAM_RATIOS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
CHANNEL_RATIOS = (0.2, 0.3, 0.5)  # of each layer


def _flux_variants(model_id: str) -> Variants:
    ecodiff: dict[str, Any] = own_run(model_id) | {"iterations": 48}
    return {
        **{f"ecodiff{f'-seed-{seed}' if seed else ''}": ("ecodiff", ecodiff | {"seed": seed}) for seed in SEEDS},
        "ecodiff-published": ("ecodiff", ecodiff | {"algorithm": "hard_concrete"}),
        "ecodiff-adaln": ("ecodiff", ecodiff | ADALN),
        "ecodiff-published-adaln": ("ecodiff", ecodiff | ADALN | {"algorithm": "hard_concrete"}),
        "magnitude": ("magnitude", {}),
        "magnitude-adaln": ("magnitude", ADALN),
        **{f"random-seed-{seed}": ("random-width", {"seed": seed}) for seed in SEEDS},
        **{f"random-adaln-seed-{seed}": ("random-width", ADALN | {"seed": seed}) for seed in SEEDS},
    }


class WidthStudy(NamedTuple):
    """What is measured on a model, and which of the files come with the project."""

    reference: ReferenceRun
    variants: Mapping[str, Variants]  # by what they remove: heads or channels
    bundled: tuple[str, ...]
    param_ratios: tuple[float, ...] = PARAM_RATIOS


# what the page's slider of thresholds compares
THRESHOLD_FILES = ("taylor-channels", *(f"taylor-channels-{threshold}" for threshold in THRESHOLDS))

# the channels of a transformer cannot be pruned, and the U-Net on pixels has one narrow attention
STUDIES: Mapping[str, WidthStudy] = MappingProxyType(
    {
        "emoji-unet": WidthStudy(
            ReferenceRun("ddim", 25),
            {"heads": HEAD_VARIANTS, "channels": CHANNEL_VARIANTS},
            ("ecodiff", *THRESHOLD_FILES, "magnitude"),
        ),
        "emoji-dit": WidthStudy(ReferenceRun("ddim", 25), {"heads": HEAD_VARIANTS}, ("ecodiff", "magnitude")),
        "emoji-flux": WidthStudy(
            ReferenceRun(**own_run("emoji-flux")),
            {"heads": _flux_variants("emoji-flux")},
            ("ecodiff", "ecodiff-adaln", "ecodiff-published", "magnitude"),
            FLUX_RATIOS,
        ),
        "emoji-flux-turbo": WidthStudy(
            ReferenceRun(**own_run("emoji-flux-turbo")),
            {"heads": _flux_variants("emoji-flux-turbo")},
            ("ecodiff",),
            FLUX_RATIOS,
        ),
        "emoji-ddpm": WidthStudy(
            ReferenceRun("ddim", 50, 1.0),
            {"channels": CHANNEL_VARIANTS},
            (*THRESHOLD_FILES, "magnitude-channels"),
        ),
    }
)


def learn_importances(
    model: Model, variants: Variants, folder: Path
) -> Generator[Progress, None, dict[str, WidthImportance]]:
    """Return the importances of these variants; what is not in `folder` yet is learned and written there."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = {name: (method, method_config(method, settings)) for name, (method, settings) in variants.items()}
    files = {name: folder / f"{name}.safetensors" for name in runs}
    missing = {name: run for name, run in runs.items() if not files[name].exists()}
    yield from _learn_thresholds(model, missing, files)
    importances: dict[str, WidthImportance] = {}
    for number, (name, file) in enumerate(files.items()):
        if not file.exists():
            yield Progress(number, len(runs), name)
            (yield from _learn_importance(model, *runs[name], importances)).save(file)
        importances[name] = WidthImportance.load(file)
    return importances


def _learn_thresholds(
    model: Model, runs: Mapping[str, tuple[str, Any]], files: Mapping[str, Path]
) -> Generator[Progress, None, None]:
    """Learn what differs by the threshold alone from one walk over timesteps, and write it."""
    walks: dict[str, dict[float, str]] = {}  # the settings without the threshold -> threshold -> name
    for name, (method, config) in runs.items():
        if method == "taylor":
            shared = config.model_copy(update={"threshold": 0.0}).model_dump_json()
            walks.setdefault(shared, {})[config.threshold] = name
    for shared, names in walks.items():
        config = TaylorConfig.model_validate_json(shared)
        found = yield from taylor_at_thresholds(model, split_names(model, "search"), config, list(names))
        for threshold, name in names.items():
            found[threshold].save(files[name])


def _learn_importance(
    model: Model, method: str, config: WidthConfig, known: Mapping[str, WidthImportance]
) -> Generator[Progress, None, Any]:
    """Run a method; where its scores are known already, and only their ranking is new, rank those."""
    for importance in known.values():
        pruner = importance.header.pruner
        if pruner.name == method and pruner.config == config.model_copy(update={"ranking": "global"}).model_dump():
            return make_width_result(model, select_dims(model, config), dict(importance.score), method, config)
    return (yield from PRUNERS[method].run(model, split_names(model, "search"), config))


def make_candidates(
    model: Model,
    reference: ReferenceRun,
    importances: Mapping[str, WidthImportance],
    baselines: Sequence[str] = ("unipc-steps",),
    param_ratios: Sequence[float] = PARAM_RATIOS,
) -> list[Candidate]:
    """Make candidates of all importances at every ratio of parameters (heads and neurons) or channels, and few-step
    samplers with the MACs of the first of them."""
    prompts = repeat_to(split_names(model, "search"), TUNING_IMAGES)
    objective = Objective(model, prompts, reference.sampler, reference.steps, reference.guidance)
    candidates = []
    macs_fractions: dict[tuple[bool, float], float] = {}
    for name, importance in importances.items():
        of_channels = bool(importance.header.layers)
        for ratio in CHANNEL_RATIOS if of_channels else param_ratios:
            if not of_channels and ratio > importance.max_ratio:
                continue
            widths = importance.at_channel_ratio(ratio) if of_channels else importance.at(ratio)
            settings = importance.header.pruner.config | {"how": name.partition("-seed-")[0]}
            method = importance.header.pruner.name
            candidates.append(Candidate(method, reference.sampler, reference.steps, ratio, settings, widths=widths))
            macs_fractions.setdefault((of_channels, ratio), widths.macs_fraction)
    for kept in sorted(set(macs_fractions.values())):
        candidates += few_step_baselines(model, reference, kept, objective, baselines)
    return candidates
