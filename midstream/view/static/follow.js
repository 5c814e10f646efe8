// The tokens that are followed over the layers, each through one lens at one position.

const PINS = 8;

class Followed {
  /** `changed` is called after every change: colours and overlay depend on what is followed; `pinned` with a new pin. */
  constructor(data, changed, pinned) {
    Object.assign(this, { data, changed, pinned, pins: [], begun: null });
    this.side = el("section", { class: "ms-side", "aria-label": "followed tokens" });
  }

  /** At first: the watched tokens, else the output's own choice, at the last position; in each lens about that token. */
  start(grid) {
    const { data } = this;
    const col = grid.positions.length - 1;
    const tokens = data.watched.length ? data.watched : [outputTop(data, grid, col)];
    for (const token of tokens) {
      for (const other of data.grids.filter((one) => one.offset === grid.offset)) {
        const at = other.positions.indexOf(grid.positions[col]);
        if (at >= 0 && this.pins.length < PINS) this.toggle(other, at, token);
      }
    }
    this.begun = this.pins;
  }

  /** Whether nobody has chosen others yet. */
  get asAtFirst() {
    return this.pins === this.begun;
  }

  /** Follows a token, or no longer if it was followed. */
  toggle(grid, col, token) {
    if (!(token >= 0)) return;
    const old = this.pins.find((pin) => pin.grid === grid && pin.col === col && pin.token === token);
    if (old) return this.drop(old);
    const kept = this.pins.slice(this.pins.length === PINS ? 1 : 0);
    const slot = Array.from({ length: PINS }, (_, i) => i).find((i) => kept.every((pin) => pin.slot !== i));
    const pin = { grid, col, token, slot, name: this.data.vocabulary[token], curve: followed(grid, col, token) };
    this.pins = [...kept, pin];
    this.changed();
    this.pinned(pin);
  }

  /** Curves from cells that have come since. */
  again() {
    for (const pin of this.pins) if (!pin.curve.exact) pin.curve = followed(pin.grid, pin.col, pin.token);
  }

  drop(pin) {
    this.pins = this.pins.filter((one) => one !== pin);
    this.changed();
  }

  /** `layer`: where the cursor stands, marked in the curves. */
  draw(layer) {
    const { data, pins } = this;
    const chips = el("ul");
    for (const pin of pins) {
      const mark = svg("svg", { viewBox: "0 0 24 8", class: `ms-swatch ms-pin${pin.slot}` }, svg("path", { d: "M1 4H23", "stroke-dasharray": DASHES[pin.slot % DASHES.length] }));
      const lens = data.grids.length > 1 ? el("span", { class: "ms-lens" }, pin.grid.lens) : null;
      const note = pin.curve.exact ? "" : ` · top ${pin.grid.k} only`;
      const where = el("span", { class: "ms-where" }, `after ${pin.grid.positions[pin.col]} `, tokenText(data.vocabulary[pin.grid.tokens[pin.col]]), note);
      const stop = el("button", { type: "button", class: "ms-shut", "aria-label": `no longer follow ${pin.name}`, onclick: () => this.drop(pin) }, "×");
      chips.append(el("li", {}, ...[mark, tokenText(pin.name), lens, where, stop].filter(Boolean)));
    }
    const body = pins.length
      ? [chips, curves(data, pins, "ranks", layer), ranks(data, pins), curves(data, pins, "logprobs", layer)]
      : [el("p", { class: "ms-empty" }, "Click a cell, or a token in its list, to follow that token’s rank and log-probability through the layers.")];
    this.side.replaceChildren(el("h2", {}, "Followed tokens"), ...body);
  }
}
