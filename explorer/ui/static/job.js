// A running job: its description, curves of its metrics, its gates, the latest picture. Only what is new is sent.

import { drawFigure, loadPlotly } from "./plotlyView.js";
import { onThemeChange } from "./theme.js";

export function mountJob({ element, props, watch }) {
  const [description, picture, curves, gates] = [".description", ".preview", ".curves", ".gates"].map((name) => element.querySelector(name));
  const waiting = element.querySelector(".waiting");
  const seen = { metrics: {}, gates: null }; // of each metric, the points [step, value]

  function withLayout(box, own) {
    const style = getComputedStyle(element);
    const font = { color: style.getPropertyValue("--body-text-color").trim(), family: style.fontFamily };
    return { ...JSON.parse(JSON.stringify(props.layout)), ...own, width: box.clientWidth, font };
  }

  async function draw() {
    const metrics = curvesOf(seen.metrics);
    curves.hidden = !metrics.length;
    gates.hidden = !seen.gates;
    if (!metrics.length && !seen.gates) return;
    const plotly = await loadPlotly(props.library);
    if (metrics.length) await drawFigure(plotly, curves, ...curveFigure(metrics, props.colours, (own) => withLayout(curves, own)));
    if (seen.gates) await drawFigure(plotly, gates, ...gateFigure(seen.gates, props.colours, (own) => withLayout(gates, own)));
    element.classList.toggle("drawn", metrics.length > 0);
  }

  function receive() {
    const value = props.value;
    waiting.hidden = Boolean(value);
    description.hidden = !value;
    if (!value || value.fresh) Object.assign(seen, { metrics: {}, gates: null });
    if (!value) return void [picture, curves, gates].forEach((part) => (part.hidden = true));
    for (const [step, metrics] of value.events) {
      for (const [name, number] of Object.entries(metrics)) (seen.metrics[name] ??= []).push([step, number]);
    }
    if (value.gates) seen.gates = decodeGates(value.gates);
    description.innerHTML = value.description; // made and escaped by Python
    picture.hidden = !(value.picture || (picture.src && !value.fresh));
    if (value.picture) picture.src = value.picture;
    description.dataset.state = value.state;
    draw();
  }

  watch("value", receive);
  new ResizeObserver(draw).observe(element);
  onThemeChange(draw);
  receive();
}

const VALIDATION = "validation"; // always on the same pictures and ratios, as a step's own loss is not

/** Choose what is drawn, [name, points]: the validation where there is one, else the first two metrics; of two steps or more. */
function curvesOf(metrics) {
  const named = VALIDATION in metrics ? [["distance to the full run (log, fixed pictures)", metrics[VALIDATION]]] : Object.entries(metrics).slice(0, 2);
  return named.filter(([, points]) => points.length > 1);
}

/** Draw curves over the steps, with an axis of its own each. Returns [data, layout]. */
function curveFigure(metrics, colours, withLayout) {
  const axis = (name, index) => ({
    ...{ overlaying: index ? "y" : undefined, side: index ? "right" : "left", title: { text: name } },
    ...{ showgrid: false, zeroline: false, automargin: true, fixedrange: true },
  });
  const lines = metrics.map(([name, points], index) => ({
    ...{ x: points.map(([step]) => step), y: points.map(([, value]) => value), name, yaxis: index ? "y2" : "y" },
    ...{ mode: points.length < 20 ? "lines+markers" : "lines", line: { color: colours[index] } },
  }));
  const last = Math.max(...metrics.map(([, points]) => points.at(-1)[0]));
  const axes = Object.fromEntries(metrics.map(([name], index) => [index ? "yaxis2" : "yaxis", axis(name, index)]));
  return [lines, withLayout({ ...axes, height: 240, showlegend: true, xaxis: { title: { text: "step" }, range: [0, last + 0.5], tickformat: "d", fixedrange: true, zeroline: false } })];
}

/** The place of each unit at each call in the current removal order. Returns [data, layout]. */
function gateFigure({ names, rows }, colours, withLayout) {
  const heat = {
    ...{ type: "heatmap", z: rows, y: names, zmin: 0, zmax: 255, showscale: false },
    ...{ colorscale: [[0, colours[2]], [1, colours[0]]], hovertemplate: "%{y}, call %{x}<extra></extra>" },
  };
  const yaxis = { automargin: true, fixedrange: true, autorange: "reversed", tickfont: { size: 9 } };
  return [[heat], withLayout({ height: 70 + 14 * rows.length, yaxis, xaxis: { title: { text: "call" }, fixedrange: true } })];
}

/** Decode { names, calls, bytes in base64, call by call } into names and a row of bytes per unit. */
function decodeGates({ names, calls, bytes }) {
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
    table.replaceChildren(makeRow("th", props.columns), ...rows.map(({ cells }) => Object.assign(makeRow("td", cells), { tabIndex: 0 })));
    rows.forEach(({ id }, index) => (table.rows[index + 1].dataset.id = id));
  }

  const makeRow = (kind, cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map((cell) => Object.assign(document.createElement(kind), { textContent: cell })));
    return row;
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
