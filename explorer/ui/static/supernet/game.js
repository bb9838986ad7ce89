// The game: prune by hand within a budget, and stand beside what the methods reach on the same picture.

import { percent } from "../text.js";
import { segments } from "./parts.js";
import { say } from "./texts.js";

export function game(lesson, box) {
  const tables = lesson.data.rivals;
  const budgets = Object.fromEntries(tables.map(({ budget }, index) => [index, percent(budget)]));
  box.innerHTML = `<div>${segments("budget", budgets, "1", say("budget"))}<p class="goal"></p><p><button type="button" class="secondary share">${say("share")}</button></p></div><table class="ranking"></table>`;
  box.onchange = () => update();
  box.querySelector(".share").onclick = async ({ target }) => {
    await navigator.clipboard.writeText(location.href);
    target.textContent = say("copied");
  };
  const update = () => {
    const { budget, results } = tables[Number(box.querySelector("input:checked").value)];
    const isWithin = lesson.choice.kept <= budget + 1e-9;
    const own = isWithin && lesson.psnr !== null ? [["gameYours", { kept: lesson.choice.kept, psnr: lesson.psnr }]] : [];
    const all = [...Object.entries(results), ...own].sort(([, one], [, other]) => other.psnr - one.psnr);
    const row = ([name, { kept, psnr }]) => `<tr class="${name === "gameYours" ? "own" : ""}"><th scope="row">${say(name)}</th><td>${percent(kept)}</td><td>${lesson.writeCloseness(psnr)}</td></tr>`;
    box.querySelector(".ranking").innerHTML = `<thead><tr><th>${say("method")}</th><th>${say("kept")}</th><th>${say("closeness")}</th></tr></thead><tbody>${all.map(row).join("")}</tbody>`;
    const behind = all.length - 1 - all.findIndex(([name]) => name === "gameYours");
    const said = own.length ? say("gameRank", { count: behind, all: all.length - 1 }) : say("notReached", { kept: percent(lesson.choice.kept, 1) });
    box.querySelector(".goal").innerHTML = `<b>${say("goal", { budget: percent(budget) })}.</b> ${said}`;
    box.querySelector(".goal").classList.toggle("reached", isWithin);
  };
  return { wires: true, clickable: true, onlyFirstScene: true, update };
}
