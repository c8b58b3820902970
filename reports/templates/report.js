// Draws the figures in the colours of the reader's scheme, and again when the scheme changes or the page is printed.
"use strict";
(function () {
  const read = (id) => document.getElementById(id).textContent;
  const themes = JSON.parse(read("themes"));
  const source = read("figures");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const config = {
    displaylogo: false, responsive: true, plotlyServerURL: "",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "toggleSpikelines"],
    toImageButtonOptions: { format: "svg", filename: "headroom" },
  };

  const picker = (name) => document.getElementById("pick-" + name);

  function draw(theme, width) {
    const figures = JSON.parse(source, (key, value) =>
      typeof value === "string" && Object.hasOwn(theme, value) ? theme[value] : value);
    for (const [name, found] of Object.entries(figures)) {
      // Of several alike one is shown at a time.
      const figure = Array.isArray(found) ? found[found.length && Number(picker(name).value)] : found;
      if (!figure) continue;
      if (width) Object.assign(figure.layout, { width: width, autosize: false });
      Plotly.react(document.getElementById(name), figure.data, figure.layout, config);
    }
  }

  const current = () => (dark.matches ? themes.dark : themes.light);
  draw(current());
  for (const pick of document.querySelectorAll("select[id^='pick-']"))
    pick.addEventListener("change", () => draw(current()));
  dark.addEventListener("change", () => draw(current()));
  // Paper is white, and about this wide at the browser's own scale.
  window.addEventListener("beforeprint", () => draw(themes.light, 690));
  window.addEventListener("afterprint", () => draw(current()));
})();
