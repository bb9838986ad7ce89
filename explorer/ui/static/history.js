// What was generated in this visit: how each picture was generated, call by call, and a row of results to return to.

import { paint } from "./pictures.js";
import { parts } from "./state.js";

/** Name how a picture was pruned: a method, the name of a file's importance, or by hand. */
const nameOf = (method, isEdited) => (isEdited ? "edited by hand" : (parts.view.props.titles[method] ?? method.replace(/^importance:(.*\/)?/, "")));

const ROLES = { original: "Original", pruned: "Pruned" };

/** The previews of a run as they come: two rows, the same calls above each other. */
export class Filmstrip {
  constructor(box) {
    this.box = box;
    this.frames = { original: [], pruned: [] };
  }

  begin() {
    this.frames = { original: [], pruned: [] };
    this.show();
  }

  /** Add what is new: most messages only count calls. */
  add(cards, images) {
    for (const role of Object.keys(ROLES)) {
      const frames = this.frames[role];
      if (!images[role] || frames.at(-1)?.image === images[role]) continue;
      frames.push({ image: images[role], call: cards[role].call });
      this.append(role, frames.at(-1));
    }
  }

  show() {
    this.box.innerHTML = "<h2>How the pictures formed</h2>";
    this.reels = {};
    for (const role of Object.keys(ROLES)) {
      this.reels[role] = document.createElement("div");
      this.reels[role].className = "reel";
      this.reels[role].innerHTML = `<span>${ROLES[role]}</span>`;
      this.box.append(this.reels[role]);
      for (const frame of this.frames[role]) this.append(role, frame);
    }
    this.box.hidden = !this.frames.original.length;
  }

  append(role, { image, call }) {
    const figure = document.createElement("figure");
    figure.innerHTML = `<canvas data-role="${role}" width="0" height="0"></canvas><figcaption>${call}</figcaption>`;
    this.reels[role].append(figure);
    paint(figure.firstChild, image);
    this.box.hidden = false;
  }
}

/** Finished results, newest first; a click returns to one. */
export class History {
  constructor(box, onReturn) {
    this.box = box;
    this.entries = [];
    box.addEventListener("click", ({ target }) => {
      const button = target.closest("button");
      if (button) onReturn(this.entries[button.dataset.entry]);
    });
  }

  add(request, generated, frames, isEdited) {
    this.entries = [{ request: { ...request }, generated, frames, isEdited }, ...this.entries].slice(0, 24);
    this.box.hidden = false;
    this.box.innerHTML = "<h2>Generated in this visit</h2><div class='row'></div>";
    this.entries.forEach(({ request: { prompt, method, ratio, seed, sampler, steps }, generated: { images, cards }, isEdited }, index) => {
      const button = document.createElement("button");
      const what = `${prompt}, ${nameOf(method, isEdited)} ${Math.round(100 * (isEdited ? 1 - cards.pruned.kept : ratio))} %`;
      Object.assign(button, { type: "button", title: `${what}, seed ${seed}, ${sampler} ${steps}` });
      button.dataset.entry = index;
      const canvas = document.createElement("canvas");
      const label = document.createElement("span");
      label.textContent = what;
      button.append(canvas, label);
      this.box.querySelector(".row").append(button);
      paint(canvas, images.pruned);
    });
  }
}
