"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Map(); // element -> result of vegaEmbed
  const MANY_ROWS = 1500; // from here on a canvas is faster than as many SVG elements

  const theme = () => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const font = getComputedStyle(document.body).fontFamily;
    const text = {
      labelColor: colour("--soft"), titleColor: colour("--soft"), labelFont: font, titleFont: font,
      titleFontWeight: 500, labelFontSize: 11, titleFontSize: 11,
    };
    return {
      background: "transparent", font,
      axis: { ...text, gridColor: colour("--line"), domainColor: colour("--line"), tickColor: colour("--line") },
      legend: text, header: text,
      title: { color: colour("--ink"), font, fontWeight: 500, anchor: "start" },
      view: { stroke: null },
    };
  };

  const rows = (spec) =>
    Object.values(spec.datasets || {}).reduce((most, data) => Math.max(most, data.length), 0);

  const draw = async (place) => {
    if (drawn.get(place) === "busy") return;
    const last = drawn.get(place);
    drawn.set(place, "busy");
    try {
      const spec = JSON.parse(document.getElementById(place.dataset.spec).textContent);
      delete spec.$schema; // it names the version of JupyterLab; this page has a newer one
      // In the notebook charts have a fixed width; here single and layered ones fill the page.
      if (typeof spec.width === "number" && (spec.mark || spec.layer)) spec.width = "container";
      spec.config = { ...spec.config, ...theme() };
      if (last && last.finalize) last.finalize();
      const result = await vegaEmbed(place, spec, {
        mode: "vega-lite",
        renderer: rows(spec) > MANY_ROWS ? "canvas" : "svg",
        actions: { export: true, source: false, compiled: false, editor: false },
      });
      drawn.set(place, result);
      place.dataset.drawn = "yes";
      place.style.minHeight = "";
    } catch (error) {
      drawn.delete(place);
      place.classList.add("empty");
      console.error(error);
    }
  };

  // Visible charts are drawn first, the others one by one while the page is idle: it opens at once,
  // and scrolling, searching or printing finds no empty place.
  const places = [...document.querySelectorAll(".chart[data-spec]")];
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { watcher.unobserve(entry.target); drawOnce(entry.target); }
    }
  }, { rootMargin: "400px" });
  const drawOnce = (place) => (drawn.has(place) ? undefined : draw(place));
  const idle = () => new Promise((done) =>
    window.requestIdleCallback ? requestIdleCallback(done, { timeout: 500 }) : setTimeout(done, 100));
  const drawRest = async () => {
    for (const place of places) { await idle(); watcher.unobserve(place); await drawOnce(place); }
  };
  places.forEach((place) => watcher.observe(place));
  addEventListener("load", () => setTimeout(drawRest, 300));

  dark.addEventListener("change", () => places.filter((place) => drawn.has(place)).forEach(draw));
  addEventListener("beforeprint", () => places.forEach(drawOnce));

  const toggle = document.getElementById("toggle-code");
  toggle.addEventListener("click", () => {
    const shown = document.body.classList.toggle("with-code");
    document.querySelectorAll("details.code").forEach((code) => { code.open = shown; });
    toggle.textContent = shown ? "Hide code" : "Show code";
    toggle.setAttribute("aria-pressed", String(shown));
  });
})();
