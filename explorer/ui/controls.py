"""The controls of a pruning method, generated from its config: default, range and line of help per field.

What every request has (ratio, steps, ...) has its own control, and a field with one choice needs none.
"""

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import gradio as gr
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from explorer.experiment import ExperimentRequest
from explorer.pruners import SAMPLER_TITLES, method_title

MAX_SLIDER_RANGE = 100  # a wider range gets a number field


def make_controls(
    config: type[BaseModel],
    prefix: str,
    only: Collection[str] | None = None,
    skip: Collection[str] = tuple(ExperimentRequest.model_fields),
    values: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, gr.components.Component]:
    """Make one control per field (or per field of `only`, none of `skip`), in order; the keys are `prefix.field`.

    A field of `values` begins with that instead of its default.
    """
    schema = config.model_json_schema()["properties"]
    return {
        f"{prefix}.{name}": make_control(schema[name], name, field, f"{prefix}-{name}", values.get(name, field.default))
        for name, field in config.model_fields.items()
        if name not in skip and "const" not in schema[name] and (only is None or name in only)
    }


def method_choices(methods: Iterable[str]) -> list[tuple[str, str]]:
    """Offer methods by their titles."""
    return [(method_title(method), method) for method in methods]


def make_control(
    schema: dict[str, Any], name: str, field: FieldInfo, elem_id: str, value: Any
) -> gr.components.Component:
    """Make the control that suits a field's JSON schema; a text field where it may be empty (gr.Number is then 0)."""
    label = field.title or name.replace("_", " ").capitalize()
    shared = dict(label=label, info=field.description, value=value, elem_id=elem_id, interactive=True)
    kind, low, high = schema.get("type"), schema.get("minimum"), schema.get("maximum")
    if "enum" in schema:
        return gr.Dropdown(choices=[(SAMPLER_TITLES.get(one, one), one) for one in schema["enum"]], **shared)
    if kind == "boolean":
        return gr.Checkbox(**shared)
    if kind not in ("integer", "number"):
        return gr.Textbox(**shared | {"value": "" if value is None else str(value)}, max_lines=1)
    step = 1 if kind == "integer" else None
    if low is None or high is None or high - low > MAX_SLIDER_RANGE:
        return gr.Number(step=step or 0.1, **shared)
    return gr.Slider(low, high, step=step, **shared)
