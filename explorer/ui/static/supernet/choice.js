// What a visitor has chosen in the lesson: which block of the SuperNet is computed at which call, and what follows from it.

import { close, cost, statusOf } from "../schedule.js";
import { same } from "../undo.js";

const GRAPHS = { stage: "graph", layer: "layers" }; // where the lesson has them

export class Choice {
  /** `lesson` is assets/lesson/lesson.json; blocks are its stages, or the layers of which these consist. */
  constructor(lesson, granularity = "stage") {
    const graph = lesson[GRAPHS[granularity]];
    Object.assign(this, { lesson, granularity, graph, calls: lesson.steps, width: graph.units.length });
    this.stages = graph.units.map(({ name }) => lesson.graph.units.findIndex((stage) => name === stage.name || name.startsWith(`${stage.name}.`)));
    this.levels = lesson.levels.map((level) => this.rowOf(level));
    this.compute(this.everything());
  }

  /** Make the row of a call from a level of stages: layers that nothing reads then do not run. */
  rowOf(level) {
    const row = this.stages.map((stage) => level[stage]);
    return close(this.graph, Uint8Array.from([...row.map(() => 1), ...row])).slice(this.width);
  }

  /** Find the granularity of decisions in an address by their length; null for neither. */
  static granularityOf(text, lesson) {
    const length = (units) => Math.ceil((4 * Math.ceil((lesson.steps * units.length) / 8)) / 3);
    return Object.keys(GRAPHS).find((name) => length(lesson[GRAPHS[name]].units) === text.length) ?? null;
  }

  /** Make the same choice of stages or of layers: a stage is computed where one of its layers is. */
  at(granularity) {
    const other = new Choice(this.lesson, granularity);
    const keep = new Uint8Array(other.keep.length);
    for (let call = 0; call < this.calls; call++)
      other.stages.forEach((stage, unit) => {
        keep[call * other.width + unit] = this.stages.some((own, index) => own === stage && this.keep[call * this.width + index]) ? 1 : 0;
      });
    other.compute(keep);
    return other;
  }

  everything() {
    return new Uint8Array(this.calls * this.width).fill(1);
  }

  /** Take decisions, closed under the cascade. */
  compute(keep) {
    this.keep = close(this.graph, keep);
    Object.assign(this, statusOf(this.graph, this.keep));
    this.cost = cost(this.graph, this.keep);
  }

  get isFull() {
    return this.keep.every(Boolean);
  }

  get kept() {
    return this.cost.kept;
  }

  /** Switch a block of a call, and back by a second click; `numWith` others are switched with it. Returns those that stopped, the last to run first. */
  toggle(call, unit) {
    if (call === 0) return [];
    const before = this.keep.slice();
    const changed = this.keep.slice();
    const at = call * this.width + unit;
    const [first, last] = [call * this.width, (call + 1) * this.width];
    const undo = this.switched?.at === at && same(this.switched.after, before);
    changed[at] = 1 - changed[at];
    if (undo) changed.set(this.switched.before.subarray(first, last), first);
    else if (changed[at]) this.connect(changed, call, unit);
    this.compute(changed);
    this.switched = { at, before, after: this.keep };
    this.numWith = before.reduce((sum, bit, index) => sum + (index !== at && bit !== this.keep[index] ? 1 : 0), 0);
    return Array.from(before.keys()).filter((index) => index !== at && before[index] && !this.keep[index]).reverse();
  }

  /** Compute a way from a block to the output too: without one nothing would read it. */
  connect(keep, call, unit) {
    const row = call * this.width;
    const readers = (column) => this.graph.units.map((one, reader) => (one.reads.includes(column) ? reader : -1)).filter((reader) => reader >= 0);
    for (let column = unit; column < this.width - 1; ) {
      const all = readers(column);
      const reader = all.find((one) => keep[row + one]) ?? all.at(-1); // the shortest way out
      keep[row + reader] = 1;
      column = reader;
    }
  }

  /** Switch a whole call: off where anything of it is computed. */
  toggleCall(call) {
    const changed = this.keep.slice();
    const row = call * this.width;
    changed.fill(changed[row + this.width - 1] ? 0 : 1, row, row + this.width);
    this.compute(changed);
  }

  /** Return the share of the arithmetic that other decisions would leave. */
  costOf(keep) {
    return cost(this.graph, keep).kept;
  }

  /** List the level of each call after the first: how deep it is computed; -1 where no prepared picture has that. */
  get depths() {
    return Array.from({ length: this.calls - 1 }, (_, index) => {
      const row = this.keep.subarray((index + 1) * this.width, (index + 2) * this.width);
      return this.levels.findIndex((level) => level.every((bit, unit) => bit === row[unit]));
    });
  }

  /** Find the tile of what the picture would be after a call; -1 where it is not among the prepared ones. */
  tile(call) {
    const prefix = this.depths.slice(0, call);
    if (prefix.includes(-1)) return -1;
    const base = this.levels.length;
    const shorter = (base ** call - 1) / (base - 1); // how many tiles shorter prefixes have
    return shorter + prefix.reduce((number, level) => number * base + level, 0);
  }

  /** Find the place of this choice among all prepared ones; -1 where it is not. */
  get number() {
    const last = this.tile(this.calls - 1);
    return last < 0 ? -1 : last - (this.levels.length ** (this.calls - 1) - 1) / (this.levels.length - 1);
  }
}
