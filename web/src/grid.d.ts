// The grid component of midstream/view/static, loaded before the app: one for pages, notebooks and this app.

export interface Statistic {
  name: string;
  label: string;
  column: string;
  form: "value" | "exp" | "logit" | "change";
  unit: string;
  low: number;
  high: number;
  ticks: [number, number][];
}

/** One lens. Cells run position by position within a row: `[rows, positions]`, of the best tokens `[k, rows, positions]`. */
export interface Grid {
  lens: string;
  offset: number;
  start: string;
  layers: number[];
  sites: string[];
  labels: string[];
  positions: number[];
  tokens: number[];
  kinds: string[];
  targets: number[];
  k: number;
  topIds: Int32Array | Float64Array;
  topLogprobs: Float32Array | Float64Array;
  uneditedTop: Int32Array | Float64Array;
  columns: Record<string, Float32Array | Float64Array>;
  trackPlaces: [number, number][];
  trackRanks: Float32Array | Float64Array;
  trackLogprobs: Float32Array | Float64Array;
}

export interface Data {
  model: string;
  layers: number;
  grids: Grid[];
  watched: number[];
  statistics: Statistic[];
  start: string;
  colours: unknown;
  ends: [string, string];
  vocabulary: Record<number, string>;
}

export interface Pin {
  grid: Grid;
  col: number;
  token: number;
  curve: { ranks: number[]; logprobs: number[]; exact: boolean };
}

/** What the app follows: a cell that was chosen, pins that came or went, another lens or statistic. */
export interface Listeners {
  chosen?: (row: number, col: number) => void;
  pinned?: (pin: Pin) => void;
  changed?: () => void;
}

export interface MidstreamGrid {
  data: Data;
  grid: Grid;
  stat: Statistic;
  wanted: string;
  every: number;
  subs: boolean;
  rows: number[];
  cursor: { line: number; col: number };
  followed: { pins: Pin[]; asAtFirst: boolean; drop(pin: Pin): void; toggle(grid: Grid, col: number, token: number): void };
  arrived(): void;
  restyle(): void;
  change(choice: { every: number; subs: boolean }): void;
  setGrid(grid: Grid): void;
  setStatistic(name: string): void;
  moveTo(cell: { line: number; col: number }, open?: boolean): void;
  remove(): void;
}

export interface Component {
  new (home: HTMLElement, data: Data, on?: Listeners): MidstreamGrid;
  unpack(base64: string): Promise<Data>;
}

declare global {
  interface Window {
    MidstreamGrid: Component;
  }
}
