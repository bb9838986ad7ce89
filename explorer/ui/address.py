"""What the controls ask, and the state of a view as the query of the page's address, and back.

Names are those of the controls: `model`, `prompt`, `ratio`, ... and `method.field` for a method's own settings.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from explorer import shipped
from explorer.catalogue import listing
from explorer.experiment import Question, sentence
from explorer.letters import packed
from explorer.masks import Mask
from explorer.pruners.configs import AT_ONCE, CONFIGS

PLAIN = tuple(name for name in Question.model_fields if name not in ("settings", "keep"))


def question(values: Mapping[str, Any]) -> Question:
    """The question that the controls ask; a setting that is left empty keeps its default."""
    method = str(values["method"])
    settings = {
        name.partition(".")[2]: value
        for name, value in values.items()
        if name.partition(".")[0] == method and "." in name and value not in (None, "")
    }
    plain = {name: value for name, value in values.items() if name in (*PLAIN, "keep")}
    return offered(Question(settings=settings, **plain))


def offered(question: Question) -> Question:
    """The question if its model and method are what the page offers: no folders, no downloads, no minutes of search."""
    models = [row["id"] for row in listing() if row["available"]]
    if question.model not in models:
        raise ValueError(f"model {question.model!r} is not here; choose one of {', '.join(models) or 'none'}")
    if question.method not in (*AT_ONCE, *shipped.methods(question.model)):
        raise ValueError(f"method {question.method!r} draws pictures first; make its file with the command prune")
    return question


def read(query: Mapping[str, str], defaults: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The controls' values in an address, typed and checked; the defaults and a sentence if they are not valid."""
    defaults = {name: defaults[name] for name in PLAIN}
    plain = defaults | {name: query[name] for name in PLAIN if name in query}
    try:
        asked = offered(Question(**plain))
        settings = _settings(asked.method, query)
    except ValueError as error:
        return defaults, [f"This address is no view: {sentence(error)}"]
    return asked.model_dump(include=set(PLAIN)) | settings, []


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
