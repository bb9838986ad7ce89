// What stands under the drawing in the first scenes. A panel is a function of the lesson and its box; it returns what the scene
// needs: how the drawing is (`wires`, `clickable`, `tint`), and what follows a change (`update`) or a look at a block (`point`).

import { percent } from "../text.js";
import { blockName } from "./drawing.js";
import { segments } from "./parts.js";
import { showTile, tileMarkup } from "./sheets.js";
import { say } from "./texts.js";

const GOAL = 0.6; // of the arithmetic
const PALEST = 0.8; // the cosine that gets no colour

export function chain(lesson, box) {
  box.innerHTML = segments("shown", { noisy: say("noisy"), predicted: say("predicted") }, "noisy");
  box.onchange = ({ target }) => lesson.showPictures(target.value);
  return { wires: false, clickable: false };
}

export function similar(lesson, box) {
  const { similarity, steps } = lesson.data;
  const alike = (call, unit) => (call ? similarity[unit][call - 1][call] : 1);
  box.innerHTML = `<div class="pair" hidden><figure>${tileMarkup()}<figcaption></figcaption></figure><figure>${tileMarkup()}<figcaption></figcaption></figure></div><p class="said" role="status">${say("similarHint")}</p><p><a class="features"></a></p>`;
  const [before, now] = box.querySelectorAll(".tile");
  const width = lesson.choice.width;
  const point = (call, unit) => {
    box.querySelector(".pair").hidden = !call;
    box.querySelector(".said").textContent = say("similarFirst");
    if (!call) return;
    [before, now].forEach((tile, index) => {
      showTile(tile, lesson.tile("features", (call - 1 + index) * width + unit, steps * width));
      const name = say("call", { call: call - 1 + index });
      tile.setAttribute("aria-label", name);
      tile.nextElementSibling.textContent = name;
    });
    const block = blockName(lesson.drawing.layout.blocks[unit]);
    box.querySelector(".said").textContent = say("similar", { block, before: call - 1, call, value: percent(alike(call, unit), 1) });
    const link = box.querySelector(".features");
    link.textContent = say("features");
    link.href = `?model=${lesson.data.model}&tab=features&unit=${encodeURIComponent(lesson.data.graph.units[unit].name)}`;
  };
  const tint = (index) => (index < width ? 0 : Math.max(0, (alike(Math.floor(index / width), index % width) - PALEST) / (1 - PALEST)));
  return { wires: false, clickable: false, tint, point, scale: ["tintDifferent", "tintAlike"] };
}

export function supernet(lesson, box) {
  box.innerHTML = `<button type="button" class="secondary" aria-pressed="false">${say("wires")}</button>`;
  const button = box.querySelector("button");
  button.onclick = () => {
    const on = button.getAttribute("aria-pressed") === "false";
    button.setAttribute("aria-pressed", on);
    button.textContent = say(on ? "noWires" : "wires");
    lesson.drawing.setState({ wires: on, clickable: false });
  };
  return { wires: false, clickable: false };
}

export function subnet(lesson, box) {
  box.innerHTML = `<p class="goal" role="status"></p>`;
  const update = () => {
    const reached = lesson.choice.kept <= GOAL + 1e-9;
    box.querySelector(".goal").innerHTML = `<b>${say("goal", { budget: percent(GOAL) })}.</b> ${say(reached ? "reached" : "notReached", { kept: percent(lesson.choice.kept, 1), words: lesson.closenessWords() })}`;
    box.querySelector(".goal").classList.toggle("reached", reached);
  };
  return { wires: true, clickable: true, update };
}
