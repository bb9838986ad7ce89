// Looking closer at the pictures: zoom and wipe follow the pointer.

import { paintOverlay } from "./render.js";
import { parts, state } from "./state.js";

/** Magnify the pictures 2 or 4 times, or show them whole again. */
export function zoom(view, button) {
  view.dataset.zoom = { 1: 2, 2: 4, 4: 1 }[view.dataset.zoom ?? 1];
  button.textContent = `Zoom ${view.dataset.zoom}×`;
  button.setAttribute("aria-pressed", view.dataset.zoom !== "1");
}

/** Move zoom and wipe with the pointer. */
function onPointerMove(event) {
  const view = parts.view.element.querySelector(".view");
  const frame = event.target.closest(".frame")?.getBoundingClientRect();
  if (!frame) return;
  const [x, y] = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height].map((share) => `${100 * share}%`);
  view.style.setProperty("--x", x);
  view.style.setProperty("--y", y);
  if (state.mode === "wipe" && (event.buttons || event.pointerType === "mouse")) {
    view.style.setProperty("--wipe", x);
    parts.view.element.querySelector(".wipe input").value = parseFloat(x);
  }
}

export function listenToPointer(element) {
  element.querySelector(".wipe input").addEventListener("input", ({ target }) => element.querySelector(".view").style.setProperty("--wipe", `${target.value}%`));
  element.querySelector(".gain input").addEventListener("input", paintOverlay);
  element.querySelector(".viewer").addEventListener("pointermove", onPointerMove);
}
