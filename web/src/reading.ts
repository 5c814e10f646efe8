// A reading on its way from the server into a grid; what is asked about it once it is there.

import type { Data, MidstreamGrid, Pin } from "./grid";
import { events, post, Refusal } from "./server";
import { type Wish } from "./state";
import { fill, opened } from "./wire";

export interface Ended {
  reading: string;
  seconds: number;
  provenance: { model: string };
  /** What was asked for. */
  asked: object;
}

export interface Progress {
  place(ahead: number): void;
  loading(model: string): void;
  /** The first cells are there; later ones come into the same data. */
  begun(data: Data): void;
  more(data: Data): void;
}

export function asked({ text, lenses, inside, edits }: Omit<Wish, "anchor">, { model, sites }: { model: string; sites: string[] }) {
  return {
    text, model, lenses, edits, sites: inside ? sites : ["resid_post"],
    ...(edits.length ? { statistic: "kl_unedited" } : {}),
  };
}

/** UTF-16 units of a text that the server takes; it reads fewer tokens, and says how many. */
const LONGEST = 200_000;

function fits(text: string): void {
  if (text.length <= LONGEST) return;
  const first = text.slice(0, LONGEST).replace(/[\ud800-\udbff]$/, ""); // half a character is none
  const error = `the text has ${text.length.toLocaleString("en")} characters: at most ${LONGEST.toLocaleString("en")} are sent.`;
  throw new Refusal({ error, first });
}

/** Reads; resolves with what ends it. Raises Refusal, or an abort. */
export async function read(wish: { text: string }, progress: Progress, signal: AbortSignal): Promise<Ended> {
  fits(wish.text);
  let data: Data | null = null;
  let begun = false;
  for await (const [event, found] of events("/api/read", wish, signal)) {
    if (event === "place") progress.place(found.ahead);
    else if (event === "loading") progress.loading(found.model);
    else if (event === "opening") data = opened(found);
    else if (event === "cells" && data) {
      fill(data, found);
      begun ? progress.more(data) : progress.begun(data);
      begun = true;
    } else if (event === "end") return { ...found, asked: wish };
  }
  throw new DOMException("ended early", "AbortError");
}

/** Exact curves of one pin: the cells of a grid know a token's rank only where it is among the best. */
export async function exact(grid: MidstreamGrid, reading: string, pin: Pin): Promise<void> {
  const found = await post<Record<string, any[]>>("/api/follow", {
    reading, position: pin.grid.positions[pin.col], tokens: [pin.token],
  });
  const row = new Map(pin.grid.labels.map((_, i) => [`${pin.grid.layers[i]} ${pin.grid.sites[i]}`, i]));
  const curve = { ranks: pin.grid.labels.map(() => NaN), logprobs: pin.grid.labels.map(() => NaN), exact: true };
  found.lens!.forEach((lens, i) => {
    const at = row.get(`${found.layer![i]} ${found.site![i]}`);
    if (lens !== pin.grid.lens || at === undefined) return;
    curve.ranks[at] = found.rank![i] > 0 ? found.rank![i] : NaN;
    curve.logprobs[at] = found.logprob![i] ?? NaN;
  });
  pin.curve = curve;
  grid.restyle();
}
