// The box with everything about one cell, the curves of followed tokens, and the tables for paper.

/** An element; text children are text, never markup. */
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function tokenText(text) {
  const shown = el("bdi", { class: "ms-token" });
  if (text.startsWith("·") && text.length > 1) shown.append(el("span", { class: "ms-blank" }, "·"), text.slice(1));
  else shown.append(text);
  return shown;
}

function aboutName(grid) {
  if (grid.offset === 1) return "next token";
  return grid.offset === 0 ? "input token" : `token ${grid.offset > 0 ? "+" : "−"}${Math.abs(grid.offset)}`;
}

/** What a statistic is called for the lens of a grid. */
function labelOf(stat, grid) {
  const about = aboutName(grid);
  const label = stat.label.replace("next token", about);
  return grid.offset > 1 ? label.replace("output's top token", `output's top for ${about}`) : label;
}

/** The model's own first choice for what this column is about: the top of the last layer, -1 where it was not read. */
function outputTop(data, grid, col) {
  const position = grid.positions[col] + grid.offset - 1;
  for (const other of [grid, ...data.grids]) {
    const row = other.layers.findLastIndex((layer, i) => layer === data.layers && other.sites[i] === "resid_post");
    const at = other.positions.indexOf(position);
    if (other.offset === 1 && row >= 0 && at >= 0) return other.topIds[row * other.positions.length + at];
  }
  return -1;
}

/** The contents of the box for a cell; `on`: the statistic `stat`, what to call when a token or a lens is chosen. */
function detail(data, grid, row, col, { stat, follow, show, decided }) {
  const top = topOf(grid, row, col);
  const choose = (token, label) =>
    el("button", { type: "button", class: "ms-follow", title: "follow this token", onclick: () => follow(token) }, label);
  const list = el("ol", { class: "ms-top" });
  for (const { token, logprob } of top) {
    const chance = Math.exp(logprob);
    const bar = el("span", { class: "ms-bar" });
    bar.style.width = `${(100 * chance || 0).toFixed(2)}%`;
    const right = token === grid.targets[col];
    list.append(
      el("li", { class: right ? "ms-right" : "" },
        choose(token, tokenText(data.vocabulary[token])),
        el("span", { class: "ms-track" }, bar),
        el("span", { class: "ms-number" }, percent(chance)),
        el("span", { class: "ms-number ms-soft" }, nats(logprob)),
      ),
    );
  }
  const before = el("p", { class: "ms-context" });
  for (let at = Math.max(0, col - 3); at <= col; at++) before.append(tokenText(data.vocabulary[grid.tokens[at]]));
  return [
    el("header", {}, el("b", {}, `layer ${grid.labels[row]}`), el("span", {}, `position ${grid.positions[col]}`)),
    before, list, beside(data, grid, row, col, stat, show), named(data, grid, row, col, choose), spread(data, grid, row, col, choose), where(grid, col, decided),
  ];
}

/** Every lens at this place: its top token, that token's probability, and the statistic that colours the grid. */
function beside(data, grid, row, col, stat, show) {
  if (data.grids.length < 2) return null;
  const body = el("tbody");
  const percents = stat.unit === "%" ? 100 : 1;
  for (const other of data.grids) {
    const at = other.labels.findIndex((_, i) => other.layers[i] === grid.layers[row] && other.sites[i] === grid.sites[row]);
    const place = other.positions.indexOf(grid.positions[col]);
    const top = at >= 0 && place >= 0 ? topOf(other, at, place)[0] : undefined;
    if (!top) continue;
    const name = el("button", { type: "button", class: "ms-follow", title: `show the ${other.lens} lens`, onclick: () => show(other) }, other.lens);
    const right = top.token === other.targets[place];
    body.append(
      el("tr", { "aria-current": other === grid && "true" }, el("th", { scope: "row" }, name),
        el("td", { class: right ? "ms-right" : "" }, tokenText(data.vocabulary[top.token])),
        el("td", {}, percent(Math.exp(top.logprob), "")), el("td", {}, written({ ...stat, unit: "" }, percents * valueOf(other, stat, at, place)))),
    );
  }
  const word = stat.unit || (stat.column.endsWith("rank") ? "rank" : "logit");
  const head = el("tr", {}, ...["lens", "top token", "%", word].map((text) => el("th", { scope: "col" }, text)));
  const caption = el("caption", {}, `${word}: ${labelOf(stat, grid)}`);
  return el("table", { class: "ms-beside" }, caption, el("thead", {}, head), body);
}

/** What the numbers beside a cell's own are of: the text unedited, or the first of two readings. */
function lessName(data) {
  return data.less ? "first" : "unedited";
}

function named(data, grid, row, col, choose) {
  const cell = row * grid.positions.length + col;
  const at = (name) => (grid.columns[name] ? grid.columns[name][cell] : NaN);
  const body = el("tbody");
  const add = (label, token, rank, logprob, lse = at("lse")) => {
    if (!Number.isFinite(rank) && !Number.isFinite(logprob)) return;
    const shown = token >= 0 ? choose(token, tokenText(data.vocabulary[token])) : "";
    const logit = logprob + lse;
    body.append(
      el("tr", {}, el("th", { scope: "row" }, el("div", {}, el("span", {}, label), shown)),
        ...[whole(rank), nats(logit), nats(logprob), percent(Math.exp(logprob), "")].map((text) => el("td", {}, text))),
    );
  };
  add(aboutName(grid), grid.targets[col], at("rank"), at("logprob"));
  add(lessName(data), -1, at("unedited_rank"), at("unedited_logprob"), NaN); // its logits' sum is not kept
  add("output’s top", outputTop(data, grid, col), at("final_top1_rank"), at("final_top1_logprob"));
  if (grid.offset !== 0) add("input", grid.tokens[col], at("input_rank"), at("input_logprob"));
  for (const token of data.watched) {
    const { ranks, logprobs } = followed(grid, col, token);
    add("watched", token, ranks[row], logprobs[row]);
  }
  const head = el("tr", {}, el("td"), ...["rank", "logit", "nats", "%"].map((text) => el("th", { scope: "col" }, text)));
  return body.children.length ? el("table", { class: "ms-named" }, el("thead", {}, head), body) : null;
}

function spread(data, grid, row, col, choose) {
  const list = el("dl");
  const cell = row * grid.positions.length + col;
  const add = (label, shown) => list.append(el("div", {}, el("dt", {}, label), el("dd", {}, shown)));
  const top = grid.uneditedTop[cell];
  if (top >= 0) add(`top token, ${lessName(data)}`, choose(top, tokenText(data.vocabulary[top])));
  for (const name of ["entropy", "logprob_change", "kl_unedited", "kl_final_lens", "kl_lens_final", "kl_input_lens"]) {
    const stat = data.statistics.find((one) => one.name === name);
    const value = valueOf(grid, stat, row, col);
    if (Number.isFinite(value)) add(labelOf(stat, grid), written(stat, value));
    const unedited = grid.columns[`unedited_${name}`]?.[cell];
    if (Number.isFinite(unedited)) add(`${stat.label}, ${lessName(data)}`, written(stat, unedited));
  }
  return list.children.length ? list : null;
}

/** Where the output's top token takes the lead that it keeps, and a way there. */
function where(grid, col, decided) {
  const row = decidedRow(grid, col);
  if (row < 0) return null;
  const go = el("button", { type: "button", class: "ms-follow", title: "go there", onclick: decided }, `layer ${grid.labels[row]}`);
  return el("dl", {}, el("div", {}, el("dt", {}, "output’s top leads from"), el("dd", {}, go)));
}

/** The lowest row from which on, up to the output, the output's top token is the best one; -1 where it never is. */
function decidedRow(grid, col) {
  const ranks = grid.columns.final_top1_rank;
  let found = -1;
  if (!ranks) return found;
  for (const row of curveRows(grid).reverse()) {
    if (ranks[row * grid.positions.length + col] !== 1) break;
    found = row;
  }
  return found;
}

const DASHES = ["", "7 3", "2 3", "9 3 2 3"];
const FRAME = { width: 360, height: 196, left: 46, right: 10, top: 12, bottom: 24 };

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** A chart of all pins over the layers; kind is "ranks" (logarithmic, 1 on top) or "logprobs". */
function curves(data, pins, kind, layer) {
  const { width, height, left, right, top, bottom } = FRAME;
  const all = pins.flatMap((pin) => pin.curve[kind].filter(Number.isFinite));
  const ticks = kind === "ranks" ? rankTicks(all) : logprobTicks(all);
  const bend = kind === "ranks" ? Math.log10 : (v) => Math.log1p(-v); // what lies near 0 matters most
  const [best, worst] = [bend(ticks[0]), bend(ticks.at(-1))];
  const x = (l) => left + ((width - left - right) * l) / Math.max(1, data.layers);
  const y = (v) => top + ((height - top - bottom) * (bend(v) - best)) / (worst - best);
  const label = kind === "ranks" ? "rank" : "log-probability, nats";
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "ms-curves", role: "img" });
  chart.setAttribute("aria-label", `${label} over layers: ${pins.map((pin) => spokenCurve(pin, kind)).join("; ")}`);
  for (const tick of ticks) {
    chart.append(svg("line", { class: "ms-rule", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
    const text = kind === "ranks" ? whole(tick) : String(tick).replace("-", "−");
    chart.append(svg("text", { x: left - 7, y: y(tick), class: "ms-tick ms-end" }, text));
  }
  const step = Math.max(1, Math.ceil(data.layers / 6));
  for (let l = 0; l <= data.layers; l += step) {
    chart.append(svg("text", { x: x(l), y: height - 9, class: "ms-tick ms-middle" }, String(l)));
  }
  if (layer >= 0) chart.append(svg("line", { class: "ms-here", x1: x(layer), x2: x(layer), y1: top - 4, y2: height - bottom }));
  for (const pin of pins) chart.append(curve(pin, kind, x, y));
  return el("figure", {}, el("figcaption", {}, label), chart);
}

function curve(pin, kind, x, y) {
  const rows = curveRows(pin.grid);
  let [path, drawing] = ["", false];
  const group = svg("g", { class: `ms-pin ms-pin${pin.slot}` });
  for (const row of rows) {
    const value = pin.curve[kind][row];
    if (!Number.isFinite(value)) {
      drawing = false;
      continue;
    }
    const [px, py] = [x(pin.grid.layers[row]).toFixed(1), y(value).toFixed(1)];
    path += `${drawing ? "L" : "M"}${px} ${py}`;
    drawing = true;
    group.append(svg("circle", { cx: px, cy: py, r: 1.9 }));
  }
  group.prepend(svg("path", { d: path || "M0 0", "stroke-dasharray": DASHES[pin.slot % DASHES.length] }));
  return group;
}

/** The rows that a curve runs through: the stream after each block where it was read, else the first site there is. */
function curveRows(grid) {
  const main = grid.sites.includes("resid_post") ? "resid_post" : grid.sites[0];
  return grid.labels.map((_, row) => row).filter((row) => grid.sites[row] === main);
}

/** The ranks once more, as a strip a pin: where a token is near the top stands out over many pins. */
function ranks(data, pins) {
  const { width, left, right } = FRAME;
  const high = 13;
  const chart = svg("svg", { viewBox: `0 0 ${width} ${pins.length * (high + 2)}`, class: "ms-heat", role: "img" });
  chart.setAttribute("aria-label", `ranks of ${pins.map((pin) => pin.name).join(", ")}`);
  const worst = Math.log10(Math.max(10, ...pins.flatMap((pin) => pin.curve.ranks.filter(Number.isFinite))));
  const step = (width - left - right) / (data.layers + 1);
  pins.forEach((pin, line) => {
    const y = line * (high + 2);
    chart.append(svg("rect", { x: left - 16, y: y + 3, width: 8, height: high - 6, class: `ms-chip ms-pin${pin.slot}` }));
    for (const row of curveRows(pin.grid)) {
      const rank = pin.curve.ranks[row];
      if (!Number.isFinite(rank)) continue;
      const cell = svg("rect", { x: left + step * pin.grid.layers[row], y, width: Math.max(1, step - 0.5), height: high, class: "ms-rank" });
      cell.style.setProperty("--ms-near", 1 - Math.log10(rank) / worst);
      chart.append(cell);
    }
  });
  return el("figure", {}, el("figcaption", {}, "rank, strong where it is near 1"), chart);
}

function rankTicks(values) {
  const top = Math.max(1, Math.ceil(Math.log10(Math.max(10, ...values)) - 1e-9));
  return Array.from({ length: top + 1 }, (_, i) => 10 ** i);
}

function logprobTicks(values) {
  const low = Math.min(-1, ...values);
  const steps = [0, -1, -3, -10, -30, -100, -300, -1000, -3000, -10000];
  return steps.slice(0, steps.findIndex((step) => step <= low) + 1 || steps.length);
}

function spokenCurve(pin, kind) {
  const rows = curveRows(pin.grid).filter((row) => Number.isFinite(pin.curve[kind][row]));
  const say = kind === "ranks" ? whole : nats;
  return `${pin.name}: ${rows.map((row) => `${say(pin.curve[kind][row])} at ${pin.grid.labels[row]}`).join(", ") || "unknown"}`;
}

/** Real tables for paper, up to nine positions each, in light colours. */
function paperTables(data, grid, rows, stat) {
  const many = Math.ceil(grid.positions.length / Math.ceil(grid.positions.length / 9));
  const made = el("div", { class: "ms-paper" });
  for (let start = 0; start < grid.positions.length; start += many) {
    const columns = grid.positions.map((_, col) => col).slice(start, start + many);
    const word = (token) => (token >= 0 ? tokenText(data.vocabulary[token]) : "–");
    const head = el("tr", {}, el("th", {}, "layer"), ...columns.map((col) => el("th", {}, `${grid.positions[col]} `, word(grid.tokens[col]))));
    const body = el("tbody");
    for (const row of rows) {
      const line = el("tr", {}, el("th", {}, grid.labels[row]));
      for (const col of columns) {
        const token = grid.topIds[row * grid.positions.length + col];
        const cell = el("td", { class: token >= 0 && token === grid.targets[col] ? "ms-right" : "" }, word(token));
        const colours = fillOf(data, grid, stat, row, col, "light");
        if (colours) Object.assign(cell.style, { background: colours.fill, color: colours.ink });
        line.append(cell);
      }
      body.append(line);
    }
    const came = el("tr", {}, el("th", {}, aboutName(grid)), ...columns.map((col) => el("th", {}, word(grid.targets[col]))));
    made.append(el("table", {}, el("thead", {}, head, came), body));
  }
  return made;
}
