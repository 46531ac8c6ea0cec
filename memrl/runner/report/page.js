"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const root = document.documentElement;
  const hidden = new Set(); // labels that the legend has switched off
  const drawn = new Set(); // elements that hold a chart by now

  // Colours are tokens such as "@3", "@3/0.2" or "@muted"; the style sheet knows them for light and for dark.
  function color(token) {
    const [name, alpha] = token.slice(1).split("/");
    const value = getComputedStyle(root).getPropertyValue(`--${name}`).trim();
    if (!alpha) return value;
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(value.slice(i, i + 2), 16));
    return `rgba(${r}, ${g}, ${b}, ${alpha})`;
  }

  function themed(value) {
    if (typeof value === "string") return /^@(\d|muted|ink|page|panel|line|low|high)(\/[\d.]+)?$/.test(value) ? color(value) : value;
    if (Array.isArray(value)) return value.map(themed);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, themed(entry)]));
    }
    return value;
  }

  function layoutOf(chart) {
    const axis = {
      gridcolor: "@line", linecolor: "@line", zerolinecolor: "@line", zeroline: false, automargin: true,
      tickfont: { color: "@muted" }, title: { font: { color: "@muted" }, standoff: 8 },
    };
    const layout = {
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "@ink" },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
      modebar: { bgcolor: "rgba(0,0,0,0)", color: "@muted", activecolor: "@ink" },
      hoverlabel: { bgcolor: "@page", bordercolor: "@line", font: { color: "@ink" } },
      ...chart.layout,
      margin: { l: 56, r: 12, t: 28, b: 48, ...chart.layout.margin },
    };
    for (const name of new Set(["xaxis", "yaxis", ...Object.keys(layout).filter((key) => /^[xy]axis/.test(key))])) {
      const own = layout[name] ?? {};
      layout[name] = { ...axis, ...own, title: { ...axis.title, ...own.title } };
    }
    return themed(layout);
  }

  function tracesOf(chart) {
    return themed(chart.data).map((trace) => ({ ...trace, visible: !hidden.has(trace.name) }));
  }

  const config = {
    responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    toImageButtonOptions: { format: "svg" },
  };

  function draw(element) {
    if (drawn.has(element)) return;
    drawn.add(element);
    const chart = charts[element.dataset.chart];
    Plotly.newPlot(element, tracesOf(chart), layoutOf(chart), config);
  }

  function redraw() {
    for (const element of drawn) {
      const chart = charts[element.dataset.chart];
      Plotly.react(element, tracesOf(chart), layoutOf(chart), config);
    }
  }

  // A chart is drawn when it is about to be seen.
  const elements = document.querySelectorAll("[data-chart]");
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) draw(entry.target);
  }, { rootMargin: "300px" });
  for (const element of elements) watcher.observe(element);
  addEventListener("beforeprint", () => elements.forEach(draw));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  const buttons = [...document.querySelectorAll(".legend [data-label]")];

  function show() {
    for (const button of buttons) button.setAttribute("aria-pressed", String(!hidden.has(button.dataset.label)));
    for (const element of drawn) {
      const visible = charts[element.dataset.chart].data.map((trace) => !hidden.has(trace.name));
      if (visible.length) Plotly.restyle(element, { visible });
    }
  }

  for (const button of buttons) {
    const label = button.dataset.label;
    button.addEventListener("click", () => {
      if (!hidden.delete(label)) hidden.add(label);
      show();
    });
  }
  document.querySelector(".legend .all")?.addEventListener("click", () => {
    const labels = buttons.map((button) => button.dataset.label);
    const any = hidden.size > 0;
    hidden.clear();
    if (!any) labels.forEach((label) => hidden.add(label));
    show();
  });

  // Tables: a click on a column's head sorts, numbers the largest first; cells without a value stay last.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
      const first = head.classList.contains("text") ? "ascending" : "descending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((cell) => cell.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...table.tBodies[0].rows].map((row) => [row.cells[column].dataset.value ?? "", row]);
      rows.sort(([a], [b]) => {
        if (a === "" || b === "") return (a === "") - (b === "");
        const difference = Number(a) - Number(b);
        return sign * (Number.isNaN(difference) ? a.localeCompare(b) : difference);
      });
      table.tBodies[0].append(...rows.map(([, row]) => row));
    }));
  }
  for (const input of document.querySelectorAll("input[data-filter]")) {
    const rows = document.getElementById(input.dataset.filter).tBodies[0].rows;
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    });
  }
})();
