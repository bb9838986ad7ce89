// Draws props.value (a plotly figure) into .plot; the library is loaded once, after the first paint.
const box = () => element.querySelector(".plot"); // which may come after this script, where a tab opens at once

function library() {
  window.explorerPlotly ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = props.script;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("plotly.js did not load"));
    requestAnimationFrame(() => setTimeout(() => document.head.append(script), 0));
  });
  return window.explorerPlotly;
}

function inColoursOfThePage(layout) {
  const style = getComputedStyle(element);
  const text = style.getPropertyValue("--body-text-color").trim();
  const surface = style.getPropertyValue("--background-fill-primary").trim();
  layout.width = box().clientWidth; // plotly's own `responsive` would forget the height that the figure asks for
  layout.font = { ...layout.font, color: text, family: style.fontFamily };
  layout.hoverlabel = { ...layout.hoverlabel, bgcolor: surface, bordercolor: text, font: { color: text } };
  if (element.clientWidth < 480) {
    layout.yaxis = { ...layout.yaxis, tickfont: { size: 8 } };
    layout.xaxis = { ...layout.xaxis, dtick: undefined, nticks: 6, tickangle: 0 };
  }
  return layout;
}

async function draw() {
  element.classList.toggle("empty", !props.value);
  if (!props.value) return;
  const plotly = await library();
  if (!box()) return;
  const figure = JSON.parse(JSON.stringify(props.value)); // plotly writes into what it is given
  await plotly.react(box(), figure.data, inColoursOfThePage(figure.layout), { displayModeBar: false });
  element.classList.add("drawn");
}

watch("value", draw);
new ResizeObserver(() => box() && box().clientWidth !== box()._fullLayout?.width && draw()).observe(element);
new MutationObserver(draw).observe(document.body, { attributes: true, attributeFilter: ["class"] }); // dark or light
library();
draw();
