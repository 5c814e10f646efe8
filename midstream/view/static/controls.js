// What stands above the grid: a tab for each lens, the statistic with its colour scale, which rows, light or dark.

class Controls {
  /** `on` has a function for each choice: lens(grid), statistic(name), every(k), subs(shown), theme(). */
  constructor(data, on) {
    Object.assign(this, { data, on });
    this.tabs = data.grids.length > 1 ? this.lenses() : null;
    this.legend = el("div", { class: "ms-legend" });
    const colour = this.choice("Colour", [], on.statistic);
    this.select = colour.querySelector("select");
    const bar = el("div", { class: "ms-controls" }, colour, this.legend, ...this.rows());
    bar.append(el("button", { type: "button", class: "ms-theme", "aria-label": "light or dark", title: "light or dark", onclick: on.theme }, "◐"));
    this.parts = [this.tabs, bar].filter(Boolean);
  }

  choice(label, options, change) {
    const select = el("select", { onchange: () => change(select.value) }, ...options.map(([value, text]) => el("option", { value }, text)));
    return el("label", {}, el("span", {}, label), select);
  }

  lenses() {
    const { grids } = this.data;
    const tab = (grid) =>
      el("button", { type: "button", role: "tab", onclick: () => this.on.lens(grid) }, el("b", {}, grid.lens), el("span", {}, aboutName(grid)));
    const list = el("div", { class: "ms-lenses", role: "tablist", "aria-label": "lens" }, ...grids.map(tab));
    list.addEventListener("keydown", (event) => {
      const at = [...list.children].indexOf(list.getRootNode().activeElement);
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: grids.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      this.on.lens(grids[(to + grids.length) % grids.length]);
      list.querySelector("[aria-selected=true]").focus();
    });
    return list;
  }

  rows() {
    const { data } = this;
    const strides = [1, 2, 3, 4, 6, 8].filter((k) => k === 1 || k < data.layers);
    const name = (k) => (k === 1 ? "every layer" : `every ${k}${k === 2 ? "nd" : k === 3 ? "rd" : "th"}`);
    const every = this.choice("Rows", strides.map((k) => [k, name(k)]), (k) => this.on.every(Number(k)));
    this.every = every.querySelector("select");
    const parts = [every];
    if (data.grids.some((grid) => new Set(grid.sites).size > 1)) {
      const check = el("input", { type: "checkbox", onchange: () => this.on.subs(check.checked) });
      this.subs = check;
      parts.push(el("label", { class: "ms-check" }, check, el("span", {}, "inside blocks")));
    }
    return parts;
  }

  /** Marks lens, statistic and rows that are shown, and offers the statistics that this lens has. */
  show(grid, stat, every, subs) {
    this.every.value = every;
    if (this.subs) this.subs.checked = subs;
    const known = this.data.statistics.filter((one) => has(grid, one));
    this.select.replaceChildren(...known.map((one) => el("option", { value: one.name }, labelOf(one, grid))));
    this.select.value = stat.name;
    if (!this.tabs) return;
    for (const [i, tab] of [...this.tabs.children].entries()) {
      const own = this.data.grids[i] === grid;
      tab.setAttribute("aria-selected", own);
      tab.tabIndex = own ? 0 : -1;
      if (own) this.tabs.scrollLeft = tab.offsetLeft + tab.offsetWidth / 2 - this.tabs.clientWidth / 2;
    }
  }

  drawLegend(grid, stat, theme) {
    const strip = el("div", { class: "ms-ramp" });
    strip.style.background = `linear-gradient(to right, ${coloursOf(this.data, stat, theme).ramp.filter((_, i) => i % 8 === 0).join(",")})`;
    const ticks = el("div", { class: "ms-ticks" });
    for (const [place, value] of stat.ticks) {
      const tick = el("span", {}, tickText(stat, value));
      tick.style.left = `${100 * place}%`;
      ticks.append(tick);
    }
    const [before, after] = stat.form === "change" ? this.data.ends : ["", ""];
    const word = (text) => (text ? el("span", { class: "ms-unit" }, text) : "");
    const unit = [after, stat.unit].filter(Boolean).join(", ");
    this.legend.replaceChildren(el("b", { class: "ms-on-paper" }, labelOf(stat, grid)), word(before), el("div", {}, strip, ticks), word(unit));
    this.legend.title = stat.meaning;
  }
}
