/** Draw again when the theme changes between light and dark. */
export const onThemeChange = (draw) => new MutationObserver(draw).observe(document.body, { attributes: true, attributeFilter: ["class"] });
