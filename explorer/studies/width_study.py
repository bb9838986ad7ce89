"""Smaller networks against each other: what each way of choosing units is worth, at the same share of parameters.

Everybody cuts the same network to the same size, and draws the same pictures; beside them stand few-step samplers of
the whole network that cost as many MACs.
"""

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from explorer.evidence.evaluation import Contender, Full
from explorer.evidence.rivals import all_at
from explorer.prompts import chosen, cycled
from explorer.pruners import PRUNERS
from explorer.pruners.configs import WIDTHS, WidthConfig
from explorer.pruners.orders import answer, places
from explorer.pruners.taylor import at_thresholds
from explorer.trials import Trials
from explorer.widths import WidthImportance, load
from explorer.work import Progress

SEEDS = (0, 1, 2)
PICTURES = 8  # that few-step samplers are tuned on
SAME = {"steps": 10, "iterations": 48}  # of both ways of EcoDiff
CHANNELS = {"axis": "channels"}
WALK = {"stride": 10}  # of the expansion over timesteps; the paper's is 1

# what stands for heads and neurons, and for channels: name -> method and settings
HEADS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        **{f"ecodiff{f'-seed-{seed}' if seed else ''}": ("ecodiff", SAME | {"seed": seed}) for seed in SEEDS},
        "ecodiff-published": ("ecodiff", SAME | {"decision": "concrete"}),
        "ecodiff-call": ("ecodiff", SAME | {"decision": "concrete", "distance": "call"}),
        "ecodiff-blocks": ("ecodiff", SAME | {"ranking": "blocks"}),
        "taylor": ("taylor", WALK | {"axis": "heads and neurons"}),
        "magnitude": ("magnitude", {}),
        "magnitude-l1": ("magnitude", {"norm": 1}),
        **{f"random-seed-{seed}": ("random-widths", {"seed": seed}) for seed in SEEDS},
    }
)
THRESHOLDS = (0.0, 0.01, 0.1, 0.2)  # beside the default
THIN: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        **{f"taylor-channels{f'-seed-{s}' if s else ''}": ("taylor", CHANNELS | WALK | {"seed": s}) for s in SEEDS},
        **{f"taylor-channels-{t}": ("taylor", CHANNELS | WALK | {"threshold": t}) for t in THRESHOLDS},
        "taylor-channels-absolute": ("taylor", CHANNELS | WALK | {"accumulate": "absolute"}),
        "fisher-channels": ("taylor", CHANNELS | WALK | {"accumulate": "squared"}),
        "magnitude-channels": ("magnitude", CHANNELS),
        "magnitude-channels-l1": ("magnitude", CHANNELS | {"norm": 1}),
        **{f"random-channels-seed-{seed}": ("random-widths", CHANNELS | {"seed": seed}) for seed in SEEDS},
    }
)
SHARES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)  # of the parameters
RATIOS = (0.2, 0.3, 0.5)  # of the channels of each layer


class Stage(NamedTuple):
    """What is measured on a model, and which of its files come with the project."""

    full: Full
    names: Mapping[str, Sequence[str]]  # heads or channels -> of HEADS and THIN
    shipped: tuple[str, ...]


DRAGGED = ("taylor-channels", *(f"taylor-channels-{threshold}" for threshold in THRESHOLDS))  # what the page compares

# a transformer has no channels that could go, and the pixels' U-Net one narrow attention
STAGES: Mapping[str, Stage] = MappingProxyType(
    {
        "emoji-unet": Stage(
            Full("ddim", 25), {"heads": (*HEADS,), "channels": (*THIN,)}, ("ecodiff", *DRAGGED, "magnitude")
        ),
        "emoji-dit": Stage(Full("ddim", 25), {"heads": (*HEADS,)}, ("ecodiff", "magnitude")),
        "emoji-ddpm": Stage(Full("ddim", 50, 1.0), {"channels": (*THIN,)}, (*DRAGGED, "magnitude-channels")),
    }
)


def learned(model: Any, names: Sequence[str], folder: Path) -> Generator[Progress, None, dict[str, WidthImportance]]:
    """The orders of these names; what is not in `folder` yet is learned and written there."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.safetensors" for name in names}
    yield from _walked(model, {name: file for name, file in files.items() if not file.exists()})
    found: dict[str, WidthImportance] = {}
    for number, (name, file) in enumerate(files.items()):
        if not file.exists():
            yield Progress(number, len(names), name)
            (yield from _order(model, *_asked(name), found)).save(file)
        found[name] = load(file)
    return found


def _asked(name: str) -> tuple[str, WidthConfig]:
    method, settings = (HEADS | THIN)[name]
    return method, WIDTHS[method](**settings)


def _walked(model: Any, files: Mapping[str, Path]) -> Generator[Progress, None, None]:
    """Learn what differs by the threshold alone from one walk over timesteps, and write it."""
    walks: dict[str, dict[float, str]] = {}
    for name in files:
        method, config = _asked(name)
        if method == "taylor":
            alike = config.model_copy(update={"threshold": 0.0}).model_dump_json()
            walks.setdefault(alike, {})[config.threshold] = name
    for alike, own in walks.items():
        config = WIDTHS["taylor"].model_validate_json(alike)
        orders = yield from at_thresholds(model, chosen(model, "search"), config, list(own))
        for threshold, name in own.items():
            orders[threshold].save(files[name])


def _order(
    model: Any, method: str, config: WidthConfig, known: Mapping[str, WidthImportance]
) -> Generator[Progress, None, WidthImportance]:
    """What a method finds; where its scores are known already, and only their ranking is new, from those."""
    for one in known.values():
        pruner = one.header.pruner
        if pruner.name == method and pruner.config == config.model_copy(update={"ranking": "global"}).model_dump():
            return answer(model, places(model, config), dict(one.score), method, config)
    return (yield from PRUNERS[method](model, chosen(model, "search"), config))


def contenders(
    model: Any, full: Full, orders: Mapping[str, WidthImportance], rivals: Sequence[str] = ("unipc-steps",)
) -> list[Contender]:
    """Everybody at every share of the parameters (heads and neurons) or channel ratio, and few-step samplers of the
    first one's MACs."""
    trials = Trials(model, cycled(chosen(model, "search"), PICTURES), full.sampler, full.steps, full.guidance)
    found, priced = [], {}
    for name, order in orders.items():
        thin = bool(order.header.layers)
        for ratio in RATIOS if thin else SHARES:
            if not thin and ratio > order.header.max_ratio:
                continue
            widths = order.thinned(ratio) if thin else order.at(ratio)
            settings = order.header.pruner.config | {"how": name.partition("-seed-")[0]}
            method = order.header.pruner.name
            found.append(Contender(method, full.sampler, full.steps, ratio, settings, widths=widths))
            priced.setdefault((thin, ratio), widths.kept_macs)
    for kept in sorted(set(priced.values())):
        found += all_at(model, full, kept, trials, rivals)
    return found
