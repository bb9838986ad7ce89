// Schedules that were edited by hand, one after another: undo and redo with buttons or Ctrl+Z and Ctrl+Y.

export const same = (one, other) => Boolean(one && other) && one.length === other.length && one.every((bit, index) => bit === other[index]);

export class UndoStack {
  /** `element` has the buttons and receives the keys; `onChange` gets the schedule that is to be shown. */
  constructor(element, onChange) {
    Object.assign(this, { onChange, past: [], future: [], current: null });
    this.buttons = [...element.querySelectorAll("[data-edit]")];
    for (const button of this.buttons) button.addEventListener("click", () => this.step(button.dataset.edit));
    element.addEventListener("keydown", (event) => {
      const direction = { z: event.shiftKey ? "redo" : "undo", y: "redo" }[event.key.toLowerCase()];
      if (!direction || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.step(direction);
    });
  }

  /** Note what is shown; where it is not the last edit, there is nothing to undo. */
  follow(keep) {
    if (!same(keep, this.current)) Object.assign(this, { past: [], future: [], current: keep.slice() });
    this.enableButtons();
  }

  push(before, after) {
    if (same(before, after)) return;
    this.past.push(before.slice());
    this.future = [];
    this.show(after);
  }

  step(direction) {
    const [from, to] = direction === "undo" ? [this.past, this.future] : [this.future, this.past];
    if (!from.length) return;
    to.push(this.current);
    this.show(from.pop());
  }

  show(keep) {
    this.current = keep;
    this.enableButtons();
    this.onChange(keep);
  }

  enableButtons() {
    for (const button of this.buttons) button.disabled = !{ undo: this.past, redo: this.future }[button.dataset.edit].length;
  }
}

/** Collect the cells that the mouse is dragged across. `cellAt(event)` finds a cell; `onMove(cells)` shows them meanwhile,
 * `onEnd(cells)` takes them. A finger scrolls the page instead. */
export function onDrag(box, cellAt, onMove, onEnd) {
  let cells = null;
  box.addEventListener("pointerdown", (event) => {
    const from = event.pointerType !== "touch" && event.button === 0 && cellAt(event);
    cells = from ? [from] : null;
  });
  window.addEventListener("pointermove", (event) => {
    const to = cells && event.buttons & 1 && cellAt(event);
    const last = cells?.at(-1);
    if (!to || (to.call === last.call && to.unit === last.unit)) return;
    cells.push(...cellsBetween(last, to));
    onMove(cells);
  });
  window.addEventListener("pointerup", () => {
    if (cells?.length > 1) onEnd(cells);
    cells = null;
  });
}

/** List the cells from one to another, the last one included. */
function cellsBetween(from, to) {
  const steps = Math.max(Math.abs(to.call - from.call), Math.abs(to.unit - from.unit));
  const at = (name, step) => Math.round(from[name] + ((to[name] - from[name]) * step) / steps);
  return Array.from({ length: steps }, (_, step) => ({ call: at("call", step + 1), unit: at("unit", step + 1) }));
}
