// A tour of three steps for a first visit, which can be left at any of them.

const STEPS = [
  ["#ratio", "Drag this slider. It sets how much of the network's arithmetic is left out; everything below follows at once."],
  [".view .viewer", "All three pictures grow from the same noise: the full run, the pruned one, and what the same amount of arithmetic buys a good sampler that just takes fewer steps."],
  ["#heatmap", "Each column is one call of the network, each row one of its units. Blue is computed, the rest is reused from before. Click a cell to switch it."],
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
  const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;
  document.querySelector(selector)?.scrollIntoView({ block: "center", behavior: reduced ? "auto" : "smooth" });
  const box = findPanel();
  box.querySelector("p").textContent = text;
  box.querySelector("small").textContent = `${step + 1} of ${STEPS.length}`;
  box.querySelector(".next").textContent = step + 1 < STEPS.length ? "Next" : "Done";
  box.querySelector(".next").focus();
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
