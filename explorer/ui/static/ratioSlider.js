// The slider of the pruning ratio: it rests where pictures were drawn beforehand, ends where the method ends, and its number
// box takes nothing else.

import { galleryHit } from "./galleryLookup.js";
import { state, table } from "./state.js";

const range = () => document.querySelector("#ratio input[type=range]");

/** List the ratios at which the chosen method has pictures; null where the gallery does not answer. */
function stopsHere() {
  const hit = galleryHit();
  if (!hit) return null;
  const { results } = table.methods[hit.method];
  return [0, ...table.ratios.filter((_, index) => results[index])];
}

/** Find the largest ratio of the chosen method as far as the gallery tells, else the slider's own end. */
export const ratioEnd = () => Math.max(...(stopsHere() ?? [Number(range()?.max ?? 1)]));

const nearest = (stops, value) => stops.reduce((best, stop) => (Math.abs(stop - value) < Math.abs(best - value) ? stop : best));

function setRatio(input, value) {
  input.value = value;
  input.dispatchEvent(new Event("input", { bubbles: true }));
}

/** Let the slider's thumb rest at stops only, before Gradio reads where it is. */
function onDrag({ target }) {
  const stops = target.matches("#ratio input[type=range]") && stopsHere();
  if (stops) target.value = nearest(stops, Number(target.value));
}

/** Go to the next stop by an arrow key. */
function onKey(event) {
  const direction = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
  const stops = direction && event.target.matches("#ratio input[type=range]") && stopsHere();
  if (!stops) return;
  event.preventDefault();
  const next = stops.indexOf(nearest(stops, Number(event.target.value))) + direction;
  if (stops[next] !== undefined) setRatio(event.target, stops[next]);
}

/** Bring a number that was typed into what the slider can be; an empty box gets back what was there. */
function onTyped({ target }) {
  if (!target.matches("#ratio input[type=number]")) return;
  const typed = target.value === "" ? Number(state.request.ratio) : Number(target.value);
  const fitting = Math.min(Number(range().max), Math.max(0, typed));
  if (String(fitting) !== target.value) setRatio(target, fitting);
}

export function listenToRatio() {
  document.addEventListener("input", onDrag, { capture: true });
  document.addEventListener("keydown", onKey, { capture: true });
  document.addEventListener("change", onTyped);
  document.addEventListener("focusout", onTyped);
}
