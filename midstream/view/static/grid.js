// MidstreamGrid(element, data, on): the grid of readings. Rows are layers, the output on top; columns are positions.

class MidstreamGrid {
  /** Puts the grid into `element`; `data` comes from unpack(). `on`: chosen(row, col), pinned(pin), changed(). */
  constructor(element, data, on = {}) {
    Object.assign(this, { root: element, data, on, grid: data.grids[0], every: 1, subs: false, hover: null, held: false, theme: "" });
    this.ended = new AbortController();
    this.wanted = data.start;
    this.build();
    this.offer();
    this.setRows();
    this.cursor = { line: 0, col: this.grid.positions.length - 1 };
    this.restyle();
    this.followed.start(this.grid);
    this.say(false);
    this.observer = new ResizeObserver(() => this.lay());
    this.observer.observe(this.root);
    const { signal } = this.ended;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.restyle(), { signal });
    addEventListener("beforeprint", () => this.toPaper(), { signal });
    addEventListener("afterprint", () => {
      this.paper.replaceChildren();
      this.drawLegend();
    }, { signal });
    this.lay();
  }

  /** Takes the grid off the page. */
  remove() {
    this.ended.abort();
    this.observer.disconnect();
    cancelAnimationFrame(this.waiting);
    this.root.replaceChildren();
  }

  // ---- the parts on the page

  build() {
    this.base = el("canvas", { "aria-hidden": "true" });
    this.over = el("canvas", { "aria-hidden": "true" });
    this.window = el("div", { class: "ms-window" }, this.base, this.over);
    this.space = el("div", { class: "ms-space" }, this.window);
    this.line = el("div", { role: "row", class: "ms-unseen" });
    this.scroller = el("div", { class: "ms-scroller", role: "grid", tabindex: "0" }, this.space, this.line);
    this.box = el("aside", { class: "ms-box", hidden: true, "aria-label": "this cell" });
    this.live = el("p", { class: "ms-unseen", "aria-live": "polite" });
    this.followed = new Followed(this.data, () => {
      this.restyle();
      this.on.changed?.();
    }, (pin) => this.on.pinned?.(pin));
    this.paper = el("div", {});
    this.title = el("h2", { class: "ms-title" });
    const stage = el("div", { class: "ms-stage" }, this.scroller, this.followed.side);
    this.controls = new Controls(this.data, {
      lens: (grid) => this.setGrid(grid), statistic: (name) => this.setStatistic(name),
      every: (every) => this.change({ every }), subs: (subs) => this.change({ subs }), theme: () => this.switchTheme(),
    });
    const hint = el("p", { class: "ms-hint" });
    this.boxed = document.createTextNode("");
    hint.append(el("span", { class: "ms-boxed" }, "boxed"), this.boxed);
    const keys = [["←↑↓→", "move"], ["Enter", "follow"], ["1–9", "follow the n-th"], ["D", "where decided"], ["Esc", "undo"]];
    if (this.data.grids.length > 1) keys.push(["L", "next lens"]);
    for (const [key, does] of keys) {
      hint.append(el("span", { class: "ms-key" }, el("kbd", {}, key), ` ${does}`));
    }
    this.root.classList.add("ms");
    this.root.replaceChildren(...this.controls.parts, this.title, stage, hint, this.box, this.live, this.paper);
    this.listen();
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
    const kept = new Set(layers.filter((_, i) => (layers.length - 1 - i) % this.every === 0)); // as --every counts
    const main = curveRows(grid);
    const shown = (row) => kept.has(grid.layers[row]) && (this.subs || main.includes(row));
    this.rows = grid.labels.map((_, row) => row).filter(shown).reverse();
    this.scroller.setAttribute("aria-rowcount", this.rows.length + 1);
    this.scroller.setAttribute("aria-colcount", grid.positions.length + 1);
    if (!this.cursor) return;
    this.cursor.line = Math.min(this.cursor.line, this.rows.length - 1);
    this.cursor.col = Math.min(this.cursor.col, grid.positions.length - 1);
  }

  /** More cells have come into `data`. */
  arrived() {
    this.offer();
    this.drawLegend();
    this.followed.again();
    this.drawSide();
    this.say(this.live.textContent !== "");
    this.paintSoon();
  }

  /** Shows the statistic that was asked for where this lens has it, else the lens's own; says which lens it is. */
  offer() {
    const { data, grid } = this;
    const named = (name) => data.statistics.find((stat) => stat.name === name);
    this.stat = has(grid, named(this.wanted)) ? named(this.wanted) : named(grid.start);
    const about = aboutName(grid);
    this.boxed.data = ` the top token is the ${about}${grid.offset === 0 ? "" : " that really came"}`;
    this.title.replaceChildren("Each layer’s ", el("b", {}, about), ", by the ", el("b", {}, grid.lens), " lens");
    this.scroller.setAttribute("aria-label", `${grid.lens} lens, ${about}: top token by layer and position`);
    this.controls.show(grid, this.stat, this.every, this.subs);
  }

  setStatistic(name) {
    this.wanted = name;
    this.offer();
    this.drawLegend();
    this.paintSoon();
    if (this.held) this.open(this.cursor);
    this.on.changed?.();
  }

  /** Another lens, with the same cell, the same part of the text and, where it has it, the same statistic. */
  setGrid(grid) {
    if (grid === this.grid) return;
    const [old, row, held] = [this.grid, this.rows[this.cursor.line], this.held];
    const [left, top] = [this.scroller.scrollLeft, this.scroller.scrollTop];
    this.change({ grid });
    this.cursor = {
      line: nearest(this.rows, (other) => 10 * Math.abs(grid.layers[other] - old.layers[row]) + (grid.sites[other] !== old.sites[row])),
      col: nearest(grid.positions, (position) => Math.abs(position - old.positions[this.cursor.col])),
    };
    this.scroller.scrollTo(left, top);
    this.say();
    this.drawSide();
    this.held = held;
    if (held) this.open(this.cursor);
  }

  nextLens(step) {
    const { grids } = this.data;
    this.setGrid(grids[(grids.indexOf(this.grid) + step + grids.length) % grids.length]);
  }

  /** Takes over what differs: grid, every, subs. */
  change(choice) {
    Object.assign(this, choice);
    this.close(true);
    this.offer();
    this.hover = null;
    this.setRows();
    this.lay();
    this.on.changed?.();
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
    for (const pin of this.followed.pins) pin.colour = colour(`pin${pin.slot}`);
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
    if (this.waiting || !this.sizes) return; // not on the page yet, or where nobody sees it
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
    const focused = this.held || this.root.getRootNode().activeElement === this.scroller;
    paintOverlay(this.over, this.scene, { cursor: this.cursor, hover: this.hover, pins: this.followed.pins, focused });
  }

  drawLegend(theme = this.colours.name) {
    this.controls.drawLegend(this.grid, this.stat, theme);
  }

  drawSide() {
    this.followed.draw(this.cursor ? this.grid.layers[this.rows[this.cursor.line]] : -1);
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
    if (this.held) this.on.chosen?.(this.rows[cell.line], cell.col);
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
    else if (event.key === "Enter" || event.key === " ") {
      this.pin(this.cellTop());
      this.on.chosen?.(this.rows[line], col);
    }
    else if (/^[1-9]$/.test(event.key) && !far) this.pin(topOf(this.grid, this.rows[line], col)[event.key - 1]?.token ?? -1);
    else if (event.key.toLowerCase() === "l" && !far && this.data.grids.length > 1) this.nextLens(event.shiftKey ? -1 : 1);
    else if (event.key.toLowerCase() === "d" && !far) this.toDecided(col);
    else if (event.key === "Escape") this.undo();
    else return;
    event.preventDefault();
  }

  /** Moves the cursor to the layer from which on the output's top token leads. */
  toDecided(col) {
    const row = decidedRow(this.grid, col);
    if (row < 0) return;
    this.held = true;
    this.moveTo({ line: nearest(this.rows, (other) => Math.abs(other - row)), col }, true);
    this.on.changed?.();
  }

  undo() {
    this.close(true);
    const last = this.followed.pins.at(-1);
    if (last) this.followed.drop(last);
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
    const parts = detail(this.data, this.grid, row, cell.col, {
      stat: this.stat, follow: (token) => this.pin(token, cell.col), show: (grid) => this.setGrid(grid),
      decided: () => this.toDecided(cell.col),
    }).filter(Boolean);
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

  /** The cursor's cell for those who listen to the page; aloud when it is they who moved. */
  say(aloud = true) {
    const { grid, data, cursor } = this;
    const row = this.rows[cursor.line];
    const name = (token) => (token >= 0 ? data.vocabulary[token].replaceAll("·", " ") : "unknown");
    const top = topOf(grid, row, cursor.col).slice(0, 3).map(({ token, logprob }) => `${name(token)} ${percent(Math.exp(logprob))}`);
    const value = written(this.stat, valueOf(grid, this.stat, row, cursor.col));
    const lens = data.grids.length > 1 ? `${grid.lens} lens, ` : "";
    const text = `${lens}layer ${grid.labels[row]}, position ${grid.positions[cursor.col]}, token ${name(grid.tokens[cursor.col])}. Top: ${top.join(", ")}. ${aboutName(grid)}: ${name(grid.targets[cursor.col])}. ${labelOf(this.stat, grid)}: ${value}.`;
    if (aloud && this.live.textContent !== text) this.live.textContent = text;
    this.id ??= `ms-cell-${Math.random().toString(36).slice(2)}`;
    this.line.setAttribute("aria-rowindex", cursor.line + 2);
    this.line.replaceChildren(
      el("span", { role: "rowheader" }, `layer ${grid.labels[row]}`),
      el("span", { role: "gridcell", id: this.id, "aria-colindex": cursor.col + 2, "aria-selected": "true" }, text),
    );
    this.scroller.setAttribute("aria-activedescendant", this.id);
  }

  cellTop() {
    return topOf(this.grid, this.rows[this.cursor.line], this.cursor.col)[0]?.token ?? -1;
  }

  /** Follows a token of this lens at a position (the cursor's), or no longer if it was followed. */
  pin(token, col = this.cursor.col) {
    this.followed.toggle(this.grid, col, token);
  }

  toPaper() {
    this.drawLegend("light");
    this.paper.replaceChildren(paperTables(this.data, this.grid, this.rows, this.stat));
  }
}

/** The index of the entry that `distance` is smallest for. */
function nearest(entries, distance) {
  return entries.reduce((best, entry, i) => (distance(entry) < distance(entries[best]) ? i : best), 0);
}
