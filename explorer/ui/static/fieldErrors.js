// Errors stand at the field that they concern: `data-field` of an alert names it (ui/components.py).

/** Repeat each alert of `box` at its field, and mark the field, for as long as the alert is there. */
export function showAtFields(box) {
  const show = () => {
    document.querySelectorAll(".field-error").forEach((copy) => copy.remove());
    document.querySelectorAll("[aria-invalid][data-by-alert]").forEach((input) => ["aria-invalid", "data-by-alert"].forEach((name) => input.removeAttribute(name)));
    for (const alert of box.querySelectorAll("[data-field]")) {
      const field = document.getElementById(alert.dataset.field.replaceAll("_", "-"));
      const input = field?.querySelector("input, textarea");
      alert.classList.toggle("at-field", Boolean(input?.offsetParent));
      if (!input?.offsetParent) continue;
      field.append(Object.assign(document.createElement("p"), { className: "alert field-error", textContent: alert.textContent, ariaHidden: "true" }));
      Object.assign(input.dataset, { byAlert: "" });
      input.setAttribute("aria-invalid", "true");
    }
  };
  new MutationObserver(show).observe(box, { childList: true, subtree: true });
  show();
}
