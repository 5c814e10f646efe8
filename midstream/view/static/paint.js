// Paints the visible part of the grid on a canvas. Knows sizes and colours, no events.

/** Sizes in CSS pixels for a grid shown in `width` pixels. */
function measure(grid, rows, width) {
  const sub = rows.some((row) => grid.sites[row] !== "resid_post");
  const gutter = sub ? 74 : 48;
  const fair = Math.floor((width - gutter) / grid.positions.length);
  const cell = fair >= 60 ? Math.min(132, fair) : width < 500 ? 66 : 76;
  return { gutter, head: 52, cell, line: 21, full: gutter + cell * grid.positions.length, tall: 52 + 21 * rows.length };
}

/** Gives a canvas its size in device pixels and returns a context that draws in CSS pixels. */
function prepared(canvas, width, height) {
  const dense = Math.min(window.devicePixelRatio || 1, 3);
  const [w, h] = [Math.round(width * dense), Math.round(height * dense)];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(dense, 0, 0, dense, 0, 0);
  context.clearRect(0, 0, width, height);
  context.textBaseline = "middle";
  context.direction = "ltr";
  return context;
}

/** The ends (first, past the last) of the columns and lines that a view of `size` pixels shows. */
function visibleRange(size, scroll, fixed, step, count) {
  const first = Math.max(0, Math.floor(scroll / step));
  return [first, Math.min(count, Math.ceil((scroll + size - fixed) / step))];
}

/** scene: {data, grid, rows, stat, theme, sizes, width, height, left, top}; rows are grid rows, the output first. */
function paintGrid(canvas, scene) {
  const { grid, rows, sizes, width, height, left, top } = scene;
  const context = prepared(canvas, width, height);
  const columns = visibleRange(width, left, sizes.gutter, sizes.cell, grid.positions.length);
  const lines = visibleRange(height, top, sizes.head, sizes.line, rows.length);
  context.save();
  context.beginPath();
  context.rect(sizes.gutter, sizes.head, width, height);
  context.clip();
  for (let line = lines[0]; line < lines[1]; line++) {
    for (let col = columns[0]; col < columns[1]; col++) paintCell(context, scene, line, col);
  }
  context.restore();
  paintLabels(context, scene, lines);
  paintHead(context, scene, columns);
}

function cellBox({ sizes, left, top }, line, col) {
  return [sizes.gutter + col * sizes.cell - left, sizes.head + line * sizes.line - top, sizes.cell, sizes.line];
}

function paintCell(context, scene, line, col) {
  const { data, grid, rows, stat, theme } = scene;
  const [x, y, w, h] = cellBox(scene, line, col);
  const row = rows[line];
  const token = grid.topIds[row * grid.positions.length + col];
  if (!(token >= 0)) return;
  const colours = fillOf(data, grid, stat, row, col, theme.name);
  const plain = grid.kinds[col] === "text";
  context.globalAlpha = plain ? 1 : 0.35;
  if (colours) {
    context.fillStyle = colours.fill;
    context.beginPath();
    context.roundRect(x + 0.5, y + 0.5, w - 1, h - 1, 2.5);
    context.fill();
  }
  context.globalAlpha = 1;
  const ink = !plain ? theme.text : colours?.ink ?? theme.muted;
  const right = token === grid.targets[col];
  context.fillStyle = ink;
  paintToken(context, right ? theme.strong : theme.font, data.vocabulary[token], x + 7, y + h / 2 + 0.5, w - 12);
  if (right) {
    context.strokeStyle = ink;
    context.lineWidth = 1.25;
    context.beginPath();
    context.roundRect(x + 2.1, y + 2.1, w - 4.2, h - 4.2, 2);
    context.stroke();
  }
}

// A token in `room` pixels, cut with an ellipsis; a leading blank's dot is drawn softer than the letters.
function paintToken(context, font, text, x, y, room) {
  context.font = font;
  const shown = fitted(context, font, text, room);
  if (!shown.startsWith("·") || shown.length < 2) return context.fillText(shown, x, y);
  const alpha = context.globalAlpha;
  context.globalAlpha = alpha * 0.55;
  context.fillText("·", x, y);
  context.globalAlpha = alpha;
  context.fillText(shown.slice(1), x + dotOf(context, font), y);
}

// What canvas gives back, such as its font, costs more to ask for than a cell to paint: what was measured is kept.
const fittedTexts = new Map();
const dots = new Map();

function dotOf(context, font) {
  if (!dots.has(font)) dots.set(font, context.measureText("·").width);
  return dots.get(font);
}

function fitted(context, font, text, room) {
  const key = `${font}|${Math.round(room)}|${text}`;
  let shown = fittedTexts.get(key);
  if (shown !== undefined) return shown;
  shown = text;
  if (context.measureText(text).width > room) {
    const letters = Array.from(text);
    let [low, high] = [0, letters.length];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      const wide = context.measureText(letters.slice(0, middle).join("") + "…").width > room;
      if (wide) high = middle - 1;
      else low = middle;
    }
    shown = letters.slice(0, low).join("") + "…";
  }
  if (fittedTexts.size > 20000) fittedTexts.clear();
  fittedTexts.set(key, shown);
  return shown;
}

function paintLabels(context, scene, lines) {
  const { grid, rows, sizes, theme, height } = scene;
  context.fillStyle = theme.ground;
  context.fillRect(0, 0, sizes.gutter, height);
  context.textAlign = "right";
  for (let line = lines[0]; line < lines[1]; line++) {
    const [, y, , h] = cellBox(scene, line, 0);
    const row = rows[line];
    context.font = theme.small;
    context.fillStyle = grid.sites[row] === "resid_post" ? theme.text : theme.muted;
    context.fillText(grid.labels[row], sizes.gutter - 9, y + h / 2 + 0.5);
  }
  context.textAlign = "left";
}

function paintHead(context, scene, columns) {
  const { data, grid, sizes, theme, width } = scene;
  context.fillStyle = theme.ground;
  context.fillRect(0, 0, width, sizes.head);
  for (let col = columns[0]; col < columns[1]; col++) {
    const [x] = cellBox(scene, 0, col);
    const text = grid.kinds[col] === "text";
    context.font = theme.tiny;
    context.fillStyle = theme.muted;
    context.fillText(String(grid.positions[col]), x + 7, 8);
    context.fillStyle = text ? theme.text : theme.muted;
    paintToken(context, theme.strong, data.vocabulary[grid.tokens[col]], x + 7, 23, sizes.cell - 10);
    context.fillStyle = theme.muted;
    const came = grid.offset === 0 ? "" : grid.targets[col] < 0 ? "–" : data.vocabulary[grid.targets[col]];
    paintToken(context, theme.small, came, x + 7, 40, sizes.cell - 10);
  }
  context.fillStyle = theme.ground;
  context.fillRect(0, 0, sizes.gutter, sizes.head);
  context.textAlign = "right";
  context.font = theme.tiny;
  context.fillStyle = theme.muted;
  context.fillText("token", sizes.gutter - 9, 23);
  context.fillText(grid.offset === 1 ? "next" : grid.offset === 0 ? "" : `${grid.offset < 0 ? "−" : "+"}${Math.abs(grid.offset)}`, sizes.gutter - 9, 40);
  context.textAlign = "left";
}

/** The overlay: where cursor and pointer are, and the cells that show a followed token. */
function paintOverlay(canvas, scene, { cursor, hover, pins, focused }) {
  const { grid, rows, sizes, theme, width, height } = scene;
  const context = prepared(canvas, width, height);
  context.save();
  context.beginPath();
  context.rect(sizes.gutter, sizes.head, width, height);
  context.clip();
  for (const pin of pins.filter((pin) => pin.grid === grid)) {
    context.fillStyle = pin.colour;
    context.strokeStyle = theme.ground;
    for (let line = 0; line < rows.length; line++) {
      if (grid.topIds[rows[line] * grid.positions.length + pin.col] !== pin.token) continue;
      const [x, y, w, h] = cellBox(scene, line, pin.col);
      context.beginPath();
      context.arc(x + w - 9, y + h / 2, 3.5, 0, 7);
      context.fill();
      context.lineWidth = 1.5;
      context.stroke();
    }
  }
  if (hover) ring(context, cellBox(scene, hover.line, hover.col), 1.5, theme.text, theme.ground);
  if (cursor && focused) ring(context, cellBox(scene, cursor.line, cursor.col), 2.5, theme.accent, theme.ground);
  context.restore();
  const at = hover || (focused ? cursor : null);
  if (!at) return;
  const [x, y, w, h] = cellBox(scene, at.line, at.col);
  context.fillStyle = theme.accent;
  if (x + w > sizes.gutter) context.fillRect(Math.max(x, sizes.gutter) + 1, sizes.head - 3, Math.min(w, x + w - sizes.gutter) - 2, 2);
  if (y + h > sizes.head) context.fillRect(sizes.gutter - 4, Math.max(y, sizes.head) + 1, 2, Math.min(h, y + h - sizes.head) - 2);
}

function ring(context, [x, y, w, h], thick, colour, ground) {
  for (const [extra, stroke] of [[2, ground], [0, colour]]) {
    context.strokeStyle = stroke;
    context.lineWidth = thick + extra;
    context.beginPath();
    context.roundRect(x, y, w, h, 3.5);
    context.stroke();
  }
}
