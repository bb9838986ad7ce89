// The map of a schedule that a visitor can read and edit: which unit runs at which call. mapModel.js says what it shows,
// mapDrawing.js draws it; here are pointer, keys, legend and table.

import { SCALE_CSS, drawMap, hitTest, makeLooks, placesOf } from "./mapDrawing.js";
import { callsWith, mapOf } from "./mapModel.js";
import { close } from "./schedule.js";
import { escaped, percent } from "./text.js";
import { onThemeChange } from "./theme.js";
import { UndoStack, onDrag, same } from "./undo.js";

const PARTS =
  "<div class='legend'></div><div class='cells'><canvas></canvas><i class='cross column'></i><i class='cross row'></i><p class='cell-tip' hidden></p></div>";
const FEATURES = "opens Features of this unit";

export class Heatmap {
  /** `style` comes from Python (views/heatmap.py). `onEdit` gets a schedule that was edited by hand, null where it is `base`
   * again; `onUnit` the unit whose layer in the sketch was clicked. */
  constructor(element, { style }, onEdit, onUnit) {
    this.element = element;
    this.box = element.querySelector(".plot");
    this.box.innerHTML = PARTS;
    [this.canvas, this.tip, this.column, this.row] = ["canvas", ".cell-tip", ".column", ".row"].map((part) => this.box.querySelector(part));
    this.table = element.querySelector(".as-table");
    this.style = JSON.parse(JSON.stringify(style)); // a proxy, as it comes
    this.undo = new UndoStack(element, (keep) => onEdit(same(keep, this.shown.base) ? null : keep));
    this.onUnit = onUnit;
    this.cursor = { call: 0, unit: 0 };
    this.listen();
  }

  listen() {
    new ResizeObserver(() => this.places?.width !== this.box.clientWidth && this.draw()).observe(this.box);
    onThemeChange(() => this.draw());
    document.fonts?.ready.then(() => this.draw());
    this.box.addEventListener("keydown", (event) => this.onKey(event));
    this.canvas.addEventListener("pointermove", (event) => this.point(this.placeAt(event)));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    this.canvas.addEventListener("click", (event) => this.onClick(this.placeAt(event)));
    this.table.addEventListener("toggle", () => this.fillTable());
    onDrag(this.canvas, (event) => this.cellAt(event), (cells) => this.preview(cells), () => this.endDrag());
  }

  /** Show a schedule: what `mapOf` needs, and `base`, what it was before it was edited. */
  show(shown) {
    this.shown = shown;
    this.undo.follow(shown.keep);
    this.draw();
  }

  /** Draw at once, within the frame in which the slider moved. */
  draw() {
    if (!this.shown || !this.box.clientWidth) return;
    this.map = mapOf(this.shown, this.style);
    this.places = placesOf(this.map, this.box.clientWidth);
    this.canvas.style.height = `${this.places.height}px`;
    this.inks = this.readInks();
    drawMap(this.canvas, this.map, this.places, this.inks);
    this.fillLegend();
    this.fillTable();
    Object.assign(this.box, { map: this.map, places: this.places }); // what is drawn, which a canvas does not tell
    this.element.classList.add("drawn");
  }

  readInks() {
    const page = getComputedStyle(this.box);
    const ink = (name) => page.getPropertyValue(name).trim();
    const { only, other } = this.style.colours;
    return { font: page.fontFamily, method: ink("--method") || "#0072b2", quiet: "#7d8590", only, other, text: ink("--body-text-color"), subdued: ink("--body-text-color-subdued") };
  }

  /** Say what the cells mean: their looks and numbers, or a colour scale. */
  fillLegend() {
    const { legend, scale } = this.map;
    const box = this.box.querySelector(".legend");
    if (scale) {
      const mark = scale.mark === undefined ? "" : `<b style="left:${100 * scale.mark}%"></b>`;
      box.innerHTML = `<span>${scale.ends[0]}</span><span class="scale" style="background:${SCALE_CSS}">${mark}</span><span>${scale.ends[1]}</span><span>${scale.note}</span>`;
      return;
    }
    box.innerHTML = legend.map(({ name, count }) => `<span data-count="${count}"><canvas width="22" height="22"></canvas>${name} <b>${count.toLocaleString("en")}</b></span>`).join("");
    box.querySelectorAll("canvas").forEach((swatch, index) => {
      const pen = swatch.getContext("2d");
      pen.scale(2, 2);
      makeLooks(pen, this.inks)[legend[index].look](0, 0, 11, 11);
    });
  }

  /** Write the map as a table, where that is open. */
  fillTable() {
    if (!this.table.open || !this.map) return;
    const kinds = this.map.legend.map(({ name }) => name);
    const cells = (unit) => kinds.map((_, status) => `<td>${callsWith(this.map, unit, status) || "–"}</td>`).join("");
    const rows = this.map.units.map(({ name }, unit) => `<tr><th scope="row">${escaped(name)}</th>${cells(unit)}</tr>`);
    const head = ["unit", ...kinds.map((kind) => `${kind} at calls`)].map((text) => `<th scope="col">${text}</th>`);
    this.table.querySelector("table").innerHTML = `<thead><tr>${head.join("")}</tr></thead><tbody>${rows.join("")}</tbody>`;
  }

  placeAt({ clientX, clientY }) {
    const { left, top } = this.canvas.getBoundingClientRect();
    return this.places && hitTest(this.places, clientX - left, clientY - top);
  }

  /** Show a crosshair and what is known of the place under the pointer or the cursor; null hides both. */
  point(place) {
    const { call, unit } = place ?? {};
    const { left, cell, tops, rowHeight, right, bottom } = this.places ?? {};
    this.column.hidden = call === undefined;
    this.row.hidden = unit === undefined;
    if (call !== undefined) Object.assign(this.column.style, { left: `${left + call * cell}px`, width: `${cell}px`, top: "0", height: `${bottom}px` });
    if (unit !== undefined) Object.assign(this.row.style, { top: `${tops[unit]}px`, height: `${rowHeight}px`, left: "0", width: `${right}px` });
    this.canvas.style.cursor = place ? "pointer" : "";
    this.tip.hidden = !place;
    if (!place) return;
    this.tip.textContent = this.wordsFor(place);
    const [x, y] = [call === undefined ? left : left + (call + 1) * cell, unit === undefined ? tops[0] : tops[unit] + rowHeight];
    this.tip.style.top = `${y + 8}px`;
    const isRight = x > this.places.width / 2;
    Object.assign(this.tip.style, isRight ? { left: "auto", right: `${this.places.width - x + cell + 8}px` } : { left: `${x + 8}px`, right: "auto" });
  }

  wordsFor({ call, unit, isName }) {
    if (call === undefined) return `${this.map.units[unit].name}: computed in ${percent(this.map.unitShares[unit], 1)} of the calls${isName ? `\na click ${FEATURES}` : ""}`;
    if (unit === undefined) return `call ${call}: ${percent(this.map.callShares[call], 1)} of its arithmetic is done`;
    return this.map.describe(call, unit);
  }

  onClick(place) {
    if (!place || performance.now() - (this.draggedAt ?? -1000) < 100) return; // it was the end of a drag
    if (place.isName) this.onUnit(this.map.units[place.unit].name);
    else this.toggle(place);
  }

  /** Find the cell under the mouse, of those that can be switched; null elsewhere. */
  cellAt(event) {
    const place = this.placeAt(event);
    return place?.call > 0 && place.unit !== undefined && !this.shown.values ? place : null;
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

  /** Arrows move a cursor, space switches the cell, c its call, u its unit; f opens the unit's features. */
  onKey(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const toggles = { " ": (at) => at, Enter: (at) => at, c: ({ call }) => ({ call }), u: ({ unit }) => ({ unit }) };
    if (!this.map || event.target !== this.box || event.ctrlKey || event.metaKey) return;
    if (!(event.key in moves || event.key in toggles || event.key === "f")) return;
    event.preventDefault();
    if (event.key === "f") return this.onUnit(this.map.units[this.cursor.unit].name);
    if (event.key in toggles) this.toggle(toggles[event.key](this.cursor));
    else this.moveCursor(...moves[event.key]);
    this.point(this.cursor);
    this.element.querySelector("[role=status]").textContent = this.tip.textContent.replaceAll("\n", ", ");
  }

  moveCursor(right, down) {
    const { timesteps, units } = this.map;
    const within = (value, size) => Math.min(size - 1, Math.max(0, value));
    this.cursor = { call: within(this.cursor.call + right, timesteps.length), unit: within(this.cursor.unit + down, units.length) };
  }
}
