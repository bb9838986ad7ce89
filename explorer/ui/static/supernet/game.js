// The game: prune by hand within a budget, and stand beside what the methods reach on the same picture.

import { escaped, percent } from "../text.js";
import { segments } from "./parts.js";
import { say } from "./texts.js";

const METHODS = ["best", "dipgo", "similarity", "calls", "deepcache", "random"];

export function game(lesson, box) {
  const tables = lesson.data.rivals;
  const budgets = Object.fromEntries(tables.map(({ budget }, index) => [index, percent(budget)]));
  box.innerHTML = `<div>${segments("budget", budgets, "1", say("budget"))}<p class="goal"></p><p><button type="button" class="secondary share">${say("share")}</button></p></div><table class="ranking"></table><p class="note">${say("gameNote")}</p><ul class="summary">${lesson.texts.summary.map((line) => `<li>${escaped(line)}</li>`).join("")}</ul>`;
  box.onchange = () => update();
  box.querySelector(".share").onclick = async ({ target }) => {
    await navigator.clipboard.writeText(location.href);
    target.textContent = say("copied");
  };
  const update = () => {
    const { budget, results } = tables[Number(box.querySelector("input:checked").value)];
    const { choice, psnr } = lesson;
    const isWithin = choice.kept <= budget + 1e-9;
    const ranked = Object.entries(results).filter(([, result]) => result);
    if (isWithin && psnr !== null) ranked.push(["gameYours", { kept: choice.kept, psnr }]);
    ranked.sort(([, one], [, other]) => other.psnr - one.psnr);
    const row = (name, kept, note) => `<tr class="${name.startsWith("game") ? "own" : ""}"><th scope="row">${say(name)}</th><td>${kept}</td><td>${note}</td></tr>`;
    const rows = ranked.map(([name, { kept, psnr: value }]) => row(name, percent(kept), lesson.writeCloseness(value)));
    const missing = METHODS.filter((name) => !results[name]).map((name) => row(name, "–", say("outOfReach")));
    const over = isWithin ? [] : [row("gameOver", percent(choice.kept), lesson.writeCloseness(psnr))];
    box.querySelector(".ranking").innerHTML = `<thead><tr><th>${say("method")}</th><th>${say("kept")}</th><th>${say("closeness")}</th></tr></thead><tbody>${[...rows, ...missing, ...over].join("")}</tbody>`;
    const behind = ranked.length - 1 - ranked.findIndex(([name]) => name === "gameYours");
    const said = isWithin ? say("gameRank", { count: behind, all: ranked.length - 1 }) : say("notReached", { kept: percent(choice.kept, 1) });
    box.querySelector(".goal").innerHTML = `<b>${say("goal", { budget: percent(budget) })}.</b> ${said}`;
    box.querySelector(".goal").classList.toggle("reached", isWithin);
  };
  return { wires: true, clickable: true, onlyFirstScene: true, update };
}
