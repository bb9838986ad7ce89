// "Your model": a config.json goes to Python, which says what can be pruned of such a network. All of it is written as text.

import { fillCommands, fillTable, mountDrawer, openDrawer } from "./drawer.js";
import { state } from "./state.js";

const MAX_BYTES = 65_536; // as own_config.py allows
const DEFAULT_NAME = "./my-model";
let dialog;

/** Open the drawer; returns the model that stays chosen. */
export function openOwnModel(fallback) {
  if (dialog) openDrawer(dialog);
  return state.request.model ?? window.explorerRequest?.model ?? fallback;
}

export function mountOwnModel({ element, props, watch, trigger }) {
  dialog = mountDrawer(element);
  dialog.addEventListener("close", returnFocus);
  const find = (selector) => element.querySelector(selector);
  const [about, content, name, config] = [".about", ".content", ".own-name", ".own-config"].map(find);
  let commands = [];

  const say = (sentence, isError) => {
    about.textContent = sentence;
    about.classList.toggle("alert", isError);
  };
  const writeCommands = () => fillCommands(find(".commands"), commands, name.value.trim() || DEFAULT_NAME);

  find(".own-file").addEventListener("change", async ({ target }) => {
    const [file] = target.files;
    if (!file) return;
    if (file.size > MAX_BYTES) return say(`This file has ${Math.ceil(file.size / 1024)} KB; a config.json may have ${MAX_BYTES / 1024} here.`, true);
    config.value = await file.text();
    say("", false);
  });
  find(".describe").addEventListener("click", () => {
    say("One moment: this can take half a minute.", false);
    trigger("describe", { name: name.value, config: config.value });
  });
  name.addEventListener("input", writeCommands);

  function receive() {
    if (!props.value) return;
    const value = JSON.parse(JSON.stringify(props.value));
    content.hidden = Boolean(value.error);
    say(value.error ?? value.title, Boolean(value.error));
    if (value.error) return;
    ({ commands } = value);
    find(".numbers-known").hidden = !value.facts.length;
    fillTable(find(".facts"), value.facts);
    fillTable(find(".furthest"), value.furthest);
    fillTable(find(".units"), value.units);
    find(".note").textContent = value.note ?? "";
    writeCommands();
  }

  watch("value", receive);
}

/** Focus the list of models again, which loses the focus with each choice, and keep it folded. It unfolds when it gets the
 * focus, so a click on it begins without. */
function returnFocus() {
  const list = document.querySelector("#model input");
  list?.focus();
  list?.addEventListener("pointerdown", () => list.blur(), { once: true });
  setTimeout(() => list?.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true })));
}
