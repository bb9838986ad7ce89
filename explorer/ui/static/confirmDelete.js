// Buttons that delete ask first: the first press changes their words, a second one within a few seconds deletes.

const BUTTONS = "#job-delete, #mask-delete";
const ARMED_MS = 4000;

document.addEventListener("click", (event) => {
  const button = event.target.closest(BUTTONS);
  if (!button || button.dataset.armed) return;
  event.stopImmediatePropagation();
  event.preventDefault();
  const words = button.textContent;
  button.dataset.armed = "yes";
  button.textContent = "Really delete?";
  setTimeout(() => {
    delete button.dataset.armed;
    button.textContent = words;
  }, ARMED_MS);
}, { capture: true });
