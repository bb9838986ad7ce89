"""Controls of a pruning method, generated from its config: default, range and line of help per field.

What a question asks of every method (ratio, steps, ...) has its own control, and a field with one choice needs none.
"""

from typing import Any

import gradio as gr
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from explorer.experiment import Question


def of_config(config: type[BaseModel], prefix: str) -> dict[str, gr.components.Component]:
    """One control per field, in order; the keys are `prefix.field`."""
    schema = config.model_json_schema()["properties"]
    return {
        f"{prefix}.{name}": control(schema[name], name, field, f"{prefix}-{name}")
        for name, field in config.model_fields.items()
        if name not in Question.model_fields and "const" not in schema[name]
    }


def control(schema: dict[str, Any], name: str, field: FieldInfo, elem_id: str) -> gr.components.Component:
    """The control that suits a field's JSON schema. An optional number may be left empty."""
    kind = next((one for one in schema.get("anyOf", ()) if one["type"] != "null"), schema)
    shared = dict(label=name.replace("_", " "), info=field.description, value=field.default, elem_id=elem_id)
    if "enum" in kind:
        return gr.Dropdown(choices=kind["enum"], **shared)
    if kind.get("type") == "boolean":
        return gr.Checkbox(**shared)
    if kind.get("type") not in ("integer", "number"):
        return gr.Textbox(**shared)
    low, high = kind.get("minimum"), kind.get("maximum")
    whole = kind["type"] == "integer"
    if low is None or high is None or kind is not schema:
        return gr.Number(precision=0 if whole else None, **shared)
    return gr.Slider(low, high, step=1 if whole else (high - low) / 100, **shared)
