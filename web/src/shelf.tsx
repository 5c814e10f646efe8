// Finished work: stores of scans, by layer and document by document, and reports of studies.

import { useEffect, useRef, useState } from "preact/hooks";
import { type Band, Bands } from "./curves";
import type { MidstreamGrid } from "./grid";
import { get, Refusal } from "./server";

interface Store {
  name: string;
  model: string;
  lenses: string[];
  documents: number;
  tokens: number;
  finished: boolean;
}

interface Worst {
  doc_id: number;
  id: string;
  tokens: number;
  value: number;
}

type Columns = Record<string, any[]>;

export function Shelf() {
  const [shelf, setShelf] = useState<{ stores: Store[]; studies: string[]; broken: string[] } | null>(null);
  const [said, setSaid] = useState("");
  const [open, setOpen] = useState<{ store: Store } | { study: string } | null>(null);

  useEffect(() => {
    get<{ stores: Store[]; studies: string[]; broken: string[] }>("/api/shelf").then(setShelf, (error: Refusal) => setSaid(error.message));
  }, []);

  if (!shelf) return <p class="said" role="status">{said}</p>;
  const { stores, studies, broken } = shelf;
  return (
    <>
      {broken.map((one) => <p class="said wrong">{one}</p>)}
      {!stores.length && !studies.length && !broken.length && (
        <p>Nothing to open: start the server with <code>--store FOLDER</code> or <code>--studies FOLDER</code>.</p>
      )}
      <div class="shelf">
        {stores.map((store) => (
          <button type="button" aria-pressed={open !== null && "store" in open && open.store === store} onClick={() => setOpen({ store })}>
            <b>{store.name}</b>
            <span class="soft">{store.model}, {store.lenses.join(", ")}: {count(store.documents)} documents, {count(store.tokens)} tokens{store.finished ? "" : ", not finished"}</span>
          </button>
        ))}
        {studies.map((study) => (
          <button type="button" aria-pressed={open !== null && "study" in open && open.study === study} onClick={() => setOpen({ study })}>
            <b>{study}</b> <span class="soft">study</span>
          </button>
        ))}
      </div>
      {open && "store" in open && <Opened key={open.store.name} store={open.store} />}
      {open && "study" in open && <iframe class="report" sandbox="" title={`report of ${open.study}`} src={`/studies/${encodeURIComponent(open.study)}/report.html`} />}
    </>
  );
}

const count = (value: number) => value.toLocaleString("en-US");

function Opened({ store }: { store: Store }) {
  const [found, setFound] = useState<{ columns: Columns; notes: string[] } | null>(null);
  const [measure, setMeasure] = useState("");
  const [worst, setWorst] = useState<Worst[]>([]);
  const [said, setSaid] = useState("Averaging …");
  const home = useRef<HTMLDivElement>(null);
  const grid = useRef<MidstreamGrid | null>(null);
  const path = `/api/stores/${encodeURIComponent(store.name)}`;

  useEffect(() => {
    get<{ columns: Columns; notes: string[] }>(path).then((summary) => {
      setFound(summary);
      setSaid("");
      const names = summary.columns.measure!;
      setMeasure(names.includes("logprob") ? "logprob" : names[0]);
    }, (error: Refusal) => setSaid(error.message));
    return () => grid.current?.remove();
  }, []);

  useEffect(() => {
    if (measure) get<Worst[]>(`${path}/worst/${measure}`).then((found) => {
      setWorst(found);
      setSaid("");
    }, (error: Refusal) => {
      setWorst([]);
      setSaid(error.message);
    });
  }, [measure]);

  const show = async (doc: number) => {
    try {
      const { packed } = await get<{ packed: string }>(`${path}/documents/${doc}`);
      const data = await window.MidstreamGrid.unpack(packed);
      grid.current?.remove();
      grid.current = new window.MidstreamGrid(home.current!, data);
      home.current!.scrollIntoView({ block: "nearest" });
    } catch (error) {
      setSaid((error as Refusal).message);
    }
  };

  const lines = found ? bands(found.columns, measure) : [];
  const measures = found ? [...new Set<string>(found.columns.measure)] : [];
  return (
    <section aria-label={`store ${store.name}`}>
      <p class="said" role="status">{said}</p>
      {found && (
        <>
          <label>
            Measure{" "}
            <select value={measure} onChange={(event) => setMeasure(event.currentTarget.value)}>
              {measures.map((name) => <option>{name}</option>)}
            </select>
          </label>
          <Bands label={`${measure} by layer, ${told(lines)}`} bands={lines} />
          <h2>Worst documents</h2>
          <table class="worst">
            <thead><tr><th scope="col">document</th><th scope="col">tokens</th><th scope="col">mean at the last layer, all tokens</th></tr></thead>
            <tbody>
              {worst.map((one) => (
                <tr>
                  <th scope="row"><button type="button" onClick={() => show(one.doc_id)}><bdi>{one.id}</bdi></button></th>
                  <td>{count(one.tokens)}</td>
                  <td>{one.value.toFixed(3).replace("-", "−")}</td>
                </tr>
              ))}
            </tbody>
          </table>
          {found.notes.map((note) => <p class="soft">{note}</p>)}
        </>
      )}
      <div ref={home} class="reading" />
    </section>
  );
}

/** What the bands around the lines are. */
function told(lines: Band[]): string {
  return lines.some((line) => line.low.some((value) => value !== null)) ? "95 % intervals over documents" : "too few documents for intervals";
}

function bands(columns: Columns, measure: string): Band[] {
  const found = new Map<string, Band>();
  columns.measure!.forEach((name, i) => {
    if (name !== measure || columns.site![i] !== "resid_post") return;
    const lens = columns.lens![i] as string;
    const band = found.get(lens) ?? { name: lens, layers: [], value: [], low: [], high: [] };
    found.set(lens, band);
    band.layers.push(columns.layer![i]);
    band.value.push(columns.value![i]);
    band.low.push(columns.low![i]);
    band.high.push(columns.high![i]);
  });
  return [...found.values()];
}
