// Schedules that were switched by hand, one after another: back and forth with buttons or Ctrl+Z and Ctrl+Y.

export const same = (one, other) => Boolean(one && other) && one.length === other.length && one.every((bit, index) => bit === other[index]);

export class Edits {
  /** `element` has the buttons, and keys are heard in it; `edited` gets the schedule that is to be shown. */
  constructor(element, edited) {
    Object.assign(this, { edited, past: [], future: [], now: null });
    this.buttons = [...element.querySelectorAll("[data-edit]")];
    for (const button of this.buttons) button.addEventListener("click", () => this.go(button.dataset.edit));
    element.addEventListener("keydown", (event) => {
      const way = { z: event.shiftKey ? "redo" : "undo", y: "redo" }[event.key.toLowerCase()];
      if (!way || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.go(way);
    });
  }

  /** What is shown now; where it is not what was last made here, there is nothing to go back to. */
  follow(keep) {
    if (!same(keep, this.now)) Object.assign(this, { past: [], future: [], now: keep.slice() });
    this.mark();
  }

  make(before, after) {
    if (same(before, after)) return;
    this.past.push(before.slice());
    this.future = [];
    this.hand(after);
  }

  go(way) {
    const [from, to] = way === "undo" ? [this.past, this.future] : [this.future, this.past];
    if (!from.length) return;
    to.push(this.now);
    this.hand(from.pop());
  }

  hand(keep) {
    this.now = keep;
    this.mark();
    this.edited(keep);
  }

  mark() {
    for (const button of this.buttons) button.disabled = !{ undo: this.past, redo: this.future }[button.dataset.edit].length;
  }
}

/** Cells that the mouse is drawn across, from where it was pressed. `at(event)` says which cell; `paint(cells)` shows them
 * meanwhile, `done(cells)` takes them. A finger scrolls the page instead. */
export function drags(box, at, paint, done) {
  let cells = null;
  box.addEventListener("pointerdown", (event) => {
    const from = event.pointerType !== "touch" && event.button === 0 && at(event);
    cells = from ? [from] : null;
  });
  window.addEventListener("pointermove", (event) => {
    const to = cells && event.buttons & 1 && at(event);
    const last = cells?.at(-1);
    if (!to || (to.call === last.call && to.unit === last.unit)) return;
    cells.push(...between(last, to));
    paint(cells);
  });
  window.addEventListener("pointerup", () => {
    if (cells?.length > 1) done(cells);
    cells = null;
  });
}

/** The cells on the way, the last one included. */
function between(from, to) {
  const steps = Math.max(Math.abs(to.call - from.call), Math.abs(to.unit - from.unit));
  const way = (name, step) => Math.round(from[name] + ((to[name] - from[name]) * step) / steps);
  return Array.from({ length: steps }, (_, step) => ({ call: way("call", step + 1), unit: way("unit", step + 1) }));
}
