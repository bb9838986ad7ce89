// A tour of three steps for a first visit, which can be left at any of them.

const STEPS = [
  ["#ratio", "Drag this slider: how much of the arithmetic is skipped? Everything below follows at once."],
  [".view .viewer", "Three pictures from the same noise: the full run, the pruned one, and what a good sampler draws for the same cost by taking fewer steps."],
  ["#heatmap", "Each column is one call of the network, each row one of its layers. Full cells are computed; the rest is taken from before or not needed. Click a cell to switch it."],
];

let step = -1;
let focusedBefore;

/** Begin, or continue; after the last step the tour ends. */
export function nextStep() {
  outline(false);
  step += 1;
  if (step >= STEPS.length) return endTour();
  focusedBefore ??= document.activeElement;
  const [selector, text] = STEPS[step];
  outline(true);
  document.querySelector(selector)?.scrollIntoView({ block: "nearest", behavior: "auto" });
  const box = findPanel();
  box.querySelector("p").textContent = text;
  box.querySelector("small").textContent = `${step + 1} of ${STEPS.length}`;
  box.querySelector(".next").textContent = step + 1 < STEPS.length ? "Next" : "Done";
  box.querySelector(".next").focus();
  placeBeside(box, document.querySelector(selector));
}

/** Put the panel where it leaves what it explains in sight: under it, or over it where there is no room. */
function placeBeside(box, target) {
  if (!target || innerWidth < 700) return box.removeAttribute("style");
  const [here, own] = [target.getBoundingClientRect(), box.getBoundingClientRect()];
  const under = here.bottom + 14 + own.height < innerHeight;
  const top = under ? here.bottom + 14 : Math.max(14, here.top - own.height - 14);
  Object.assign(box.style, { top: `${top}px`, left: `${Math.max(14, Math.min(here.left, innerWidth - own.width - 14))}px`, right: "auto", bottom: "auto" });
}

export function endTour() {
  outline(false);
  step = -1;
  document.querySelector(".tour")?.remove();
  focusedBefore?.focus();
  focusedBefore = undefined;
}

const outline = (on) => step >= 0 && document.querySelector(STEPS[step]?.[0])?.classList.toggle("tour-target", on);

function findPanel() {
  const existing = document.querySelector(".tour");
  if (existing) return existing;
  const box = document.createElement("div");
  box.className = "tour";
  box.setAttribute("role", "dialog");
  box.setAttribute("aria-label", "Tour");
  box.innerHTML = "<p aria-live='polite'></p><div><small></small><button type='button' class='leave'>Leave</button><button type='button' class='next'></button></div>";
  box.addEventListener("click", ({ target }) => (target.matches(".next") ? nextStep() : target.matches(".leave") && endTour()));
  box.addEventListener("keydown", ({ key }) => key === "Escape" && endTour());
  document.querySelector(".gradio-container").append(box);
  return box;
}
