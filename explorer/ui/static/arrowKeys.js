/** Make the buttons of a box one stop of the Tab key, as a row of choices should be: arrows, Home and End move inside it. */
export function useArrowKeys(box) {
  const buttons = () => [...box.querySelectorAll("button")].filter((button) => !button.disabled);
  const isChosen = (button) => button.matches("[aria-pressed=true], [aria-checked=true]");
  const choose = () => {
    const current = buttons().find((button) => button === document.activeElement) ?? buttons().find(isChosen) ?? buttons()[0];
    for (const button of box.querySelectorAll("button")) button.tabIndex = button === current ? 0 : -1;
  };
  box.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const [all, at] = [buttons(), buttons().indexOf(document.activeElement)];
    const next = step ? all[(at + step + all.length) % all.length] : { Home: all[0], End: all.at(-1) }[event.key];
    if (at < 0 || !next) return;
    event.preventDefault();
    next.focus();
    choose();
  });
  new MutationObserver(choose).observe(box, { childList: true, subtree: true, attributeFilter: ["aria-pressed", "aria-checked"] });
  choose();
}
