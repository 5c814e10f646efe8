// What the server sends of a reading: its shape, then blocks of cells; `midstream/view/wire.py` is the other side.

import type { Data, Grid, Statistic } from "./grid";

export interface Opening {
  model: string;
  precision: string;
  layers: number;
  tokens: number[];
  kinds: string[];
  k: number;
  grids: { lens: string; offset: number; layers: number[]; sites: string[]; labels: string[] }[];
  start: string;
  colours: unknown;
  ends: [string, string];
  vocabulary: Record<number, string>;
}

export interface Block {
  grid: number;
  rows: number[];
  from: number;
  count: number;
  columns: Record<string, string>;
  targets: number[];
  topIds: string;
  topLogprobs: string;
  uneditedTop: string;
  vocabulary: Record<number, string>;
  statistics: Statistic[];
}

/** What the component opens, every cell still undefined. */
export function opened(shape: Opening): Data {
  const positions = shape.tokens.map((_, i) => i);
  const grids = shape.grids.map((grid): Grid => {
    const cells = grid.layers.length * positions.length;
    return {
      ...grid,
      positions,
      tokens: shape.tokens,
      kinds: shape.kinds,
      targets: positions.map(() => -1),
      k: shape.k,
      start: shape.start,
      topIds: new Int32Array(cells * shape.k).fill(-1),
      topLogprobs: new Float32Array(cells * shape.k).fill(NaN),
      uneditedTop: new Int32Array(cells).fill(-1),
      columns: {},
      trackPlaces: [],
      trackRanks: new Float32Array(0),
      trackLogprobs: new Float32Array(0),
    };
  });
  return { ...shape, grids, watched: [], statistics: [] };
}

/** Puts a block of cells into its grid. */
export function fill(data: Data, block: Block): void {
  const grid = data.grids[block.grid]!;
  for (const [name, text] of Object.entries(block.columns)) {
    const column = (grid.columns[name] ??= new Float32Array(grid.layers.length * grid.positions.length).fill(NaN));
    put(grid, block, column, floats(text), 1);
  }
  put(grid, block, grid.topIds, new Int32Array(bytes(block.topIds).buffer), grid.k);
  put(grid, block, grid.topLogprobs, floats(block.topLogprobs), grid.k);
  block.targets.forEach((target, i) => (grid.targets[block.from + i] = target));
  if (block.uneditedTop) put(grid, block, grid.uneditedTop, new Int32Array(bytes(block.uneditedTop).buffer), 1);
  Object.assign(data.vocabulary, block.vocabulary);
  block.statistics.forEach((stat, i) => (data.statistics[i] = Object.assign(data.statistics[i] ?? {}, stat)));
}

type Numbers = Int32Array | Float32Array | Float64Array;

function put(grid: Grid, block: Block, into: Numbers, from: Numbers, planes: number): void {
  const wide = grid.positions.length;
  const whole = grid.layers.length * wide;
  const each = block.rows.length * block.count;
  for (let plane = 0; plane < planes; plane++) {
    block.rows.forEach((row, r) => {
      const start = plane * each + r * block.count;
      into.set(from.subarray(start, start + block.count), plane * whole + row * wide + block.from);
    });
  }
}

const bytes = (text: string) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
const floats = (text: string) => new Float32Array(bytes(text).buffer);
