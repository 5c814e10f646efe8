// Two readings side by side: of two prompts, two lenses, or two models; one grid of what differs, and means by layer.

import { useEffect, useRef, useState } from "preact/hooks";
import { Curves, type Measure } from "./curves";
import type { MidstreamGrid } from "./grid";
import { asked, read } from "./reading";
import { type Desk, post, Refusal } from "./server";
import type { Wish } from "./state";

interface Side {
  text: string;
  lens: string;
  model: string;
}

interface Compared {
  packed: string;
  layers: number[];
  positions: number;
  measures: Record<string, Measure>;
}

type Choose = (model: string) => Promise<Desk | null>;

export function Compare({ desk, start, choose }: { desk: Desk; start: Wish; choose: Choose }) {
  const side = { text: start.text, lens: desk.usual[0]!, model: desk.model };
  const [sides, setSides] = useState<[Side, Side]>([side, { ...side, lens: desk.usual[1] ?? side.lens }]);
  const [said, setSaid] = useState("");
  const [wrong, setWrong] = useState(false);
  const [found, setFound] = useState<Compared | null>(null);
  const home = useRef<HTMLDivElement>(null);
  const grid = useRef<MidstreamGrid | null>(null);
  const running = useRef<AbortController | null>(null);

  useEffect(() => () => {
    running.current?.abort();
    grid.current?.remove();
  }, []);

  const put = (at: number, part: Partial<Side>) => setSides((old) => old.map((one, i) => (i === at ? { ...one, ...part } : one)) as [Side, Side]);

  const go = async () => {
    running.current?.abort();
    const mine = (running.current = new AbortController());
    setWrong(false);
    setFound(null);
    try {
      const names: string[] = [];
      let current = desk;
      for (const [number, one] of sides.entries()) {
        setSaid(number ? "Reading the second …" : "Reading the first …");
        if (one.model !== current.model) {
          const other = await choose(one.model);
          if (!other) return setSaid("");
          current = other;
        }
        const wish: Wish = { text: one.text, lenses: [one.lens], inside: false, edits: [] };
        const quiet = { place: (ahead: number) => setSaid(`Waiting: ${ahead} before you.`), begun: () => undefined, more: () => undefined };
        names.push((await read(asked(wish, current.sites), quiet, mine.signal)).reading);
      }
      const compared = await post<Compared>("/api/compare", { one: names[0], other: names[1] });
      const data = await window.MidstreamGrid.unpack(compared.packed);
      grid.current?.remove();
      grid.current = new window.MidstreamGrid(home.current!, data);
      setFound(compared);
      setSaid(`Second less first, at the ${compared.positions.toLocaleString("en-US")} positions whose token both have.`);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      setSaid(error.message);
      setWrong(true);
    }
  };

  return (
    <>
      <form class="compare" onSubmit={(event) => { event.preventDefault(); go(); }}>
        {sides.map((one, at) => (
          <fieldset>
            <legend>{at ? "Second" : "First"}</legend>
            <label>Text <textarea rows={3} spellcheck={false} value={one.text} onInput={(event) => put(at, { text: event.currentTarget.value })} /></label>
            <Pick label="Lens" values={desk.lenses} value={one.lens} set={(lens) => put(at, { lens })} />
            {desk.models.length > 1 && <Pick label="Model" values={desk.models} value={one.model} set={(model) => put(at, { model })} />}
          </fieldset>
        ))}
        <button type="submit" class="main">Compare</button>
      </form>
      <p class={wrong ? "said wrong" : "said"} role={wrong ? "alert" : "status"}>{said}</p>
      <div ref={home} class="reading" />
      {found && <Curves layers={found.layers} measures={found.measures} names={["first", "second"]} />}
    </>
  );
}

function Pick({ label, values, value, set }: { label: string; values: string[]; value: string; set: (value: string) => void }) {
  return (
    <label>
      {label}{" "}
      <select value={value} onChange={(event) => set(event.currentTarget.value)}>
        {values.map((name) => <option>{name}</option>)}
      </select>
    </label>
  );
}
