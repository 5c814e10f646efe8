// MidstreamGrid(element, data): the grid of readings. Rows are layers, the output on top; columns are positions.

const PINS = 8;

class MidstreamGrid {
  /** Puts the grid into `element`; `data` comes from unpack(). */
  constructor(element, data) {
    Object.assign(this, { root: element, data, grid: data.grids[0], every: 1, pins: [], hover: null, held: false });
    this.stat = data.statistics.find((stat) => stat.name === data.start);
    this.subs = false;
    this.build();
    this.offer();
    this.setRows();
    this.cursor = { line: 0, col: this.grid.positions.length - 1 };
    this.pinAtStart();
    new ResizeObserver(() => this.lay()).observe(this.root);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.restyle());
    addEventListener("beforeprint", () => this.toPaper());
    addEventListener("afterprint", () => {
      this.paper.replaceChildren();
      this.drawLegend();
    });
    this.lay();
  }

  // ---- the parts on the page

  build() {
    this.base = el("canvas", { "aria-hidden": "true" });
    this.over = el("canvas", { "aria-hidden": "true" });
    this.window = el("div", { class: "ms-window" }, this.base, this.over);
    this.space = el("div", { class: "ms-space" }, this.window);
    this.line = el("div", { role: "row", class: "ms-unseen" });
    this.scroller = el("div", { class: "ms-scroller", role: "grid", tabindex: "0", "aria-label": "top token by layer and position" }, this.space, this.line);
    this.box = el("aside", { class: "ms-box", hidden: true, "aria-label": "this cell" });
    this.live = el("p", { class: "ms-unseen", "aria-live": "polite" });
    this.side = el("section", { class: "ms-side", "aria-label": "followed tokens" });
    this.paper = el("div", {});
    const stage = el("div", { class: "ms-stage" }, this.scroller, this.side);
    this.bar = el("div", { class: "ms-controls" }, ...this.controls());
    const hint = el("p", { class: "ms-hint" });
    this.boxed = document.createTextNode("");
    hint.append(el("span", { class: "ms-boxed" }, "boxed"), this.boxed);
    for (const [key, does] of [["←↑↓→", "move"], ["Enter", "follow"], ["1–9", "follow the n-th"], ["Esc", "undo"]]) {
      hint.append(el("span", { class: "ms-key" }, el("kbd", {}, key), ` ${does}`));
    }
    this.root.classList.add("ms");
    this.root.replaceChildren(this.bar, stage, hint, this.box, this.live, this.paper);
    this.listen();
  }

  controls() {
    const { data } = this;
    const choice = (label, options, change) => {
      const select = el("select", { onchange: () => change(select.value) }, ...options.map(([value, text]) => el("option", { value }, text)));
      return el("label", {}, el("span", {}, label), select);
    };
    const colour = choice("Colour", [], (name) => this.setStatistic(name));
    this.select = colour.querySelector("select");
    this.legend = el("div", { class: "ms-legend" });
    const parts = [colour, this.legend];
    if (data.grids.length > 1) {
      parts.push(choice("Lens", data.grids.map((grid, i) => [i, grid.lens]), (i) => this.setGrid(data.grids[i])));
    }
    const strides = [1, 2, 3, 4, 6, 8].filter((k) => k === 1 || k < data.layers);
    const name = (k) => (k === 1 ? "every layer" : `every ${k}${k === 2 ? "nd" : k === 3 ? "rd" : "th"}`);
    parts.push(choice("Rows", strides.map((k) => [k, name(k)]), (k) => this.setEvery(Number(k))));
    if (data.grids.some((grid) => new Set(grid.sites).size > 1)) {
      const check = el("input", { type: "checkbox", onchange: () => this.setSubs(check.checked) });
      parts.push(el("label", { class: "ms-check" }, check, el("span", {}, "inside blocks")));
    }
    this.theme = "";
    parts.push(el("button", { type: "button", class: "ms-theme", "aria-label": "light or dark", title: "light or dark", onclick: () => this.switchTheme() }, "◐"));
    return parts;
  }

  listen() {
    const { scroller } = this;
    scroller.addEventListener("scroll", () => this.paintSoon());
    scroller.addEventListener("pointermove", (event) => event.pointerType !== "touch" && this.setHover(this.cellAt(event)));
    scroller.addEventListener("pointerleave", () => this.setHover(null));
    scroller.addEventListener("click", (event) => this.click(event));
    scroller.addEventListener("keydown", (event) => this.key(event));
    scroller.addEventListener("focus", () => this.paintSoon());
    scroller.addEventListener("blur", () => this.paintSoon());
    this.box.addEventListener("keydown", (event) => event.key === "Escape" && this.close(true));
  }

  // ---- what is shown

  setRows() {
    const { grid } = this;
    const layers = [...new Set(grid.layers)];
    const kept = new Set(layers.filter((_, i) => i % this.every === 0 || i === layers.length - 1));
    const main = curveRows(grid);
    const shown = (row) => kept.has(grid.layers[row]) && (this.subs || main.includes(row));
    this.rows = grid.labels.map((_, row) => row).filter(shown).reverse();
    this.scroller.setAttribute("aria-rowcount", this.rows.length + 1);
    this.scroller.setAttribute("aria-colcount", grid.positions.length + 1);
    if (this.cursor) this.cursor.line = Math.min(this.cursor.line, this.rows.length - 1);
  }

  /** Offers the statistics that this lens has; one it lacks gives way to the first. */
  offer() {
    this.boxed.data = ` the top token is the ${aboutName(this.grid)}${this.grid.offset === 0 ? "" : " that really came"}`;
    const has = ({ column }) => (column === "top1" ? this.grid.topLogprobs.some(Number.isFinite) : this.grid.columns[column]);
    const known = this.data.statistics.filter(has);
    this.select.replaceChildren(...known.map((stat) => el("option", { value: stat.name }, this.label(stat))));
    if (!has(this.stat)) this.stat = known[0];
    this.select.value = this.stat.name;
  }

  label(stat) {
    return stat.label.replace("next token", aboutName(this.grid));
  }

  setStatistic(name) {
    this.stat = this.data.statistics.find((stat) => stat.name === name);
    this.select.value = name;
    this.drawLegend();
    this.paintSoon();
  }

  setGrid(grid) {
    this.grid = grid;
    this.cursor.col = Math.min(this.cursor.col, grid.positions.length - 1);
    this.change();
  }

  setEvery(every) {
    this.every = every;
    this.change();
  }

  setSubs(shown) {
    this.subs = shown;
    this.change();
  }

  change() {
    this.close(true);
    this.offer();
    this.hover = null;
    this.setRows();
    this.lay();
  }

  switchTheme() {
    this.theme = this.colours.name === "dark" ? "light" : "dark";
    this.root.style.colorScheme = this.theme;
    if (document.body.classList.contains("ms-page")) document.documentElement.style.colorScheme = this.theme;
    this.restyle();
  }

  /** Colours and fonts as the page's style gives them, resolved for canvas. */
  restyle() {
    const probe = el("span", { class: "ms-unseen" });
    this.root.append(probe);
    const resolve = (value) => {
      probe.style.color = value;
      return getComputedStyle(probe).color;
    };
    const family = getComputedStyle(this.root).fontFamily;
    const colour = (name) => resolve(`var(--ms-${name})`);
    this.colours = {
      name: resolve("light-dark(#000, #fff)") === "rgb(255, 255, 255)" ? "dark" : "light",
      text: colour("text"), muted: colour("muted"), ground: colour("ground"), accent: colour("accent"),
      font: `12px ${family}`, strong: `600 12px ${family}`, small: `11.5px ${family}`, tiny: `10px ${family}`,
    };
    for (const pin of this.pins) pin.colour = colour(`pin${pin.slot}`);
    probe.remove();
    this.drawLegend();
    this.drawSide();
    this.paintSoon();
  }

  lay() {
    const width = this.scroller.clientWidth;
    if (!width) return;
    this.sizes = measure(this.grid, this.rows, width);
    const tall = Math.min(this.sizes.tall, Math.max(300, Math.round(innerHeight * (innerWidth < 600 ? 0.66 : 0.86))));
    this.scroller.style.height = `${tall + (this.sizes.full > width ? 14 : 2)}px`;
    this.space.style.width = `${this.sizes.full}px`;
    this.space.style.height = `${this.sizes.tall}px`;
    this.restyle();
  }

  paintSoon() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.scene = {
        data: this.data, grid: this.grid, rows: this.rows, stat: this.stat, theme: this.colours, sizes: this.sizes,
        width: this.scroller.clientWidth, height: this.scroller.clientHeight,
        left: this.scroller.scrollLeft, top: this.scroller.scrollTop,
      };
      paintGrid(this.base, this.scene);
      this.paintOver();
    });
  }

  paintOver() {
    if (!this.scene) return;
    const focused = this.held || this.root.ownerDocument.activeElement === this.scroller;
    paintOverlay(this.over, this.scene, { cursor: this.cursor, hover: this.hover, pins: this.pins, focused });
  }

  drawLegend(theme = this.colours.name) {
    const { data, stat } = this;
    const strip = el("div", { class: "ms-ramp" });
    strip.style.background = `linear-gradient(to right, ${data.ramps[theme].filter((_, i) => i % 8 === 0).join(",")})`;
    const ticks = el("div", { class: "ms-ticks" });
    for (const [place, value] of stat.ticks) {
      const tick = el("span", {}, tickText(stat, value));
      tick.style.left = `${100 * place}%`;
      ticks.append(tick);
    }
    this.legend.replaceChildren(el("b", { class: "ms-on-paper" }, this.label(stat)), el("div", {}, strip, ticks), el("span", { class: "ms-unit" }, stat.unit));
    this.legend.title = stat.meaning;
  }

  // ---- pointer and keys

  cellAt(event) {
    const { sizes } = this;
    const frame = this.base.getBoundingClientRect();
    const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
    if (x < sizes.gutter || y < sizes.head) return null;
    const col = Math.floor((x - sizes.gutter + this.scroller.scrollLeft) / sizes.cell);
    const line = Math.floor((y - sizes.head + this.scroller.scrollTop) / sizes.line);
    return col < this.grid.positions.length && line < this.rows.length ? { line, col } : null;
  }

  setHover(cell) {
    if (cell?.line === this.hover?.line && cell?.col === this.hover?.col) return;
    this.hover = cell;
    this.paintOver();
    if (!this.held) cell ? this.open(cell) : this.close(false);
  }

  click(event) {
    const cell = this.cellAt(event);
    if (!cell) return this.close(true);
    const again = this.held && cell.line === this.cursor.line && cell.col === this.cursor.col;
    this.moveTo(cell);
    if (event.pointerType !== "touch") this.pin(this.cellTop());
    this.held = !again;
    again ? this.close(true) : this.open(cell);
  }

  key(event) {
    const { line, col } = this.cursor;
    const last = { line: this.rows.length - 1, col: this.grid.positions.length - 1 };
    const far = event.ctrlKey || event.metaKey;
    const moves = {
      ArrowLeft: { line, col: col - 1 }, ArrowRight: { line, col: col + 1 }, ArrowUp: { line: line - 1, col },
      ArrowDown: { line: line + 1, col }, Home: { line: far ? 0 : line, col: 0 }, End: { line: far ? last.line : line, col: last.col },
      PageUp: { line: 0, col }, PageDown: { line: last.line, col },
    };
    if (moves[event.key]) this.moveTo(moves[event.key], true);
    else if (event.key === "Enter" || event.key === " ") this.pin(this.cellTop());
    else if (/^[1-9]$/.test(event.key) && !far) this.pin(topOf(this.grid, this.rows[line], col)[event.key - 1]?.token ?? -1);
    else if (event.key === "Escape") this.undo();
    else return;
    event.preventDefault();
  }

  undo() {
    this.close(true);
    if (this.pins.length) this.unpin(this.pins.at(-1));
  }

  moveTo({ line, col }, open = false) {
    const { sizes, scroller } = this;
    this.cursor = {
      line: Math.max(0, Math.min(line, this.rows.length - 1)), col: Math.max(0, Math.min(col, this.grid.positions.length - 1)),
    };
    const [x, y] = [this.cursor.col * sizes.cell, this.cursor.line * sizes.line];
    scroller.scrollLeft = Math.min(x, Math.max(scroller.scrollLeft, x + sizes.cell + sizes.gutter - scroller.clientWidth));
    scroller.scrollTop = Math.min(y, Math.max(scroller.scrollTop, y + sizes.line + sizes.head - scroller.clientHeight));
    this.hover = null;
    this.say();
    this.drawSide();
    this.paintSoon();
    if (open) this.open(this.cursor);
  }

  // ---- the box

  open(cell) {
    const row = this.rows[cell.line];
    const parts = detail(this.data, this.grid, row, cell.col, (token) => this.pin(token, cell.col)).filter(Boolean);
    const shut = el("button", { type: "button", class: "ms-shut", "aria-label": "close", onclick: () => this.close(true) }, "×");
    this.box.replaceChildren(shut, ...parts);
    this.box.classList.toggle("ms-held", this.held);
    this.box.hidden = false;
    this.placeBox(cell);
  }

  placeBox({ line, col }) {
    const { box, root, sizes, scroller } = this;
    box.style.left = box.style.top = "";
    if (innerWidth < 600) return this.clearSheet(line);
    const [home, frame] = [root.getBoundingClientRect(), this.base.getBoundingClientRect()];
    const x = frame.left + sizes.gutter + col * sizes.cell - scroller.scrollLeft;
    const y = frame.top + sizes.head + line * sizes.line - scroller.scrollTop;
    const { offsetWidth: wide, offsetHeight: high } = box;
    const fits = (edge) => x + sizes.cell + wide + 20 < Math.min(edge, innerWidth);
    const goRight = fits(frame.right) || (x - wide - 10 < home.left && fits(home.right)); // rather over the grid than over the curves
    const left = goRight ? x + sizes.cell + 10 : x - wide - 10;
    const top = Math.max(8, Math.min(y - 40, innerHeight - high - 8));
    box.style.left = `${Math.max(0, left - home.left)}px`;
    box.style.top = `${Math.max(0, top - home.top)}px`;
  }

  // On a phone the box is a sheet at the bottom: the page moves up so that the cell stays above it.
  clearSheet(line) {
    const under = this.base.getBoundingClientRect().top + this.sizes.head + (line + 2) * this.sizes.line - this.scroller.scrollTop;
    const over = under - this.box.getBoundingClientRect().top;
    if (over > 0) scrollBy(0, over);
  }

  close(release) {
    if (release) this.held = false;
    this.box.hidden = true;
    this.paintOver();
  }

  /** The cursor's cell for those who listen to the page. */
  say() {
    const { grid, data, cursor } = this;
    const row = this.rows[cursor.line];
    const name = (token) => (token >= 0 ? data.vocabulary[token].replaceAll("·", " ") : "unknown");
    const top = topOf(grid, row, cursor.col).slice(0, 3).map(({ token, logprob }) => `${name(token)} ${percent(Math.exp(logprob))}`);
    const value = written(this.stat, valueOf(grid, this.stat, row, cursor.col));
    const text = `layer ${grid.labels[row]}, position ${grid.positions[cursor.col]}, token ${name(grid.tokens[cursor.col])}. Top: ${top.join(", ")}. ${aboutName(grid)}: ${name(grid.targets[cursor.col])}. ${this.label(this.stat)}: ${value}.`;
    this.live.textContent = text;
    this.id ??= `ms-cell-${Math.random().toString(36).slice(2)}`;
    this.line.setAttribute("aria-rowindex", cursor.line + 2);
    this.line.replaceChildren(
      el("span", { role: "rowheader" }, `layer ${grid.labels[row]}`),
      el("span", { role: "gridcell", id: this.id, "aria-colindex": cursor.col + 2, "aria-selected": "true" }, text),
    );
    this.scroller.setAttribute("aria-activedescendant", this.id);
  }

  // ---- followed tokens

  cellTop() {
    return topOf(this.grid, this.rows[this.cursor.line], this.cursor.col)[0]?.token ?? -1;
  }

  pinAtStart() {
    const { grid, data } = this;
    const col = grid.positions.length - 1;
    this.restyle();
    for (const token of data.watched.length ? data.watched.slice(0, PINS) : [outputTop(data, grid, col)]) this.pin(token, col);
  }

  /** Follows a token at a position (the cursor's), or no longer if it was followed. */
  pin(token, col = this.cursor.col) {
    if (token < 0) return;
    const old = this.pins.find((pin) => pin.grid === this.grid && pin.col === col && pin.token === token);
    if (old) return this.unpin(old);
    if (this.pins.length === PINS) this.pins.shift();
    const slot = Array.from({ length: PINS }, (_, i) => i).find((i) => this.pins.every((pin) => pin.slot !== i));
    const name = this.data.vocabulary[token];
    this.pins.push({ grid: this.grid, col, token, slot, name, curve: followed(this.grid, col, token) });
    this.restyle();
  }

  unpin(pin) {
    this.pins = this.pins.filter((one) => one !== pin);
    this.restyle();
  }

  drawSide() {
    const { data, pins } = this;
    const chips = el("ul");
    for (const pin of pins) {
      const mark = svg("svg", { viewBox: "0 0 24 8", class: `ms-swatch ms-pin${pin.slot}` }, svg("path", { d: "M1 4H23", "stroke-dasharray": DASHES[pin.slot % DASHES.length] }));
      const where = `after ${pin.grid.positions[pin.col]} `;
      const lens = data.grids.length > 1 ? ` ${pin.grid.lens}` : "";
      const note = pin.curve.exact ? "" : ` · top ${pin.grid.k} only`;
      chips.append(el("li", {}, mark, tokenText(pin.name), el("span", { class: "ms-where" }, where, tokenText(data.vocabulary[pin.grid.tokens[pin.col]]), lens, note),
        el("button", { type: "button", class: "ms-shut", "aria-label": `no longer follow ${pin.name}`, onclick: () => this.unpin(pin) }, "×")));
    }
    const layer = this.cursor ? this.grid.layers[this.rows[this.cursor.line]] : -1;
    const body = pins.length
      ? [chips, curves(data, pins, "ranks", layer), curves(data, pins, "logprobs", layer)]
      : [el("p", { class: "ms-empty" }, "Click a cell, or a token in its list, to follow that token’s rank and log-probability through the layers.")];
    this.side.replaceChildren(el("h2", {}, "Followed tokens"), ...body);
  }

  toPaper() {
    this.drawLegend("light");
    this.paper.replaceChildren(paperTables(this.data, this.grid, this.rows, this.stat));
  }
}
