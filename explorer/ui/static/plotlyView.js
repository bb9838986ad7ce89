// A plotly figure that Python made, in the page's colours; and what every plotly figure of the page needs.

import { onThemeChange } from "./theme.js";

/** Load plotly.js once for the whole page, when the first figure is there: it takes a second to start. */
export function loadPlotly(source) {
  return (window.explorerPlotly ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = source;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("plotly.js did not load"));
    requestAnimationFrame(() => setTimeout(() => document.head.append(script), 0));
  }));
}

/** Draw a figure, or change what is drawn. plotly refers to its clip paths by the page's address, and loses them when that
 * changes; so the first plot is empty, and then plotly is made to leave the address out. */
export function drawFigure(plotly, box, data, layout) {
  if (!box._context) {
    plotly.newPlot(box, [], {}, { displayModeBar: false });
    box._context._baseUrl = "";
  }
  return plotly.react(box, data, layout); // with a config, it would take the address anew
}

/** Give a layout the width of its box, and the font and colours of the page; a narrow one has fewer and smaller labels. */
export function withTheme(layout, element, box) {
  const style = getComputedStyle(element);
  const text = style.getPropertyValue("--body-text-color").trim();
  const surface = style.getPropertyValue("--background-fill-primary").trim();
  layout.width = box.clientWidth; // plotly's own `responsive` would forget the height that the figure asks for
  layout.font = { ...layout.font, color: text, family: style.fontFamily };
  if (element.clientWidth < 480) {
    layout.yaxis = { ...layout.yaxis, tickfont: { size: 8 } };
    layout.xaxis = { ...layout.xaxis, dtick: undefined, nticks: 6, tickangle: 0 };
  }
  layout.hoverlabel = { ...layout.hoverlabel, bgcolor: surface, bordercolor: text, font: { color: text } };
  return layout;
}

/** Draw again when the box has another width than the figure in it. `box()`: it may come after this script. */
export const onResize = (element, box, draw) =>
  new ResizeObserver(() => box() && box().clientWidth !== box()._fullLayout?.width && draw()).observe(element);

/** Put a colour bar under its map, which at its side would leave a phone's map no room. */
function layColourBarDown({ colorbar }) {
  if (colorbar) Object.assign(colorbar, { orientation: "h", y: -0.32, yanchor: "top", len: 1, title: { ...colorbar.title, side: "bottom" } });
}

/** Draw the figure in `props.value` into .plot. */
export function mountFigure({ element, props, watch }) {
  const box = () => element.querySelector(".plot"); // which may come after this script, where a tab opens at once

  async function draw() {
    element.classList.toggle("empty", Boolean(props.value && !props.value.data)); // an answer without a figure
    if (!props.value?.data) return;
    const plotly = await loadPlotly(props.library);
    if (!box() || !props.value?.data) return;
    const figure = JSON.parse(JSON.stringify(props.value)); // plotly writes into what it is given
    if (element.clientWidth < 480) figure.data.forEach(layColourBarDown);
    await drawFigure(plotly, box(), figure.data, withTheme(figure.layout, element, box()));
    element.classList.add("drawn");
  }

  watch("value", draw);
  onResize(element, box, draw);
  onThemeChange(draw);
  draw();
}
