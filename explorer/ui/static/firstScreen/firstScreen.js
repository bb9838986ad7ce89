// The page before Gradio has mounted it: slider, pictures and map work at once, and later move into Gradio's components.
// Python writes the markup (ui/first_screen.py), for a page that was opened without anything in its address.

import { isPlaying } from "../autoplay.js";
import { EarlyPart } from "./earlyPart.js";
import { showAtFields } from "../fieldErrors.js";
import { render } from "../render.js";
import { parts, state } from "../state.js";
import { choose, mountHeatmap, mountView, setRequest } from "../view.js";

const screen = document.querySelector("#first-screen");
const find = (selector) => screen.querySelector(selector);
const app = document.querySelector("gradio-app");
const inGradio = (selector) => app.querySelector(selector);
const AMONG = ["#show label", "#explore-use", "#ratio input[type=range]", "#generate"];
let tabName; // that was clicked meanwhile

/** Keep range and number of the slider the same, and colour the part that is skipped. */
function syncSlider({ target }) {
  if (!target.closest("#ratio")) return;
  for (const input of screen.querySelectorAll("#ratio input")) if (input !== target) input.value = target.value;
  showProgress();
}

function showProgress() {
  const range = find("#ratio [type=range]");
  range.style.setProperty("--range_progress", `${(100 * range.value) / range.max}%`);
}

/** Wait until Gradio has mounted what stands among the parts that move, and the browser has laid it out where it is not
 * seen: what is seen then for the first time does not move. */
function whenThere(moveParts) {
  const work = () => requestAnimationFrame(() => requestAnimationFrame(moveParts));
  if (AMONG.every(inGradio)) return work();
  const observer = new MutationObserver(() => {
    if (!AMONG.every(inGradio)) return;
    observer.disconnect();
    work();
  });
  observer.observe(app, { childList: true, subtree: true });
}

/** Wait until no button of the mouse and no finger is down, so that nothing is taken from under it. */
function whenReleased(work) {
  if (!isDown) return work();
  document.addEventListener("pointerup", () => setTimeout(work), { once: true });
}

let isDown = false;
document.addEventListener("pointerdown", () => (isDown = true), { capture: true });
for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => (isDown = false), { capture: true });

/** Move everything into the components of Gradio, `mounted`, and give their controls what was chosen meanwhile. */
function moveIn(mounted) {
  const focused = document.activeElement?.closest?.("#first-screen #ratio") && `#ratio input[type=${document.activeElement.type}]`;
  const isChanged = !isPlaying() && Object.entries(facts.request).some(([name, value]) => state.request[name] !== value);
  inGradio("#lead .lead").replaceWith(find("#lead .lead"));
  for (const [name, part] of Object.entries(mounted)) parts[name].moveInto(part);
  screen.remove();
  document.body.classList.remove("mounting");
  app.inert = false;
  showAtFields(document.querySelector("#alert"));
  render();
  if (isChanged) choose({});
  if (focused) inGradio(focused).focus();
  if (tabName) [...app.querySelectorAll("[role=tab]")].find((tab) => tab.textContent.trim() === tabName)?.click();
}

const facts = screen && JSON.parse(document.querySelector("#first-facts").textContent);
if (screen) {
  const mounted = {};
  const arrive = (name, part) => {
    mounted[name] = part;
    if (mounted.view && mounted.heatmap) whenThere(() => whenReleased(() => moveIn(mounted)));
  };
  app.inert = true; // neither keys nor screen readers find what is not seen
  screen.addEventListener("input", syncSlider);
  find(".tab-names").addEventListener("click", ({ target }) => (tabName = target.textContent));
  showProgress();
  mountHeatmap(new EarlyPart("heatmap", find("#heatmap"), facts.heatmap, arrive));
  const view = new EarlyPart("view", find("#pictures"), facts.pictures, arrive);
  const later = view.trigger;
  view.trigger = (event) => (event === "choose" ? setRequest(state.chosen, true) : later(event)); // there are no controls yet
  mountView(view);
  setRequest(facts.request, false);
}
