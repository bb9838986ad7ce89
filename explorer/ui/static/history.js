// What was drawn in this visit: how each picture came about, call by call, and a strip of results to go back to.

import { paint } from "./pictures.js";

const ROLES = { original: "Original", pruned: "Pruned" };

/** The previews of a drawing as they come: two rows, the same calls above each other. */
export class Film {
  constructor(box) {
    this.box = box;
    this.frames = { original: [], pruned: [] };
  }

  begin() {
    this.frames = { original: [], pruned: [] };
    this.show();
  }

  /** Only what is new comes into the page: a drawing has hundreds of moments. */
  add(cards, images) {
    for (const role of Object.keys(ROLES)) {
      const frames = this.frames[role];
      if (!images[role] || frames.at(-1)?.image === images[role]) continue;
      frames.push({ image: images[role], call: cards[role].call });
      this.append(role, frames.at(-1));
    }
  }

  show() {
    this.box.innerHTML = "<h2>How they came about</h2>";
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

/** Finished drawings, newest first; a click goes back to one. */
export class Visits {
  constructor(box, goBack) {
    this.box = box;
    this.kept = [];
    box.addEventListener("click", ({ target }) => {
      const button = target.closest("button");
      if (button) goBack(this.kept[button.dataset.visit]);
    });
  }

  add(asked, drawn, frames) {
    this.kept = [{ asked: { ...asked }, drawn, frames }, ...this.kept].slice(0, 24);
    this.box.hidden = false;
    this.box.innerHTML = "<h2>Drawn in this visit</h2><div class='row'></div>";
    this.kept.forEach(({ asked: at, drawn: { images } }, index) => {
      const button = document.createElement("button");
      const method = at.method.replace(/^order:(.*\/)?/, "");
      const what = `${at.prompt}, ${method} ${Math.round(100 * at.ratio)} %`;
      Object.assign(button, { type: "button", title: `${what}, seed ${at.seed}, ${at.sampler} ${at.steps}` });
      button.dataset.visit = index;
      const canvas = document.createElement("canvas");
      const words = document.createElement("span");
      words.textContent = what;
      button.append(canvas, words);
      this.box.querySelector(".row").append(button);
      paint(canvas, images.pruned);
    });
  }
}
