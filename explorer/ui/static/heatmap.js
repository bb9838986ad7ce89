// The heatmap of a schedule: units by calls, with MACs at the margins. Python sends colours, words and the bare layout once
// (`style`, see views/heatmap.py); the figure is built here from the schedule alone.

import { close, compare, cost, statusOf } from "./schedule.js";
import { UndoStack, onDrag, same } from "./undo.js";
import { asText, drawFigure, loadPlotly, onThemeChange, withTheme } from "./plotlyView.js";

const fillIn = (text, facts) => text.replace(/{(\w+)}/g, (_, key) => facts[key]);
const shorten = (unit, { abbreviations }) =>
  asText(abbreviations.reduce((name, [long, short]) => name.replaceAll(long, short), unit).replaceAll(".", " "));
const tickStep = (calls, { tick_steps, max_ticks }) => tick_steps.find((step) => calls <= max_ticks * step) ?? 100;

/** Split a colour scale into as many flat steps as there are colours. */
const flatSteps = (colours) => colours.flatMap((colour, index) => [index, index + 1].map((edge) => [edge / colours.length, colour]));

/** Build plotly's data and layout. shown: { graph, keep, against, timesteps, values, what, ratio, legend }: `against` is
 * another schedule to compare with; `values` are shown in place of the decisions, where `what` is "removal_ratio" or
 * "score"; `legend` names the words in `style`. Returns { data, layout }. */
export function heatmapFigure(shown, style) {
  const { graph, keep, against, timesteps, values } = shown;
  const legend = style.legends[against ? "comparison" : shown.legend];
  const width = graph.units.length;
  const { status, sourceCall, counts } = against ? compare(keep, against) : statusOf(graph, keep);
  const spent = cost(graph, keep);
  const rows = (of) => graph.units.map((_, unit) => timesteps.map((_, call) => of(call * width + unit, call, unit)));
  const hover = rows((index, call, unit) =>
    fillIn(legend.cell, {
      unit: asText(graph.units[unit].name),
      call,
      timestep: Number(timesteps[call].toPrecision(6)),
      share: `${((100 * graph.units[unit].macs) / spent.perCall).toFixed(1)}%`,
      status: fillIn(legend.sentences[status[index]], { source: sourceCall?.[index] }),
    }),
  );
  const names = graph.units.map(({ name }) => shorten(name, style));
  const cells = {
    ...{ type: "heatmap", z: rows((index) => (values ? values[index] : status[index])), text: hover },
    ...{ hovertemplate: "%{text}<extra></extra>", showscale: false, xgap: timesteps.length <= 120 ? 1 : 0, ygap: 1 },
    ...colourScale(shown, legend),
  };
  const legendEntries = legend.names.map((name, index) => ({
    ...{ type: "scatter", x: [null], y: [null], mode: "markers", hoverinfo: "skip", visible: !values },
    ...{ name: `${name} ${counts[index].toLocaleString("en")}`, marker: { symbol: "square", size: 11, color: legend.colours[index] } },
  }));
  return { data: [cells, ...legendEntries, ...margins(shown, spent, names, style)], layout: layoutOf(shown, names, style) };
}

/** Decisions in flat colours, a removal order or scores on a continuous scale. */
function colourScale({ values, what }, { colours }) {
  if (!values) return { colorscale: flatSteps(colours), zmin: -0.5, zmax: colours.length - 0.5 };
  const finite = Array.from(values).filter((value) => value < Infinity);
  const [zmin, zmax] = what === "removal_ratio" ? [0, 1] : [Math.min(...finite), Math.max(...finite)];
  return { colorscale: "Cividis", zmin, zmax };
}

/** Bars above: the share of each call's MACs that is computed; at the right: the share of calls in which each unit runs. */
function margins({ graph, timesteps }, spent, names, style) {
  const bar = { type: "bar", marker: { color: style.colours[0] }, showlegend: false };
  const ofCalls = Array.from(spent.calls, (macs) => macs / spent.perCall);
  const ofUnits = Array.from(spent.units, (macs, unit) => macs / (graph.units[unit].macs * timesteps.length || 1));
  return [
    { ...bar, x: timesteps.map((_, call) => call), y: ofCalls, yaxis: "y2", hovertemplate: "call %{x}: %{y:.1%} of its MACs<extra></extra>" },
    { ...bar, x: ofUnits, y: names.map((_, unit) => unit), xaxis: "x2", orientation: "h", text: names, textposition: "none",
      hovertemplate: "%{text}: %{x:.1%} of the calls<extra></extra>" },
  ];
}

function layoutOf({ timesteps, values, what, ratio }, names, style) {
  const calls = timesteps.length;
  const margin = { range: [0, 1], visible: false, fixedrange: true };
  const captions = { removal_ratio: `dark goes first, bright last; ${Math.round(100 * (ratio ?? 0))} % of the MACs are gone`, score: "dark is low, bright high" };
  const caption = { text: captions[what], showarrow: false, font: { size: 11 }, xref: "paper", x: 0, xanchor: "left", yref: "paper", y: 1, yanchor: "bottom", yshift: 34 };
  return {
    ...structuredClone(style.layout),
    height: Math.min(90 + 15 * names.length, 640),
    bargap: 0.1,
    xaxis: { ...style.layout.xaxis, title: { text: "call (0 is pure noise)" }, range: [-0.5, calls - 0.5], dtick: tickStep(calls, style), domain: [0, 0.93] },
    yaxis: { ...style.layout.yaxis, range: [names.length - 0.5, -0.5], tickvals: names.map((_, unit) => unit), ticktext: names, domain: [0, 0.91] },
    yaxis2: { ...margin, domain: [0.925, 1], anchor: "x" },
    xaxis2: { ...margin, domain: [0.94, 1], anchor: "y" },
    annotations: values ? [caption] : [],
  };
}

export class Heatmap {
  /** `style` and `library` come from Python. `onEdit` gets a schedule that was edited by hand, null where it is `base` again;
   * `onUnit` the unit whose name was clicked. */
  constructor(element, { library, style }, onEdit, onUnit) {
    this.box = element.querySelector(".plot");
    this.element = element;
    this.style = JSON.parse(JSON.stringify(style)); // a proxy, as it comes
    this.loading = loadPlotly(library).then((plotly) => (this.plotly = plotly));
    this.undo = new UndoStack(element, (keep) => onEdit(same(keep, this.shown.base) ? null : keep));
    this.onUnit = onUnit;
    this.cursor = { call: 0, unit: 0 };
    this.box.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => this.box.clientWidth !== this.box._fullLayout?.width && this.draw()).observe(element);
    onThemeChange(() => this.draw());
  }

  /** Show a schedule: what `heatmapFigure` needs, and `base`, what it was before it was edited. */
  show(shown) {
    this.shown = shown;
    this.undo.follow(shown.keep);
    this.draw();
  }

  /** Draw at once if plotly is here, which matters while the slider moves. */
  draw() {
    if (!this.shown) return;
    if (this.plotly) this.drawNow();
    else this.loading.then(() => this.drawNow());
  }

  /** Draw everything at once, within the frame in which the slider moved. */
  drawNow() {
    const { data, layout } = heatmapFigure(this.shown, this.style);
    drawFigure(this.plotly, this.box, data, withTheme(layout, this.element, this.box));
    if (!this.bound) this.bind();
    this.box.querySelectorAll(".ytick text").forEach((label, unit) => (label.dataset.unit = this.shown.graph.units[unit].name));
    this.element.classList.add("drawn");
  }

  bind() {
    this.bound = true;
    this.box.addEventListener("click", ({ target }) => target.dataset?.unit && this.onUnit(target.dataset.unit));
    onDrag(this.box, (event) => this.cellAt(event), (cells) => this.preview(cells), () => this.endDrag());
    this.box.on("plotly_click", ({ points: [point] }) => {
      if (performance.now() - this.draggedAt < 100) return; // it was the end of a drag
      const which = { heatmap: { call: point.x, unit: point.y }, bar: {} }[point.data.type] ?? {};
      if (point.data.type === "bar") Object.assign(which, point.data.orientation === "h" ? { unit: point.y } : { call: point.x });
      this.toggle(which);
    });
  }

  /** Find the cell under the mouse, of those that can be switched; null elsewhere. */
  cellAt({ clientX, clientY, target }) {
    const { xaxis, yaxis } = this.box._fullLayout;
    const { left, top } = this.box.getBoundingClientRect();
    const [call, unit] = [Math.round(xaxis.p2d(clientX - left - xaxis._offset)), Math.round(yaxis.p2d(clientY - top - yaxis._offset))];
    const inside = call > 0 && call < this.shown.timesteps.length && unit >= 0 && unit < this.shown.graph.units.length;
    return inside && !this.shown.values && !target.dataset?.unit ? { call, unit } : null;
  }

  /** Show a drag: all its cells become the opposite of what the first one was. */
  preview(cells) {
    this.before ??= this.shown.keep;
    const width = this.shown.graph.units.length;
    const indices = cells.map(({ call, unit }) => call * width + unit);
    this.shown.keep = this.switched(this.before, indices, !this.before[indices[0]], true);
    this.draw();
  }

  endDrag() {
    const { before } = this;
    Object.assign(this, { before: null, draggedAt: performance.now() });
    if (before) this.undo.push(before, this.shown.keep);
  }

  /** Switch a cell, or with `call` or `unit` alone a whole column or row: off if most of it is on. The cascade follows. */
  toggle({ call, unit }) {
    const { graph, keep, timesteps, values } = this.shown;
    if (values || call === 0) return;
    const width = graph.units.length;
    const cells = [];
    for (let c = 1; c < timesteps.length; c++)
      for (let u = 0; u < width; u++) if ((call ?? c) === c && (unit ?? u) === u) cells.push(c * width + u);
    const on = cells.filter((index) => keep[index]).length * 2 > cells.length;
    this.undo.push(keep, this.switched(keep, cells, !on, unit !== undefined));
  }

  /** Return a schedule with these cells on or off, closed; `connect`: what is switched on gets a path to the output. */
  switched(keep, cells, on, connect) {
    const width = this.shown.graph.units.length;
    const changed = keep.slice();
    for (const index of cells) changed[index] = on ? 1 : 0;
    if (on && connect) new Set(cells.map((index) => index - (index % width))).forEach((row) => this.connect(changed, row));
    return close(this.shown.graph, changed);
  }

  /** Switch on a path to the output: a unit that was switched on is read by none unless later ones run. */
  connect(keep, row) {
    const { units } = this.shown.graph;
    const read = (column) => units.findIndex((unit, reader) => reader > column && unit.reads.includes(column) && keep[row + reader]);
    for (let column = 0; column < units.length - 1; column++) {
      if (!keep[row + column] || read(column) >= 0) continue;
      const reader = units.findIndex((unit, at) => at > column && unit.reads.includes(column));
      if (reader >= 0) keep[row + reader] = 1;
    }
  }

  /** Arrows move a cursor, space switches the cell, c its call, u its unit. */
  onKey(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const toggles = { " ": (at) => at, Enter: (at) => at, c: ({ call }) => ({ call }), u: ({ unit }) => ({ unit }) };
    if (!this.shown || !(event.key in moves || event.key in toggles)) return;
    event.preventDefault();
    if (event.key in toggles) this.toggle(toggles[event.key](this.cursor));
    else {
      const [right, down] = moves[event.key];
      const { graph, timesteps } = this.shown;
      this.cursor.call = Math.min(timesteps.length - 1, Math.max(0, this.cursor.call + right));
      this.cursor.unit = Math.min(graph.units.length - 1, Math.max(0, this.cursor.unit + down));
    }
    const { call, unit } = this.cursor;
    this.plotly.Fx.hover(this.box, [{ curveNumber: 0, pointNumber: [unit, call] }]);
    const text = this.box.data[0].text[unit][call].replace(/<br>/g, ", ").replace(/<[^>]*>/g, "");
    this.element.querySelector("[role=status]").textContent = text;
  }
}
