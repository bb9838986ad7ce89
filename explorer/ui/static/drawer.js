// A drawer: a dialog at the right, or at the bottom of a phone. What several of them need: opening, copying, saving, quoting.

const COPIED_MS = 2000;

/** Have the buttons of a dialog close it, also a click beside it, and those of its code copy that. Escape and the way of
 * the focus are the browser's own. Returns the dialog. */
export function mountDrawer(element) {
  const dialog = element.querySelector("dialog");
  dialog.addEventListener("click", ({ target, clientX, clientY }) => {
    const { left, right, top, bottom } = dialog.getBoundingClientRect();
    const isBeside = target === dialog && (clientX < left || clientX > right || clientY < top || clientY > bottom);
    if (isBeside || target.closest(".close")) dialog.close();
    const copy = target.closest(".copy");
    if (copy) copyText(copy.parentElement.querySelector("pre").textContent, copy);
  });
  return dialog;
}

export function openDrawer(dialog) {
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    if (!copySelected(text, button)) return;
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), COPIED_MS);
}

/** Copy where the page has no clipboard, as over plain HTTP. Returns whether it worked. */
function copySelected(text, button) {
  const area = Object.assign(document.createElement("textarea"), { value: text });
  button.after(area);
  area.select();
  const worked = document.execCommand("copy");
  area.remove();
  button.focus();
  return worked;
}

export function saveFile(name, blob) {
  const href = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { download: name, href }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

/** Decode base64 into a file. */
export const binary = (content) => new Blob([Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0))]);

/** Quote a word for a POSIX shell. */
const quote = (word) => (/^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);

/** Write commands, lists of words, line by line; `{model}` is the model that was typed. Lines break between words only. */
export function fillCommands(box, commands, model) {
  const word = (text) => Object.assign(document.createElement("span"), { textContent: quote(text === "{model}" ? model : text) });
  const line = (words) => words.flatMap((text, index) => (index ? [" ", word(text)] : [word(text)]));
  box.replaceChildren(...commands.flatMap((words, index) => (index ? ["\n", ...line(words)] : line(words))));
}

/** Write rows of texts as a table; the first of each names it, and with `hasHead` the first row its columns. */
export function fillTable(box, rows, hasHead = false) {
  const cell = (text, row, column) => {
    const made = document.createElement(text && ((hasHead && !row) || !column) ? "th" : "td");
    if (made.tagName === "TH") made.scope = hasHead && !row ? "col" : "row";
    return Object.assign(made, { textContent: text });
  };
  const line = (texts, row) => {
    const made = document.createElement("tr");
    made.append(...texts.map((text, column) => cell(text, row, column)));
    return made;
  };
  box.replaceChildren(...rows.map(line));
}
