// The heatmap: units by calls, MACs at the margins. It is drawn from a figure that Python made; here only its numbers change.

import { Edits, drags, same } from "./edits.js";
import { close, cost, fates, versus } from "./schedule.js";

/** plotly.js, loaded once for the whole page (plotly_view.js asks for it as well), after the first paint. */
export function plotly(source) {
  return (window.explorerPlotly ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = source;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("plotly.js did not load"));
    requestAnimationFrame(() => setTimeout(() => document.head.append(script), 0));
  }));
}

export class KeepMap {
  /** `edited` gets a schedule that was switched by hand, null where it is `base` again; `named` the unit whose name was
   * clicked. */
  constructor(element, source, edited, named) {
    this.box = element.querySelector(".plot");
    this.element = element;
    this.loading = plotly(source).then((library) => (this.library = library));
    this.edits = new Edits(element, (keep) => edited(same(keep, this.whole.base) ? null : keep));
    this.named = named;
    this.cursor = { call: 0, unit: 0 };
    this.box.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => this.box.clientWidth !== this.box._fullLayout?.width && this.draw()).observe(element);
    new MutationObserver(() => this.draw()).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  }

  /** Show what `keep` decides; the whole is { graph, keep, base, against, timesteps, figure, values, what, ratio }: `base`
   * is what it was before it was switched by hand, `against` another schedule that it is held against. */
  show(whole) {
    this.whole = whole;
    this.edits.follow(whole.keep);
    this.draw();
  }

  /** At once if the library is here, which matters while the slider moves. */
  draw() {
    if (!this.whole) return;
    if (this.library) this.fill();
    else this.loading.then(() => this.fill());
  }

  /** All in one go, within the frame that the slider moved in. */
  fill() {
    const { graph, keep, against, timesteps, figure } = this.whole;
    const made = (this.made ??= new Map());
    if (!made.has(figure)) made.set(figure, structuredClone(figure)); // plotly writes into what it is given
    const { data, layout } = made.get(figure);
    const width = graph.units.length;
    const { fate, source, counts } = against ? versus(keep, against) : fates(graph, keep);
    const spent = cost(graph, keep);
    const rows = (of) => graph.units.map((_, unit) => timesteps.map((_, call) => of(call * width + unit, call, unit)));
    const { cell, told } = figure.layout.meta;
    const fill = (words, facts) => words.replace(/{(\w+)}/g, (_, key) => facts[key]);
    const ofCall = (macs) => `${((100 * macs) / spent.perCall).toFixed(1)}%`;
    data[0].text = rows((index, call, unit) =>
      fill(cell, {
        unit: graph.units[unit].name,
        call,
        timestep: Number(timesteps[call].toPrecision(6)),
        share: ofCall(graph.units[unit].macs),
        told: fill(told[fate[index]], { source: source?.[index] }),
      }),
    );
    data[0].z = this.whole.values ? rows((index) => this.whole.values[index]) : rows((index) => fate[index]);
    this.colour(data, layout, counts);
    const [calls, units] = data.slice(-2);
    calls.x = timesteps.map((_, call) => call);
    calls.y = Array.from(spent.calls, (macs) => macs / spent.perCall);
    units.y = graph.units.map((_, unit) => unit);
    units.x = Array.from(spent.units, (macs, unit) => macs / (graph.units[unit].macs * timesteps.length || 1));
    this.library.react(this.box, data, this.dressed(layout), { displayModeBar: false });
    if (!this.bound) this.bind();
    this.box.querySelectorAll(".ytick text").forEach((label, unit) => (label.dataset.unit = graph.units[unit].name));
    this.element.classList.add("drawn");
  }

  /** Decisions in four flat colours with a legend; an order or scores on a scale. */
  colour(data, layout, counts) {
    const { values, what, ratio } = this.whole;
    const [{ colorscale, zmin, zmax }] = this.whole.figure.data;
    const finite = values && Array.from(values).filter((value) => value < Infinity);
    Object.assign(
      data[0],
      values
        ? { colorscale: "Cividis", zmin: what === "order" ? 0 : Math.min(...finite), zmax: what === "order" ? 1 : Math.max(...finite) }
        : { colorscale, zmin, zmax },
    );
    counts.forEach((count, index) => {
      data[1 + index].name = `${layout.meta.fates[index]} ${count.toLocaleString("en")}`;
      data[1 + index].visible = !values;
    });
    const words = { order: `dark goes first, bright last; ${Math.round(100 * (ratio ?? 0))} % of the MACs are gone`, score: "dark is low, bright high" };
    layout.annotations = values
      ? [{ text: words[what], showarrow: false, font: { size: 11 }, xref: "paper", x: 0, xanchor: "left", yref: "paper", y: 1, yanchor: "bottom", yshift: 34 }]
      : [];
  }

  dressed(layout) {
    const style = getComputedStyle(this.element);
    const text = style.getPropertyValue("--body-text-color").trim();
    const surface = style.getPropertyValue("--background-fill-primary").trim();
    layout.width = this.box.clientWidth; // plotly's own `responsive` would forget the height that the figure asks for
    layout.font = { ...layout.font, color: text, family: style.fontFamily };
    layout.hoverlabel = { ...layout.hoverlabel, bgcolor: surface, bordercolor: text, font: { color: text } };
    const narrow = this.element.clientWidth < 480;
    layout.yaxis.tickfont = { size: narrow ? 8 : 10 };
    return layout;
  }

  bind() {
    this.bound = true;
    this.box.addEventListener("click", ({ target }) => target.dataset?.unit && this.named(target.dataset.unit));
    drags(this.box, (event) => this.cell(event), (cells) => this.paint(cells), () => this.take());
    this.box.on("plotly_click", ({ points: [point] }) => {
      if (performance.now() - this.taken < 100) return; // it was the end of a drag
      const which = { heatmap: { call: point.x, unit: point.y }, bar: {} }[point.data.type] ?? {};
      if (point.data.type === "bar") Object.assign(which, point.data.orientation === "h" ? { unit: point.y } : { call: point.x });
      this.toggle(which);
    });
  }

  /** The cell under the mouse, of those that can be switched; null beside them. */
  cell({ clientX, clientY, target }) {
    const { xaxis, yaxis } = this.box._fullLayout;
    const { left, top } = this.box.getBoundingClientRect();
    const [call, unit] = [Math.round(xaxis.p2d(clientX - left - xaxis._offset)), Math.round(yaxis.p2d(clientY - top - yaxis._offset))];
    const inside = call > 0 && call < this.whole.timesteps.length && unit >= 0 && unit < this.whole.graph.units.length;
    return inside && !this.whole.values && !target.dataset?.unit ? { call, unit } : null;
  }

  /** Cells under a drag become what the first one was not. */
  paint(cells) {
    this.before ??= this.whole.keep;
    const width = this.whole.graph.units.length;
    const indices = cells.map(({ call, unit }) => call * width + unit);
    this.whole.keep = this.switched(this.before, indices, !this.before[indices[0]], true);
    this.draw();
  }

  take() {
    const { before } = this;
    Object.assign(this, { before: null, taken: performance.now() });
    if (before) this.edits.make(before, this.whole.keep);
  }

  /** Flip a cell, or with `call` or `unit` alone a whole column or row: off if most of it is on. The cascade follows. */
  toggle({ call, unit }) {
    const { graph, keep, timesteps, values } = this.whole;
    if (values || call === 0) return;
    const width = graph.units.length;
    const cells = [];
    for (let c = 1; c < timesteps.length; c++)
      for (let u = 0; u < width; u++) if ((call ?? c) === c && (unit ?? u) === u) cells.push(c * width + u);
    const on = cells.filter((index) => keep[index]).length * 2 > cells.length;
    this.edits.make(keep, this.switched(keep, cells, !on, unit !== undefined));
  }

  /** A schedule with these cells on or off, closed; `feed`: what is switched on gets a way to the output. */
  switched(keep, cells, on, feed) {
    const width = this.whole.graph.units.length;
    const changed = keep.slice();
    for (const index of cells) changed[index] = on ? 1 : 0;
    if (on && feed) new Set(cells.map((index) => index - (index % width))).forEach((row) => this.feed(changed, row));
    return close(this.whole.graph, changed);
  }

  /** A unit that was switched on is read by nobody unless those after it run: switch on a way to the output. */
  feed(keep, row) {
    const { units } = this.whole.graph;
    const read = (column) => units.findIndex((unit, reader) => reader > column && unit.reads.includes(column) && keep[row + reader]);
    for (let column = 0; column < units.length - 1; column++) {
      if (!keep[row + column] || read(column) >= 0) continue;
      const reader = units.findIndex((unit, at) => at > column && unit.reads.includes(column));
      if (reader >= 0) keep[row + reader] = 1;
    }
  }

  /** Arrows move a cursor, space flips the cell, c its call, u its unit. */
  onKey(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const flips = { " ": (at) => at, Enter: (at) => at, c: ({ call }) => ({ call }), u: ({ unit }) => ({ unit }) };
    if (!this.whole || !(event.key in moves || event.key in flips)) return;
    event.preventDefault();
    if (event.key in flips) this.toggle(flips[event.key](this.cursor));
    else {
      const [right, down] = moves[event.key];
      const { graph, timesteps } = this.whole;
      this.cursor.call = Math.min(timesteps.length - 1, Math.max(0, this.cursor.call + right));
      this.cursor.unit = Math.min(graph.units.length - 1, Math.max(0, this.cursor.unit + down));
    }
    const { call, unit } = this.cursor;
    this.library.Fx.hover(this.box, [{ curveNumber: 0, pointNumber: [unit, call] }]);
    const said = this.box.data[0].text[unit][call].replace(/<br>/g, ", ").replace(/<[^>]*>/g, "");
    this.element.querySelector("[role=status]").textContent = said;
  }
}
