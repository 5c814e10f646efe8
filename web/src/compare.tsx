// Two readings side by side: of two prompts, two lenses, or two models; one grid of what differs, and means by layer.

import { useEffect, useRef, useState } from "preact/hooks";
import { Curves, type Measure } from "./curves";
import type { MidstreamGrid } from "./grid";
import { Files } from "./keep";
import { asked, read } from "./reading";
import { called, type Desk, get, Refusal } from "./server";
import type { Side, State } from "./state";

interface Compared {
  packed: string;
  layers: number[];
  positions: number;
  measures: Record<string, Measure>;
}

const count = (value: number) => value.toLocaleString("en-US");

interface Given {
  desk: Desk;
  state: State;
  change: (part: Partial<State>) => void;
  /** Whether it is compared at once: it was before, or a link names it. */
  again: { current: boolean };
}

export function Compare({ desk, state, change, again }: Given) {
  const first = { text: state.wish.text, lens: desk.usual[0]!, model: desk.model };
  const sides = state.sides ?? [first, { ...first, lens: desk.usual[1] ?? first.lens }];
  const [said, setSaid] = useState("");
  const [wrong, setWrong] = useState(false);
  const [busy, setBusy] = useState(false);
  const [found, setFound] = useState<(Compared & { path: string }) | null>(null);
  const home = useRef<HTMLDivElement>(null);
  const grid = useRef<MidstreamGrid | null>(null);
  const running = useRef<AbortController | null>(null);

  useEffect(() => {
    if (again.current && state.sides) go();
    return () => {
      running.current?.abort();
      grid.current?.remove();
    };
  }, []);

  const put = (at: number, part: Partial<Side>) => change({ sides: sides.map((one, i) => (i === at ? { ...one, ...part } : one)) as [Side, Side] });

  /** Reads one side, by its model; the name of the reading. Raises Refusal, or an abort. */
  const one = async (side: Side, name: string, signal: AbortSignal): Promise<string> => {
    setSaid(`Reading the ${name} …`);
    const quiet = {
      place: (ahead: number) => setSaid(`Waiting: ${ahead} before you.`),
      loading: (model: string) => setSaid(`Loading ${model} …`),
      begun: () => undefined,
      more: () => undefined,
    };
    const wish = { text: side.text, lenses: [side.lens], inside: false, edits: [] };
    return (await read(asked(wish, { model: side.model, sites: [] }), quiet, signal)).reading;
  };

  const go = async () => {
    running.current?.abort();
    const mine = (running.current = new AbortController());
    setWrong(false);
    setFound(null);
    setBusy(true);
    try {
      again.current = true;
      const before = await one(sides[0]!, "first", mine.signal);
      const after = await one(sides[1]!, "second", mine.signal);
      const path = `/api/differences/${before}/${after}`;
      const compared = await get<Compared>(path);
      const data = await window.MidstreamGrid.unpack(compared.packed);
      grid.current?.remove();
      grid.current = new window.MidstreamGrid(home.current!, data);
      setFound({ ...compared, path });
      const both = `${count(compared.positions)} of ${count(data.grids[0]!.positions.length)} positions`;
      setSaid(`Second less first, where both have the same token. Curves: means over the ${both} after which the same token came in both.`);
    } catch (error) {
      if (error instanceof Refusal) {
        setSaid(error.message);
        setWrong(true);
      } else if (!mine.signal.aborted) throw error;
      else if (running.current === mine) setSaid("Stopped.");
    } finally {
      if (running.current === mine) setBusy(false);
    }
  };

  return (
    <>
      <form class="compare" onSubmit={(event) => { event.preventDefault(); go(); }}>
        {sides.map((side, at) => (
          <fieldset>
            <legend>{at ? "Second" : "First"}</legend>
            <label>Text <textarea rows={3} spellcheck={false} value={side.text} onInput={(event) => put(at, { text: event.currentTarget.value })} /></label>
            <Pick label="Lens" values={desk.lenses} value={side.lens} set={(lens) => put(at, { lens })} />
            {desk.models.length > 1 && <Pick label="Model" values={desk.models} said={called(desk)} value={side.model} set={(model) => put(at, { model })} />}
          </fieldset>
        ))}
        <span class="buttons">
          <button type="submit" class="main">Compare</button>
          <button type="button" disabled={!busy} onClick={() => running.current?.abort()}>Stop</button>
        </span>
      </form>
      <p class={wrong ? "said wrong" : "said"} role={wrong ? "alert" : "status"}>{said}</p>
      <div ref={home} class="reading" />
      {found && <section class="keep" aria-label="keep"><Files path={found.path} name="difference" /></section>}
      {found && <Curves layers={found.layers} measures={found.measures} names={["first", "second"]} />}
    </>
  );
}

interface Picked {
  label: string;
  values: string[];
  said?: (value: string) => string;
  value: string;
  set: (value: string) => void;
}

function Pick({ label, values, said = String, value, set }: Picked) {
  return (
    <label>
      {label}{" "}
      <select value={value} onChange={(event) => set(event.currentTarget.value)}>
        {(values.includes(value) ? values : [value, ...values]).map((name) => <option value={name}>{said(name)}</option>)}
      </select>
    </label>
  );
}
