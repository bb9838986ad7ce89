// The drawing of the lesson: calls beside each other, each a small U of blocks. It morphs between three states by classes alone:
// the chain of calls, the SuperNet, and the SubNet of the current choice.

import { STATUS } from "../schedule.js";
import { percent } from "../text.js";
import { PICTURE, layOut } from "./layout.js";
import { showTile } from "./sheets.js";
import { swing } from "./swing.js";
import { say } from "./texts.js";

const LOOKS = ["computed", "reused", "dead", "dead"]; // by STATUS
const CASCADE_MS = 80; // from one block that stops to the next
const arrow = `<marker id="lesson-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerUnits="userSpaceOnUse" markerWidth="11" markerHeight="11" orient="auto"><path d="M0 0L8 4L0 8z"/></marker>`;

/** Name a block as the lesson does. */
export const blockName = ({ kind, number, layer }) => `${kind === "mid" ? say("mid") : say(kind, { number })}${layer ? `.${layer}` : ""}`;

export class Drawing {
  /** `onToggle(call, unit)`: a block was clicked, or a whole call where `unit` is null; `onPoint(call, unit)`: it is pointed at. */
  constructor(box, choice, { onToggle, onPoint }) {
    Object.assign(this, { box, choice, onToggle, onPoint, layout: layOut(choice), cursor: { call: 1, unit: choice.width - 1 } });
    box.innerHTML = this.markup();
    this.svg = box.querySelector("svg");
    this.blocks = [...box.querySelectorAll(".block")];
    this.packet = box.querySelector(".packet");
    this.svg.addEventListener("click", ({ target }) => this.onClick(target));
    this.svg.addEventListener("pointerover", ({ target }) => this.pointAt(target.closest(".block")));
    this.svg.addEventListener("focusin", ({ target }) => this.pointAt(target.closest(".block")));
    this.svg.addEventListener("keydown", (event) => this.onKey(event));
  }

  markup() {
    const { width, height, blocks, wires, backups, flows, columns } = this.layout;
    const path = (name, { call, unit = "", from = "", to = "", path: d }) => `<path class="${name}" data-call="${call}" data-unit="${unit}" data-from="${from}" data-to="${to}" d="${d}"/>`;
    const head = ({ call, x, center }) => `<g class="head" data-call="${call}"><svg class="tile" x="${center - PICTURE.size / 2}" y="${PICTURE.top}" width="${PICTURE.size}" height="${PICTURE.size}"><image/></svg>
      <rect class="picture-frame" x="${center - PICTURE.size / 2}" y="${PICTURE.top}" width="${PICTURE.size}" height="${PICTURE.size}" rx="8"/><text x="${center}" y="116">${say("call", { call })}</text>
      <rect class="column" x="${x + 4}" y="124" width="186" height="${height - 126}" rx="12"/></g>`;
    const block = ({ call, unit, kind, number, layer, x, y, width, height }) => `<g class="block ${kind}" data-call="${call}" data-unit="${unit}" role="button" tabindex="-1" transform="translate(${x} ${y})">
      <rect width="${width}" height="${height}" rx="7"/><path class="share" d="M5 ${height - 3.5}h${(width - 10) * this.shareOf(unit)}"/><text x="${width / 2}" y="${height / 2}">${blockName({ kind, number, layer })}</text></g>`;
    return `<svg class="of-${this.choice.granularity}s" viewBox="0 0 ${width} ${height}" role="group" aria-roledescription="drawing"><defs>${arrow}<pattern id="lesson-hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><path d="M0 0V6" /></pattern></defs>
      ${columns.map(head).join("")}${flows.map((one) => path("flow", one)).join("")}${wires.map((one) => path("wire", one)).join("")}
      ${backups.map((one) => path("backup", one)).join("")}${blocks.map(block).join("")}<circle class="packet" r="6" visibility="hidden"/></svg>`;
  }

  /** Return how large a block's part of the arithmetic is, compared with the largest one's. */
  shareOf(unit) {
    const { units } = this.choice.graph;
    return (units[unit].macs / Math.max(...units.map(({ macs }) => macs))).toFixed(3);
  }

  /** Draw the current choice. `stopped`: the blocks that a click took with it, which fade one after another. */
  update(stopped = []) {
    const { status, width } = this.choice;
    this.blocks.forEach((block, index) => {
      block.classList.remove(...LOOKS);
      block.classList.add(LOOKS[status[index]]);
      block.style.transitionDelay = `${CASCADE_MS * (1 + stopped.indexOf(index))}ms`;
      block.setAttribute("aria-pressed", status[index] === STATUS.computed);
      block.setAttribute("aria-label", this.describe(index));
      if (index < width) block.setAttribute("aria-disabled", "true");
    });
    for (const one of this.svg.querySelectorAll(".backup")) one.classList.toggle("used", this.isUsed(one.dataset));
    for (const one of this.svg.querySelectorAll(".wire")) one.classList.toggle("cut", this.statusAt(one.dataset.call, one.dataset.to) !== STATUS.computed);
    this.swingWires();
    for (const one of this.svg.querySelectorAll(".column")) one.classList.toggle("skipped", this.statusAt(one.parentNode.dataset.call, width - 1) !== STATUS.computed);
    this.moveCursor(this.cursor);
  }

  /** Mark the wires that carry something older, and swing those that did not before, or do no longer. */
  swingWires() {
    const changed = [...this.svg.querySelectorAll(".wire")].filter((one) => {
      const isOld = this.statusAt(one.dataset.call, one.dataset.from) === STATUS.reused;
      return isOld !== one.classList.contains("old") && (one.classList.toggle("old", isOld), true);
    });
    const middle = ({ x, y, width, height }) => [x + width - 6, y + height / 2];
    const earlier = ({ call, from }) => middle(this.layout.blocks[(call - 1) * this.choice.width + Number(from)]);
    swing(this.svg, changed.map((wire) => ({ wire, earlier: earlier(wire.dataset), isBack: !wire.classList.contains("old") })));
  }

  statusAt(call, unit) {
    return this.choice.status[Number(call) * this.choice.width + Number(unit)];
  }

  /** Whether something is carried along a backup wire: its block is read, or a later call still reads it through it. */
  isUsed({ call, unit }) {
    for (let at = Number(call); at < this.choice.calls; at++) {
      const status = this.statusAt(at, unit);
      if (status === STATUS.computed) return false;
      if (status === STATUS.reused || (status === STATUS.skipped && Number(unit) === this.choice.width - 1)) return true;
    }
    return false;
  }

  describe(index) {
    const { width, graph, cost } = this.choice;
    const share = percent(graph.units[index % width].macs / cost.perCall, 1);
    return say("block", { ...this.placeOf(index), status: this.statusWords(index), share });
  }

  placeOf(index) {
    return { block: blockName(this.layout.blocks[index]), call: say("call", { call: Math.floor(index / this.choice.width) }) };
  }

  statusWords(index) {
    const { status, sourceCall } = this.choice;
    return [say("computed"), say("reused", { source: sourceCall[index] }), say("dead"), say("skipped")][status[index]];
  }

  /** Show pictures above the calls: a tile of `sheets.js` by call, null for none. */
  showPictures(tiles) {
    this.svg.querySelectorAll(".tile").forEach((tile, call) => showTile(tile, tiles[call]));
  }

  /** Tint blocks by a number from 0 to 1 each, or by none. */
  tint(values) {
    this.svg.classList.toggle("tinted", Boolean(values));
    this.blocks.forEach((block, index) => block.style.setProperty("--tint", values ? `${Math.round(100 * values(index))}%` : ""));
  }

  /** Take over whether second wires are seen, and whether clicks switch blocks. */
  setState({ wires, clickable }) {
    this.svg.classList.toggle("with-backups", wires);
    this.svg.classList.toggle("clickable", clickable);
    this.clickable = clickable;
  }

  onClick(target) {
    const block = target.closest(".block");
    const head = target.closest(".head");
    if (!this.clickable || !(block || head)) return;
    if (block) this.moveCursor({ call: Number(block.dataset.call), unit: Number(block.dataset.unit) });
    this.onToggle(Number((block ?? head).dataset.call), block ? Number(block.dataset.unit) : null);
  }

  /** Say what is known of a block, and bring its own second wire out. */
  pointAt(block) {
    if (!block) return;
    const { call, unit } = block.dataset;
    this.pointed = block;
    for (const one of this.svg.querySelectorAll(".backup")) one.classList.toggle("own", one.dataset.call === call && one.dataset.unit === unit);
    this.onPoint(Number(call), Number(unit), block.getAttribute("aria-label"));
  }

  /** Arrows move between blocks; Enter and space switch one, c its whole call. */
  onKey(event) {
    const steps = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };
    const { call, unit } = this.cursor;
    if (!event.target.closest(".block") || event.ctrlKey || event.metaKey) return;
    if (event.key in steps) this.moveCursor({ call: call + steps[event.key][0], unit: unit + steps[event.key][1] }, true);
    else if (["Enter", " "].includes(event.key)) this.clickable && this.onToggle(call, unit);
    else if (event.key === "c") this.clickable && this.onToggle(call, null);
    else return;
    event.preventDefault();
    event.stopPropagation(); // a lesson that is presented walks on by the same keys
  }

  moveCursor({ call, unit }, withFocus = false) {
    const within = (value, size) => Math.min(size - 1, Math.max(0, value));
    this.cursor = { call: within(call, this.choice.calls), unit: within(unit, this.choice.width) };
    const at = this.cursor.call * this.choice.width + this.cursor.unit;
    this.blocks.forEach((block, index) => (block.tabIndex = index === at ? 0 : -1));
    if (withFocus) this.blocks[at].focus();
  }
}
