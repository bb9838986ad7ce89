"""The state of a view as the query of the page's address, and the request that the controls make.

Keys are the names of the controls: `model`, `prompt`, `ratio`, ... and `method.field` for a method's own settings. An
importance of the library, from a job or an upload, takes the place of a method as `importance:` and its id. The browser
writes them (`static/urlState.js`), here they are read.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

from explorer.bundled import gallery
from explorer.bundled import masks as bundled
from explorer.errors import format_error
from explorer.experiment import ExperimentRequest
from explorer.jobs.mask_library import MaskEntry, MaskLibrary
from explorer.masks.encoding import encode_bits
from explorer.masks.schedule import ScheduleHeader
from explorer.models.catalogue import available_models, list_models, own_run
from explorer.models.flow_adapters import FlowAdapter
from explorer.models.pipelines import PIPELINES
from explorer.pruners import PRUNERS, methods_for

MANUAL = "manual_schedule"
REQUEST_KEYS = tuple(name for name in ExperimentRequest.model_fields if name not in ("settings", MANUAL))
# What others than Explore write; Explore's own are REQUEST_KEYS, MANUAL, `show`, `view` and settings.
TAB_KEYS = ("tab", "scene", "subnet", "lang", "present", "unit", "widths", "widths_ratio", "job", "mask", "embed")
MAX_CHARACTERS = 60  # of a value of these
IMPORTANCE = "importance:"  # before an id
SAFE_RATIO = 0.5  # which every method reaches, and most models bear
PLACEHOLDER = "uniform"  # the method of a request whose importance is a file


def read_key(query: Mapping[str, str], key: str) -> str:
    """Read one of TAB_KEYS; empty where the address lacks it."""
    assert key in TAB_KEYS, key
    return query.get(key, "")[:MAX_CHARACTERS]


def make_request(values: Mapping[str, Any]) -> ExperimentRequest:
    """Make the request of the controls; an empty setting keeps its default. See `with_importance` for a file.

    Raises ValueError for what is not valid, or not offered on the page.
    """
    method = str(values["method"])
    method = PLACEHOLDER if method.startswith(IMPORTANCE) else method
    settings = {
        name.partition(".")[2]: value
        for name, value in values.items()
        if name.partition(".")[0] == method and "." in name and value not in (None, "")
    }
    plain = {name: value for name, value in values.items() if name in (*REQUEST_KEYS, MANUAL)}
    return check_offered(ExperimentRequest(**plain | {"method": method, "settings": settings}))


def with_importance(values: Mapping[str, Any], library: MaskLibrary | None) -> tuple[ExperimentRequest, str]:
    """Make the request of the controls, and find the file of the importance that takes the place of its method, or "".

    Raises ValueError for an importance that was learned for something else.
    """
    request, method = make_request(values), str(values["method"])
    if not method.startswith(IMPORTANCE):
        return request, ""
    entry, header = find_importance(method, library)
    if (header.model.id, header.sampler, header.steps) != (request.model, request.sampler, request.steps):
        learned = f"{header.model.id} under {header.sampler} with {header.steps} steps"
        raise ValueError(f"this importance is for {learned}; choose those, or another method")
    return request.model_copy(update={"method": header.pruner.name}), str(entry.path)


def find_importance(method: str, library: MaskLibrary | None) -> tuple[MaskEntry, ScheduleHeader]:
    """Find the importance of schedules that is named in place of a method. Raises ValueError where there is none."""
    if library is None:
        raise ValueError("this page keeps no masks and importances")
    entry = library.find(method.removeprefix(IMPORTANCE))
    header = entry.header
    if (header.prunes, header.kind) != ("schedule", "importance"):
        raise ValueError(
            f"{entry.name!r} is no importance of schedules, which the slider needs; open it on the Masks tab"
        )
    return entry, header


def check_offered(request: ExperimentRequest) -> ExperimentRequest:
    """Return the request if the page offers its model and method: no folders, no downloads, no minutes of search.

    Raises ValueError otherwise.
    """
    models = available_models()
    if request.model not in models:
        raise ValueError(f"model {request.model!r} is not here; choose one of {', '.join(models) or 'none'}")
    if request.method not in offered_methods(request.model):
        raise ValueError(f"method {request.method!r} generates pictures first; make its file with the command prune")
    return request


def offered_methods(model: str) -> list[str]:
    """List what Explore offers for a model: what was learned for it, then what needs no learning."""
    return [*bundled.learned_methods(model), *methods_for("schedule", needs_weights=False)]


def read(
    query: Mapping[str, str], defaults: Mapping[str, Any], library: MaskLibrary | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Read the controls' values from an address, typed and checked; the defaults and a sentence if they are not valid.

    With an importance come the model, sampler and steps that it was learned for.
    """
    defaults = {name: defaults[name] for name in REQUEST_KEYS}
    given: dict[str, Any] = {name: query[name] for name in REQUEST_KEYS if name in query}
    method = given.get("method", "")
    is_importance = method.startswith(IMPORTANCE)
    try:
        if is_importance:
            header = find_importance(method, library)[1]
            learned = {"model": header.model.id, "sampler": header.sampler, "steps": header.steps}
            given = {"guidance": header.guidance} | given | learned | {"method": PLACEHOLDER}
        chosen = _fit_model(defaults, given)
        plain = {name: value for name, value in chosen.items() if name in REQUEST_KEYS}
        request = check_offered(ExperimentRequest(**plain | given))
        settings = _read_settings(request.method, chosen | dict(query))
    except ValueError as error:
        return defaults, [f"This address is no view: {format_error(error)}"]
    values = request.model_dump(include=set(REQUEST_KEYS)) | settings
    return values | ({"method": method} if is_importance else {}), []


def _fit_model(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Choose other defaults where an address names another model without a method."""
    model = str(given.get("model", defaults["model"]))
    if model == defaults["model"] or model not in available_models():
        return dict(defaults)
    if "method" in given:
        return dict(defaults) | _own_run(model)
    return dict(defaults) | opening_values(model, defaults["method"], _read_ratio(given))


def _read_ratio(given: Mapping[str, Any]) -> float | None:
    """Read the ratio of an address, which is checked later."""
    with suppress(KeyError, ValueError):
        return float(given["ratio"])
    return None


def opening_values(model: str, method: str, ratio: float | None = None) -> dict[str, Any]:
    """Choose what to show of a model that takes another's place: what its gallery opens with, by the names of controls.

    The method's other settings are their defaults. Without a gallery nothing changes, unless the model lacks the
    `method`: then it is its first one, at a ratio that suits any.
    """
    if values := gallery.opening_values(model, ratio):
        own, fields = values["method"], PRUNERS[values["method"]].config.model_fields
        return {f"{own}.{name}": field.default for name, field in fields.items() if name not in REQUEST_KEYS} | values
    methods = offered_methods(model)
    return _own_run(model) | ({} if method in methods else {"method": methods[0], "ratio": SAFE_RATIO})


def _own_run(model: str) -> dict[str, Any]:
    """Choose the run that a model was made for; one of flow matching lacks DDIM, also as a baseline."""
    pipeline = next((row["pipeline"] for row in list_models() if row["id"] == model), "")
    return ({"baseline_sampler": "unipc"} if isinstance(PIPELINES.get(pipeline), FlowAdapter) else {}) | own_run(model)


def _read_settings(method: str, query: Mapping[str, Any]) -> dict[str, Any]:
    """Read a method's own settings from an address, or else its defaults, by the names of their controls."""
    config = PRUNERS[method].config
    given = {field: query[f"{method}.{field}"] for field in config.model_fields if f"{method}.{field}" in query}
    checked = config(**given)
    return {f"{method}.{field}": getattr(checked, field) for field in given if field not in REQUEST_KEYS}


def is_shown_by_explore(result: Any) -> bool:
    """Say whether Explore can show what a file decides: any importance, and schedules extrapolated by polynomials."""
    return result.prunes == "schedule" and (result.header.kind == "importance" or not result.header.is_learned)


def explore_query(entry: MaskEntry, result: Any, ratio: float) -> str:
    """Make the query at which Explore shows a file of schedules: an importance at a ratio, a mask as a manual schedule.

    Raises ValueError for widths and learned coefficients, which Explore cannot show.
    """
    if result.prunes != "schedule":
        raise ValueError("widths hold for all calls; Explore shows schedules")
    if not is_shown_by_explore(result):
        raise ValueError(
            "Explore draws single masks with polynomials; use the command generate for learned coefficients"
        )
    header = result.header
    query = {"model": header.model.id} | {name: getattr(header, name) for name in ("steps", "sampler", "guidance")}
    if header.kind == "importance":
        return urlencode(query | {"method": IMPORTANCE + entry.id, "ratio": f"{ratio:.2f}"})
    seed = {"seed": min(max(header.seed, 0), 2**32 - 1)}
    units = {name: getattr(header, name) for name in ("granularity", "reuse", "order", "max_extrapolation")}
    settings = {f"{PLACEHOLDER}.{name}": value for name, value in units.items() if value is not None}
    chosen = {"method": PLACEHOLDER, "ratio": f"{max(0.0, 1 - result.macs_fraction):.2f}"}
    return urlencode(query | chosen | seed | settings | {MANUAL: encode_bits(result.keep)})
