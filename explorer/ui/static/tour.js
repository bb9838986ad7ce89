// Three steps for a first visit, which can be left at any of them.

const STEPS = [
  ["#ratio", "Drag this slider. It says how much of the network's arithmetic is left out; everything below follows at once."],
  [".view .stage", "All three pictures grow from the same noise: the full run, the pruned one, and what as much arithmetic buys a good sampler that just takes fewer steps."],
  ["#keep", "Each column is one call of the network, each row one of its parts. Blue is computed, the rest is handed back from before. Click a cell to change your mind."],
];

let step = -1;
let before;

/** Begin, or go on; after the last step it ends. */
export function next() {
  mark(false);
  step += 1;
  if (step >= STEPS.length) return leave();
  before ??= document.activeElement;
  const [selector, words] = STEPS[step];
  const target = document.querySelector(selector);
  mark(true);
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  target?.scrollIntoView({ block: "center", behavior: calm ? "auto" : "smooth" });
  const box = panel();
  box.querySelector("p").textContent = words;
  box.querySelector("small").textContent = `${step + 1} of ${STEPS.length}`;
  box.querySelector(".next").textContent = step + 1 < STEPS.length ? "Next" : "Done";
  box.querySelector(".next").focus();
}

export function leave() {
  mark(false);
  step = -1;
  document.querySelector(".tour")?.remove();
  before?.focus();
  before = undefined;
}

const mark = (on) => step >= 0 && document.querySelector(STEPS[step]?.[0])?.classList.toggle("toured", on);

function panel() {
  const there = document.querySelector(".tour");
  if (there) return there;
  const box = document.createElement("div");
  box.className = "tour";
  box.setAttribute("role", "dialog");
  box.setAttribute("aria-label", "Tour");
  box.innerHTML = "<p aria-live='polite'></p><div><small></small><button type='button' class='leave'>Leave</button><button type='button' class='next'></button></div>";
  box.addEventListener("click", ({ target }) => (target.matches(".next") ? next() : target.matches(".leave") && leave()));
  box.addEventListener("keydown", ({ key }) => key === "Escape" && leave());
  document.querySelector(".gradio-container").append(box);
  return box;
}
