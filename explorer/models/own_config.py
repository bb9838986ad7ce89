"""The configuration of a denoiser that a stranger sends: checked before anything is built, then built without weights.

Nothing of it is a path, a name on the hub or code; `read_config` loads no torch.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from explorer.models import catalogue, pipeline_files
from explorer.models.architectures import DENOISERS, known_denoisers
from explorer.models.model import Model

ID = "your-model"
MAX_CONFIG_BYTES = 64 * 2**10
MAX_VALUES, MAX_TEXT, MAX_NUMBER = 1_000, 200, 100_000
MAX_BLOCKS, MAX_LAYERS, MAX_WIDTH = 16, 120, 20_000  # a layer takes up to 0.1 s
MAX_PARAMS = 40e9
MAX_SAMPLE_SIZE, MAX_TOKENS = 1024, 256**2
PARAMS_OF_A_LAYER = 12  # times its width squared, roughly, of a transformer's block and of a resnet
BUILD_ERRORS = (
    *(TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RuntimeError, AssertionError),
    *(NameError, OSError, MemoryError),
)


def read_config(text: str) -> dict[str, Any]:
    """Read a `config.json`. Raises ValueError, in one sentence, for what is none of a known denoiser, or too large."""
    size = len(text.encode("utf-8", "replace"))
    if size > MAX_CONFIG_BYTES:
        raise ValueError(f"a config.json may have {MAX_CONFIG_BYTES >> 10} KB here; this one has {size >> 10}")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("this is no JSON; choose the config.json in the folder unet/ or transformer/") from error
    name = config.get("_class_name") if isinstance(config, dict) else None
    if not isinstance(name, str) or name not in DENOISERS:
        what = f"a {name[:60]}" if isinstance(name, str) else "no denoiser"
        raise ValueError(f"this is the configuration of {what}; known are {known_denoisers()}")
    _check_values(config)
    _check_sizes(config)
    return config


def _check_values(config: Mapping[str, Any]) -> None:
    values = list(_flatten(config))
    if len(values) > MAX_VALUES:
        raise ValueError(f"a configuration may hold {MAX_VALUES:,} values here; this one holds more")
    for value in values:
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise ValueError(f"a text of this configuration has more than {MAX_TEXT} letters, which none needs")
        if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= MAX_NUMBER):
            raise ValueError(f"a number of this configuration is larger than {MAX_NUMBER:,}, which none needs")


def _flatten(value: Any) -> Iterator[Any]:
    """Yield the plain values inside of lists and tables; a recursion that JSON cannot make deeper than its reader."""
    if isinstance(value, dict):
        for one in value.values():
            yield from _flatten(one)
    elif isinstance(value, list):
        for one in value:
            yield from _flatten(one)
    else:
        yield value


def _check_sizes(config: Mapping[str, Any]) -> None:
    """Refuse what would take long to build: the number of layers, their width, the parameters, the picture."""
    num_layers, width, side = _num_layers(config), _width(config), _largest(config.get("sample_size"), 0)
    limits = [
        ("blocks", _num_blocks(config), MAX_BLOCKS),
        ("layers", num_layers, MAX_LAYERS),
        ("channels in a layer", width, MAX_WIDTH),
        ("parameters", num_layers * PARAMS_OF_A_LAYER * width**2, MAX_PARAMS),
        ("pixels at a side", side, MAX_SAMPLE_SIZE),
    ]
    if not config["_class_name"].startswith("UNet"):
        limits.append(("tokens", (side / max(1, _largest(config.get("patch_size"), 1))) ** 2, MAX_TOKENS))
    for what, number, limit in limits:
        if number > limit:
            raise ValueError(f"this network has about {number:,.0f} {what}; up to {limit:,.0f} are counted here")


def _numbers(value: Any, default: float) -> list[float]:
    found = [one for one in _flatten(value) if isinstance(one, int | float) and not isinstance(one, bool)]
    return found or [default]


def _largest(value: Any, default: float) -> float:
    return max(_numbers(value, default))


def _num_blocks(config: Mapping[str, Any]) -> int:
    lists = [config.get(name) for name in ("block_out_channels", "down_block_types", "up_block_types")]
    return max((len(one) for one in lists if isinstance(one, list)), default=4)


def _num_layers(config: Mapping[str, Any]) -> float:
    """Estimate the layers: those of a transformer, or resnets and transformer blocks of a U-Net."""
    if not config["_class_name"].startswith("UNet"):
        lists = {"num_layers": 28, "num_single_layers": 0, "num_refiner_layers": 0}
        return sum(max(0, _largest(config.get(name), default)) for name, default in lists.items())
    blocks = _num_blocks(config)
    layers = _per_block(config.get("layers_per_block"), 2, blocks)
    names = ("transformer_layers_per_block", "reverse_transformer_layers_per_block")
    depths = [max(both) for both in zip(*(_per_block(config.get(name), 1, blocks) for name in names), strict=True)]
    return sum((2 * max(0, own) + 1) * (1 + max(0, depth)) for own, depth in zip(layers, depths, strict=True))


def _per_block(value: Any, default: float, blocks: int) -> list[float]:
    """Read a number for each block, from one for all or from a list; what a list lacks is its largest."""
    listed = [_largest(one, default) for one in value[:blocks]] if isinstance(value, list) else []
    return listed + [_largest(value, default)] * (blocks - len(listed))


def _width(config: Mapping[str, Any]) -> float:
    if "block_out_channels" in config:
        names = ("block_out_channels", "cross_attention_dim", "encoder_hid_dim")
        return max(_largest(config.get(name), 0) for name in names)
    heads = _largest(config.get("num_attention_heads"), 16) * _largest(config.get("attention_head_dim"), 72)
    return max(heads, *(_largest(config.get(name), 0) for name in ("hidden_size", "caption_projection_dim", "ffn_dim")))


def build(config: Mapping[str, Any]) -> Model:
    """Build the model of a configuration that `read_config` returned, on the meta device, and count its MACs.

    Raises ValueError, in one sentence, for a setting that its class does not have, and where diffusers cannot build it.
    """
    import inspect

    import diffusers

    name = config["_class_name"]
    known = inspect.signature(getattr(diffusers, name).__init__).parameters
    own = {field: value for field, value in config.items() if not field.startswith("_")}
    if unknown := [field for field in own if field not in known or field in ("self", "kwargs")]:
        raise ValueError(f"a {name} has no setting {unknown[0][:60]!r}")
    row = catalogue.typical_row(name)
    described = (row["pipeline"], {**own, "_class_name": name}, row["scheduler"], row["text_length"])
    try:
        model = pipeline_files.build_architecture(ID, *described)
        model.architecture()
    except BUILD_ERRORS as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]
        raise ValueError(f"no {name} can be built of this configuration: {reason}") from error
    return model
