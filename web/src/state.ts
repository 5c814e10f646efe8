// What is on screen, as the fragment of the address: a link shows the same to whoever opens it.

export interface Edit {
  kind: "add" | "replace" | "interpolate" | "project_out" | "scale" | "patch" | "swap";
  layers: string;
  positions: string | null;
  site: string;
  vector: "embedding" | "unembedding" | "lens" | "random";
  lens: string;
  token: string;
  other: string;
  text: string;
  amount: number | null;
  relative: boolean;
}

export interface Wish {
  text: string;
  lenses: string[];
  inside: boolean;
  edits: Edit[];
  /** Of the continuation: LAYER:STRENGTH, or empty. */
  anchor: string;
}

/** One of two readings that are compared. */
export interface Side {
  text: string;
  lens: string;
  model: string;
}

/** Of the grid: lens, statistic, stride, rows inside the blocks, cell (layer, site, position), pins (lens, position, token id; null: as at first). */
export interface Look {
  lens: string;
  statistic: string;
  every: number;
  subs: boolean;
  cell: [number, string, number] | null;
  pins: [string, number, number][] | null;
}

export interface State {
  page: "read" | "compare" | "shelf";
  model: string;
  wish: Wish;
  look: Look;
  sides: [Side, Side] | null;
}

const PAGES = ["read", "compare", "shelf"] as const;

export const START: State = {
  page: "read",
  model: "",
  wish: { text: "The Eiffel Tower is located in the city of", lenses: [], inside: false, edits: [], anchor: "" },
  look: { lens: "", statistic: "", every: 1, subs: false, cell: null, pins: null },
  sides: null,
};

/** The state in a fragment; what is missing or wrong is as at the start. */
export function fromFragment(fragment: string): State {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  const { wish, look } = START;
  const pins = given.getAll("pin").map((text) => {
    const [token, position, ...lens] = text.split("_").reverse();
    return [lens.reverse().join("_"), Number(position), Number(token)] as [string, number, number];
  });
  const cell = given.get("cell")?.split(".") ?? [];
  const [one, other] = given.getAll("side").flatMap((text) => object<Side>(text, ["text", "lens", "model"]));
  return {
    page: PAGES.find((page) => page === given.get("page")) ?? "read",
    model: given.get("model") ?? "",
    wish: {
      text: given.get("text") ?? wish.text,
      lenses: given.getAll("lens"),
      inside: given.has("inside"),
      edits: given.getAll("edit").flatMap((text) => object<Edit>(text, ["kind"])).map((found) => ({ ...EDIT, ...found })),
      anchor: given.get("anchor") ?? "",
    },
    look: {
      lens: given.get("show") ?? look.lens,
      statistic: given.get("colour") ?? look.statistic,
      every: Math.max(1, Number(given.get("every")) || 1),
      subs: given.has("subs"),
      cell: cell.length === 3 ? [Number(cell[0]), cell[1]!, Number(cell[2])] : null,
      pins: given.has("pin") ? pins.filter(([, position, token]) => Number.isInteger(position) && Number.isInteger(token)) : null,
    },
    sides: one && other ? [one, other] : null,
  };
}

export function toFragment({ page, model, wish, look, sides }: State): string {
  const made = new URLSearchParams();
  const add = (name: string, value: string) => value && made.append(name, value);
  add("page", page === "read" ? "" : page);
  add("model", model);
  add("text", wish.text);
  for (const lens of wish.lenses) add("lens", lens);
  add("inside", wish.inside ? "1" : "");
  for (const one of wish.edits) add("edit", JSON.stringify(one));
  add("anchor", wish.anchor);
  for (const side of sides ?? []) add("side", JSON.stringify(side));
  add("show", look.lens);
  add("colour", look.statistic);
  add("every", look.every === 1 ? "" : String(look.every));
  add("subs", look.subs ? "1" : "");
  add("cell", look.cell ? look.cell.join(".") : "");
  for (const pin of look.pins ?? []) add("pin", pin.join("_"));
  add("pin", look.pins?.length === 0 ? "none" : "");
  return `#${made}`;
}

/** An object of a fragment with these texts in it, else none: anybody may have written it, and the server checks what it says. */
function object<T>(text: string, names: string[]): T[] {
  try {
    const found = JSON.parse(text);
    return names.every((name) => typeof found?.[name] === "string") ? [found] : [];
  } catch {
    return [];
  }
}

export const EDIT: Edit = {
  kind: "add", layers: "20", positions: null, site: "resid_post", vector: "unembedding", lens: "logit", token: "", other: "", text: "",
  amount: null, relative: true,
};
