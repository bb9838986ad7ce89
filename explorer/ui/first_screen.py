"""What the page shows before Gradio has mounted it: header, slider, pictures and map, which work at once.

Made of the page's own components, into which `static/firstScreen/` moves it once they are there. An address that names
something has none: Python reads it first.
"""

import json
from typing import Any

import gradio as gr

from explorer.bundled import gallery
from explorer.ui.components import ExploreParts
from explorer.ui.frontend import GALLERY_ADDRESS

# Before the page is painted: the theme that Gradio will choose, and the pictures, which the browser fetches meanwhile;
# no first screen where an address names what to show.
BEGIN_JS = """{
  const screen = document.querySelector("#first-screen");
  if (location.search) screen.remove();
  else {
    window.openingPictures = PICTURES.map((src) => Object.assign(new Image(), { fetchPriority: "high", src }));
    document.body.classList.add("mounting");
    document.body.classList.toggle("dark", matchMedia("(prefers-color-scheme: dark)").matches);
  }
}"""


def first_screen(page: gr.Blocks, tabs: list[str], parts: ExploreParts) -> str:
    """Make the markup of the first screen of a page with these tabs."""
    named: dict[str, Any] = {block.elem_id: block for block in page.blocks.values()}
    request = {name: control.value for name, control in (parts.request | {"show": named["show"]}).items()}
    facts = json.dumps({"request": request} | {name: named[name].props for name in ("pictures", "heatmap")})
    facts = facts.replace("<", "\\u003c")  # ends no script
    begin = BEGIN_JS.replace("PICTURES", json.dumps(_pictures(request)))
    buttons = "".join(f'<button type="button">{tab}</button>' for tab in tabs)
    return f"""<div id="first-screen">
<div id="header">{named["header"].value}</div>
<div class="tab-names">{buttons}</div>
<div id="lead">{named["lead"].html_template}</div>
<div class="form"><div id="ratio">{_slider(parts.request["ratio"])}</div></div>
<div id="explore">
<div id="results"><div id="pictures">{named["pictures"].html_template}</div></div>
<div id="side"><div id="side-head"><div id="heading">{named["heading"].value}</div>
<button type="button" disabled>Use it</button></div>
<div class="map-choice"></div>
<div id="heatmap">{_filled(named["heatmap"])}</div></div>
</div></div>
<script type="application/json" id="first-facts">{facts}</script>
<script>{begin}</script>"""


def _pictures(request: dict[str, Any]) -> list[str]:
    """List the addresses of the gallery's pictures for this request: full run, pruned, and with few steps."""
    scene = {"prompt": request["prompt"], "seed": request["seed"]}
    names = ("full", request["method"], f"{request['baseline_sampler']}-steps")
    files = gallery.strips_of(request["model"], scene, names)
    return [f"{GALLERY_ADDRESS}{request['model']}/{file}" for file in files]


def _filled(component: gr.HTML) -> str:
    text = component.html_template
    for name in ("waiting", "caption"):
        text = text.replace(f"${{{name}}}", component.props[name])
    return text


def _slider(ratio: Any) -> str:
    values = f'min="{ratio.minimum}" max="{ratio.maximum}" step="{ratio.step}" value="{ratio.value}"'
    return f"""<div class="head"><label>{ratio.label}</label>
<input type="number" {values} aria-label="{ratio.label}, as a number"><i>↺</i></div>
<div class="range"><span>{ratio.minimum}</span><input type="range" {values} aria-label="{ratio.label}">
<span>{ratio.maximum}</span></div>"""
