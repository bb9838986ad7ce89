"""What the controls ask, and the state of a view as the query of the page's address, and back.

Names are those of the controls: `model`, `prompt`, `ratio`, ... and `method.field` for a method's own settings. An
order of the shelf, one that a job found or somebody brought, takes the place of a method as `order:` and its id.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from explorer import shipped
from explorer.catalogue import listing
from explorer.experiment import Question, sentence
from explorer.jobs.shelf import Item, Shelf
from explorer.letters import packed
from explorer.masks import Header, Importance, Mask
from explorer.pruners.configs import AT_ONCE, CONFIGS

PLAIN = tuple(name for name in Question.model_fields if name not in ("settings", "keep"))
ORDER = "order:"  # before an id
PLACEHOLDER = "uniform"  # the method of a question whose order is a file


def question(values: Mapping[str, Any]) -> Question:
    """The question that the controls ask; a setting that is left empty keeps its default. An order's file is not in it:
    see `with_order`."""
    method = str(values["method"])
    method = PLACEHOLDER if method.startswith(ORDER) else method
    settings = {
        name.partition(".")[2]: value
        for name, value in values.items()
        if name.partition(".")[0] == method and "." in name and value not in (None, "")
    }
    plain = {name: value for name, value in values.items() if name in (*PLAIN, "keep")}
    return offered(Question(**plain | {"method": method, "settings": settings}))


def with_order(values: Mapping[str, Any], shelf: Shelf | None) -> tuple[Question, str]:
    """The question that the controls ask, and the file of the order that takes the place of its method, if one does.

    Raises ValueError for an order that was learned for something else.
    """
    found, method = question(values), str(values["method"])
    if not method.startswith(ORDER):
        return found, ""
    item, header = order_of(method, shelf)
    if (header.model.id, header.sampler, header.steps) != (found.model, found.sampler, found.steps):
        learned = f"{header.model.id} under {header.sampler} with {header.steps} steps"
        raise ValueError(f"this order is for {learned}; choose those, or another method")
    return found.model_copy(update={"method": header.pruner.name}), str(item.path)


def order_of(method: str, shelf: Shelf | None) -> tuple[Item, Header]:
    """The order of schedules that stands in a method's place. Raises ValueError where there is none."""
    if shelf is None:
        raise ValueError("this page keeps no masks and orders")
    item = shelf.find(method.removeprefix(ORDER))
    if not isinstance(item.header, Header) or not isinstance(item.open(), Importance):
        raise ValueError(f"{item.name!r} is no order of schedules, which the slider needs; look at it on the Masks tab")
    return item, item.header


def of_order(item: Item, header: Header, share: float) -> str:
    """The query of the address at which Explore shows an order, at a ratio that its slider changes."""
    own = {name: getattr(header, name) for name in ("steps", "sampler", "guidance")}
    return urlencode({"model": header.model.id, "method": ORDER + item.id, "ratio": f"{share:.2f}"} | own)


def offered(question: Question) -> Question:
    """The question if its model and method are what the page offers: no folders, no downloads, no minutes of search."""
    models = [row["id"] for row in listing() if row["available"]]
    if question.model not in models:
        raise ValueError(f"model {question.model!r} is not here; choose one of {', '.join(models) or 'none'}")
    if question.method not in (*AT_ONCE, *shipped.methods(question.model)):
        raise ValueError(f"method {question.method!r} draws pictures first; make its file with the command prune")
    return question


def read(
    query: Mapping[str, str], defaults: Mapping[str, Any], shelf: Shelf | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The controls' values in an address, typed and checked; the defaults and a sentence if they are not valid. With an
    order come the model, sampler and steps that it was learned for."""
    defaults = {name: defaults[name] for name in PLAIN}
    named = {name: query[name] for name in PLAIN if name in query}
    method = named.get("method", "")
    try:
        if method.startswith(ORDER):
            header = order_of(method, shelf)[1]
            learned = {"model": header.model.id, "sampler": header.sampler, "steps": header.steps}
            named = {"guidance": header.guidance} | named | learned | {"method": PLACEHOLDER}
        asked = offered(Question(**defaults | named))
        settings = _settings(asked.method, query)
    except ValueError as error:
        return defaults, [f"This address is no view: {sentence(error)}"]
    values = asked.model_dump(include=set(PLAIN)) | settings
    return values | ({"method": method} if method.startswith(ORDER) else {}), []


def of_mask(mask: Mask) -> str:
    """The query of the address at which Explore shows a schedule, as one made by hand."""
    header = mask.header
    asked = {"model": header.model.id, "method": "uniform", "ratio": f"{max(0.0, 1 - mask.kept):.2f}"}
    own = {name: getattr(header, name) for name in ("steps", "sampler", "guidance")} | {
        "seed": min(max(header.seed, 0), 2**32 - 1)
    }
    units = {name: getattr(header, name) for name in ("granularity", "reuse", "order", "reach")}
    units = {f"uniform.{name}": value for name, value in units.items() if value is not None}
    return urlencode(asked | own | units | {"keep": packed(mask.keep)})


def _settings(method: str, query: Mapping[str, str]) -> dict[str, Any]:
    """The method's own settings in an address, by the names of their controls."""
    asked = {
        field: query[f"{method}.{field}"] for field in CONFIGS[method].model_fields if f"{method}.{field}" in query
    }
    checked = CONFIGS[method](**asked)
    return {f"{method}.{field}": getattr(checked, field) for field in asked if field not in PLAIN}
