// Looking closer at the pictures: zoom, lens and wipe follow the pointer.

import { paintOverlay } from "./render.js";
import { parts, state } from "./state.js";

/** Magnify the pictures 2 or 4 times, or show them whole again. */
export function zoom(view, button) {
  view.dataset.zoom = { 1: 2, 2: 4, 4: 1 }[view.dataset.zoom ?? 1];
  button.textContent = `Zoom ${view.dataset.zoom}×`;
  button.setAttribute("aria-pressed", view.dataset.zoom !== "1");
}

const LENS_PIXELS = 11; // of the picture, across
const LENS_TIMES = 8; // CSS pixels to one of them, so that each is a square

/** Show the pixels around a place, as shares of a picture, in the same place of all three. */
function moveLens(x, y) {
  for (const frame of parts.view.element.querySelectorAll(".viewer .frame")) {
    const [picture, lens] = [frame.querySelector(".picture"), frame.querySelector(".lens")];
    lens.width = lens.height = LENS_PIXELS * LENS_TIMES;
    const context = lens.getContext("2d");
    context.imageSmoothingEnabled = false;
    const [left, top] = [x, y].map((share) => Math.floor(share * picture.width) - (LENS_PIXELS - 1) / 2);
    if (picture.width) context.drawImage(picture, left, top, LENS_PIXELS, LENS_PIXELS, 0, 0, lens.width, lens.height);
  }
}

/** Move zoom, lens and wipe with the pointer. */
function onPointerMove(event) {
  const view = parts.view.element.querySelector(".view");
  const frame = event.target.closest(".frame")?.getBoundingClientRect();
  if (!frame) return;
  const shares = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
  const [x, y] = shares.map((share) => `${100 * share}%`);
  if (event.pointerType === "mouse" && state.mode === "side") moveLens(...shares);
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
