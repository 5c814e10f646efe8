// Unpacks what view/pack.py packed, and answers questions about one cell. Undefined is NaN.

/** base64 of the packed block -> the header object, its arrays decoded when first asked for. */
async function unpack(base64) {
  const packed = Uint8Array.from(atob(base64.trim()), (char) => char.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const data = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const blob = bytes.subarray(4 + length);
  for (const grid of data.grids) {
    for (const name of ["topIds", "topLogprobs", "trackRanks", "trackLogprobs", "uneditedTop"]) lazy(grid, name, blob, grid[name]);
    for (const name of Object.keys(grid.columns)) lazy(grid.columns, name, blob, grid.columns[name]);
  }
  return data;
}

function lazy(target, name, blob, place) {
  Object.defineProperty(target, name, {
    configurable: true,
    enumerable: true,
    get() {
      const value = decode(blob, place);
      Object.defineProperty(target, name, { value, enumerable: true });
      return value;
    },
  });
}

// Byte planes -> numbers: low + step * whole; all bits set means undefined.
function decode(blob, { at, bytes, count, low, step }) {
  const values = new Float64Array(count);
  const undefinedWhole = 2 ** (8 * bytes) - 1;
  for (let i = 0; i < count; i++) {
    let whole = 0;
    for (let plane = bytes - 1; plane >= 0; plane--) whole = whole * 256 + blob[at + plane * count + i];
    values[i] = whole === undefinedWhole ? NaN : low + step * whole;
  }
  return values;
}

/** The value of a statistic in row `row`, column `col` of a grid. */
function valueOf(grid, stat, row, col) {
  const cell = row * grid.positions.length + col;
  const source = stat.column === "top1" ? grid.topLogprobs : grid.columns[stat.column];
  if (!source) return NaN;
  const value = source[cell];
  if (stat.form === "exp") return Math.exp(value);
  if (stat.form === "logit") return grid.columns.lse ? value + grid.columns.lse[cell] : NaN;
  if (stat.form === "change") return value - (grid.columns[`unedited_${stat.column}`]?.[cell] ?? NaN);
  return value;
}

/** Whether the lens of a grid has a statistic at all. */
function has(grid, { column, form }) {
  if (form === "logit" && !grid.columns.lse) return false;
  if (form === "change" && !grid.columns[`unedited_${column}`]) return false;
  return column === "top1" ? grid.topLogprobs.some(Number.isFinite) : column in grid.columns;
}

/** Where a value lies on its colour ramp: 0 faint to 1 strong. */
function placeOf(stat, value) {
  const near = (v) => Math.sign(v) * Math.log1p(Math.abs(v));
  const bend = { linear: (v) => v, log: Math.log, log1p: near }[stat.scale];
  const held = Math.min(stat.high, Math.max(stat.low, value));
  const inside = (bend(held) - bend(stat.low)) / (bend(stat.high) - bend(stat.low));
  return stat.good === "low" ? 1 - inside : inside;
}

/** {ramp, inks}: the colours of a statistic and of text on them, in a theme (light or dark). */
function coloursOf(data, stat, theme) {
  return data.colours[stat.form === "change" ? "change" : "value"][theme];
}

/** The colour of a cell and of the text on it, null where the statistic is undefined. */
function fillOf(data, grid, stat, row, col, theme) {
  const { ramp, inks } = coloursOf(data, stat, theme);
  const place = placeOf(stat, valueOf(grid, stat, row, col));
  const shade = Math.round(place * (ramp.length - 1));
  return Number.isNaN(place) ? null : { fill: ramp[shade], ink: inks[shade] };
}

/** [{token, logprob}] of a cell, best first; tokens are indices into the vocabulary. */
function topOf(grid, row, col) {
  const cells = grid.labels.length * grid.positions.length;
  const cell = row * grid.positions.length + col;
  const top = [];
  for (let i = 0; i < grid.k; i++) {
    const token = grid.topIds[i * cells + cell];
    if (token >= 0) top.push({ token, logprob: grid.topLogprobs[i * cells + cell] });
  }
  return top;
}

/** The curve of one token at one position: rank and log-probability in each grid row, and whether it is complete. */
function followed(grid, col, token) {
  const rows = grid.labels.length;
  const track = grid.trackPlaces.findIndex(([place, id]) => place === col && id === token);
  if (track >= 0) {
    const part = (all) => Array.from(all.subarray(track * rows, (track + 1) * rows));
    return { ranks: part(grid.trackRanks), logprobs: part(grid.trackLogprobs), exact: true };
  }
  const ranks = new Array(rows).fill(NaN);
  const logprobs = new Array(rows).fill(NaN);
  for (let row = 0; row < rows; row++) {
    const at = topOf(grid, row, col).findIndex((entry) => entry.token === token);
    if (at < 0) continue;
    ranks[row] = at + 1;
    logprobs[row] = topOf(grid, row, col)[at].logprob;
  }
  return { ranks, logprobs, exact: false };
}

function written(stat, value) {
  if (!Number.isFinite(value)) return "–";
  if (stat.unit === "%") return percent(value);
  if (stat.column.endsWith("rank")) return whole(value);
  return signOf(stat, value) + nats(value) + (stat.unit ? ` ${stat.unit}` : "");
}

function signOf(stat, value) {
  return stat.form === "change" && Number(value.toFixed(2)) > 0 ? "+" : "";
}

function percent(value, sign = " %") {
  return Number.isFinite(value) ? `${(100 * value).toFixed(value < 0.9995 ? 1 : 0)}${sign}` : "–";
}

/** A value beside the legend: short, the unit stands elsewhere. */
function tickText(stat, value) {
  if (stat.column.endsWith("rank")) return whole(value);
  return signOf(stat, value) + String(Number((stat.unit === "%" ? 100 * value : value).toFixed(2))).replace("-", "−");
}

function nats(value) {
  if (!Number.isFinite(value)) return "–";
  const text = value.toFixed(2);
  return text === "-0.00" ? "0.00" : text.replace("-", "−");
}

function whole(value) {
  return Number.isFinite(value) ? Math.round(value).toLocaleString("en-US") : "–";
}
