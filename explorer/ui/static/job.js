// A job at work: what it says, curves of its numbers, its gates, a picture of the moment. Only what is new comes along.

import { plotly } from "./map.js";

export function mountJob({ element, props, watch }) {
  const [said, picture, curve, gates] = [".said", ".moment", ".curve", ".gates"].map((name) => element.querySelector(name));
  const waiting = element.querySelector(".waiting");
  const seen = { steps: [], numbers: {}, gates: null };

  async function draw() {
    const library = await plotly(props.library);
    const style = getComputedStyle(element);
    const layout = (box, own) => ({ ...JSON.parse(JSON.stringify(props.layout)), ...own, width: box.clientWidth, font: { color: style.getPropertyValue("--body-text-color").trim(), family: style.fontFamily } });
    const shown = Object.entries(seen.numbers);
    curve.hidden = !shown.length;
    gates.hidden = !seen.gates;
    if (shown.length) {
      const axis = (index) => ({ overlaying: index ? "y" : undefined, side: index ? "right" : "left", title: { text: shown[index][0] }, showgrid: false, zeroline: false, automargin: true, fixedrange: true });
      const lines = shown.slice(0, 2).map(([name, values], index) => ({ x: seen.steps, y: values, name, yaxis: index ? "y2" : "y", mode: "lines", line: { color: props.colours[index] } }));
      const axes = Object.fromEntries(lines.map((_, index) => [index ? "yaxis2" : "yaxis", axis(index)]));
      await library.react(curve, lines, layout(curve, { ...axes, height: 240, showlegend: true, xaxis: { title: { text: "step" }, fixedrange: true, zeroline: false } }), { displayModeBar: false });
    }
    if (seen.gates) {
      const heat = { type: "heatmap", z: seen.gates.rows, y: seen.gates.names, zmin: 0, zmax: 255, showscale: false, colorscale: [[0, props.colours[2]], [1, props.colours[0]]], hovertemplate: "%{y}, call %{x}<extra></extra>" };
      const yaxis = { automargin: true, fixedrange: true, autorange: "reversed", tickfont: { size: 9 } };
      await library.react(gates, [heat], layout(gates, { height: 70 + 14 * seen.gates.rows.length, yaxis, xaxis: { title: { text: "call" }, fixedrange: true } }), { displayModeBar: false });
    }
    element.classList.toggle("drawn", shown.length > 0);
  }

  function take() {
    const value = props.value;
    for (const part of [waiting, said]) part.hidden = (part === waiting) === Boolean(value);
    if (!value) return void [picture, curve, gates].forEach((part) => (part.hidden = true));
    if (value.fresh) Object.assign(seen, { steps: [], numbers: {}, gates: null });
    for (const [step, numbers] of value.events) {
      seen.steps.push(step);
      for (const [name, number] of Object.entries(numbers)) (seen.numbers[name] ??= []).push(number);
    }
    if (value.gates) seen.gates = unpacked(value.gates);
    said.innerHTML = value.said; // put together and escaped by Python
    picture.hidden = !(value.picture || (picture.src && !value.fresh));
    if (value.picture) picture.src = value.picture;
    said.dataset.state = value.state;
    draw();
  }

  watch("value", take);
  new ResizeObserver(draw).observe(element);
  new MutationObserver(draw).observe(document.body, { attributes: true, attributeFilter: ["class"] }); // dark or light
  take();
}

/** Names and a row of bytes a unit, from { names, calls, bytes in base64, call by call }. */
function unpacked({ names, calls, bytes }) {
  const flat = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
  const rows = names.map((_, unit) => Array.from({ length: calls }, (_, call) => flat[call * names.length + unit]));
  return { names, rows };
}

/** A list: rows { id, cells }, chosen by click or Enter. Cells are text and never markup. */
export function mountList({ element, props, watch, trigger }) {
  const table = element.querySelector("table");

  function draw() {
    const rows = Array.isArray(props.value) ? props.value : [];
    element.classList.toggle("empty", !rows.length);
    table.replaceChildren(row("th", props.columns), ...rows.map(({ cells }) => Object.assign(row("td", cells), { tabIndex: 0 })));
    rows.forEach(({ id }, index) => (table.rows[index + 1].dataset.id = id));
  }

  const row = (kind, cells) => {
    const made = document.createElement("tr");
    made.append(...cells.map((cell) => Object.assign(document.createElement(kind), { textContent: cell })));
    return made;
  };
  const pick = (event) => {
    const id = event.target.closest("[data-id]")?.dataset.id;
    if (id) trigger("pick", { id });
  };
  table.addEventListener("click", pick);
  table.addEventListener("keydown", (event) => event.key === "Enter" && pick(event));
  watch("value", draw);
  draw();
}
