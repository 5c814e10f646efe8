// One cell: what every lens says there, side by side, and the positions whose stream is most alike.

import { useEffect, useState } from "preact/hooks";
import type { Data, Grid, MidstreamGrid } from "./grid";
import { post, type Refusal } from "./server";
import { type Edit, EDIT } from "./state";
import { textOf } from "./token";

const SHOWN = 5;

interface Near {
  position: number;
  cosine: number;
}

interface Given {
  grid: MidstreamGrid;
  reading: string;
  row: number;
  col: number;
  edit: (edit: Edit) => void;
  anchor: (layer: number) => void;
}

export function Cell({ grid, reading, row, col, edit, anchor }: Given) {
  const { data } = grid;
  const here = grid.grid;
  const [layer, site, position] = [here.layers[row]!, here.sites[row]!, here.positions[col]!];
  const [near, setNear] = useState<Near[] | null>(null);
  const [said, setSaid] = useState("");

  useEffect(() => {
    let stale = false;
    setNear(null);
    setSaid("");
    post<Near[]>("/api/near", { reading, position, layer, site }).then((found) => {
      if (stale) return;
      setNear(found);
      setSaid(found.length ? "Cosine of the stream there, less its mean over the text." : "None: this stream is an attention sink’s, or all others are.");
    }, (error: Refusal) => stale || setSaid(error.message));
    return () => void (stale = true);
  }, [reading, layer, site, position]);

  const line = grid.rows.indexOf(row);
  const top = here.topIds[row * here.positions.length + col]!;
  const token = top >= 0 ? textOf(data.vocabulary[top]!) : null;
  const at = { ...EDIT, layers: String(layer), positions: String(position), site, token: token ?? "" };
  return (
    <section class="cell" aria-label="this cell">
      <h2>Layer {here.labels[row]}, position {position}: <Token text={data.vocabulary[here.tokens[col]!]!} /></h2>
      <div class="lenses">
        {data.grids.map((one) => <Lens data={data} one={one} layer={layer} site={site} position={position} />)}
        <div>
          <h3>Most alike</h3>
          <ol class="near">
            {near?.map(({ position: at, cosine }) => (
              <li>
                <button type="button" onClick={() => grid.moveTo({ line, col: here.positions.indexOf(at) }, true)}>
                  {at} <Token text={data.vocabulary[here.tokens[here.positions.indexOf(at)]!]!} />
                </button>
                <span class="number">{cosine.toFixed(2).replace("-", "−")}</span>
              </li>
            ))}
          </ol>
          <p class="soft" role="status">{said}</p>
        </div>
      </div>
      <p class="here">
        Here:{" "}
        <button type="button" disabled={token === null} onClick={() => edit({ ...at, kind: "project_out" })}>take its top token out</button>
        <button type="button" onClick={() => edit({ ...at, amount: 0.3, token: "" })}>add a token</button>
        <button type="button" onClick={() => edit({ ...at, kind: "patch", token: "" })}>patch from another text</button>
        {site === "resid_post" && <button type="button" onClick={() => anchor(layer)}>anchor this layer</button>}
      </p>
    </section>
  );
}

function Lens({ data, one, layer, site, position }: { data: Data; one: Grid; layer: number; site: string; position: number }) {
  const row = one.labels.findIndex((_, i) => one.layers[i] === layer && one.sites[i] === site);
  const col = one.positions.indexOf(position);
  const cells = one.labels.length * one.positions.length;
  const about = one.offset === 1 ? "next token" : one.offset === 0 ? "token read" : `token ${one.offset > 0 ? "+" : "−"}${Math.abs(one.offset)}`;
  return (
    <div>
      <h3>{one.lens} <span class="soft">{about}</span></h3>
      {row < 0 || col < 0 ? <p class="soft">It does not read this place.</p> : (
        <ol class="tops">
          {Array.from({ length: Math.min(SHOWN, one.k) }, (_, i) => i * cells + row * one.positions.length + col)
            .filter((at) => one.topIds[at]! >= 0)
            .map((at) => (
              <li class={one.topIds[at] === one.targets[col] ? "right" : undefined}>
                <Token text={data.vocabulary[one.topIds[at]!]!} />
                <span class="number">{Number.isFinite(one.topLogprobs[at]) ? `${(100 * Math.exp(one.topLogprobs[at]!)).toFixed(1)} %` : "–"}</span>
              </li>
            ))}
        </ol>
      )}
    </div>
  );
}

export function Token({ text }: { text: string }) {
  return <bdi class="token">{text}</bdi>;
}
