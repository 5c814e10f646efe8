// The reading page: a text, what to read it with, the grid that fills, and what can be done with it.

import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { Cell } from "./cell";
import { Edits, lacking } from "./edits";
import type { Data, MidstreamGrid } from "./grid";
import { Keep } from "./keep";
import { asked, type Ended, exact, read } from "./reading";
import { Sample } from "./sample";
import { type Desk, Refusal } from "./server";
import type { Edit, Look, State, Wish } from "./state";

interface Said {
  text: string;
  wrong?: boolean;
  first?: string | undefined;
}

interface Given {
  desk: Desk;
  state: State;
  change: (part: Partial<State>) => void;
  /** Whether the text is read at once: it was before, or a link names it. */
  again: { current: boolean };
}

export function Read({ desk, state, change, again }: Given) {
  const { wish } = state;
  const home = useRef<HTMLDivElement>(null);
  const grid = useRef<MidstreamGrid | null>(null);
  const running = useRef<AbortController | null>(null);
  const [said, setSaid] = useState<Said>({ text: "" });
  const [busy, setBusy] = useState(false);
  const [ended, setEnded] = useState<Ended | null>(null);
  const [cell, setCell] = useState<{ row: number; col: number } | null>(null);
  const look = useRef(state.look);
  const text = useRef<string | null>(null);

  const set = (part: Partial<Wish>) => change({ wish: { ...wish, ...part } });

  const edited = useRef<boolean | null>(null);
  const edits = useRef<HTMLDivElement>(null);

  const looked = useCallback(() => {
    if (!grid.current) return;
    look.current = lookOf(grid.current, look.current);
    change({ look: look.current });
  }, [change]);

  const go = useCallback(async (wanted: Wish) => {
    const lacks = lacking(wanted.edits);
    if (lacks) return setSaid({ text: lacks, wrong: true });
    running.current?.abort();
    const mine = (running.current = new AbortController());
    const began = performance.now();
    let name = "";
    let touched = false; // a token was followed while it was read: the link's are not put back over it
    const inexact = (error: Error) => setSaid({ text: `Followed among the best tokens only: ${error.message}`, wrong: true });
    if (text.current !== null && text.current !== wanted.text) look.current = { ...look.current, cell: null, pins: null };
    text.current = wanted.text;
    if (edited.current !== null && edited.current !== wanted.edits.length > 0) look.current = { ...look.current, statistic: "" };
    edited.current = wanted.edits.length > 0;
    const wished = look.current;
    setBusy(true);
    setEnded(null);
    setCell(null);
    setSaid({ text: "Reading …" });
    const show = (data: Data) => {
      grid.current?.remove();
      grid.current = null; // what the new one tells while it is made is not about the old one
      grid.current = new window.MidstreamGrid(home.current!, data, {
        chosen: (row, col) => {
          setCell({ row, col });
          looked();
        },
        pinned: (pin) => {
          touched = true;
          if (name && grid.current) exact(grid.current, name, pin).catch(inexact);
        },
        changed: looked,
      });
      restore(grid.current, wished);
      looked();
      touched = false;
      requestAnimationFrame(() => (home.current!.dataset.painted = String(Math.round(performance.now() - began))));
    };
    try {
      again.current = true;
      const end = await read(asked(wanted, desk), {
        place: (ahead) => setSaid({ text: `Waiting: ${ahead} before you.` }),
        loading: (model) => setSaid({ text: `Loading ${model} …` }),
        begun: show,
        more: () => grid.current?.arrived(),
      }, mine.signal);
      name = end.reading;
      if (!touched) pins(grid.current!, wished);
      for (const pin of grid.current!.followed.pins) exact(grid.current!, name, pin).catch(inexact);
      home.current!.dataset.done = String(Math.round(performance.now() - began));
      setEnded(end);
      if (wished.cell) setCell({ row: grid.current!.rows[grid.current!.cursor.line]!, col: grid.current!.cursor.col });
      change({ model: desk.model });
      setSaid({ text: `${end.provenance.model}, ${end.seconds.toFixed(2)} s` });
    } catch (error) {
      if (error instanceof Refusal) setSaid({ text: error.message, wrong: true, first: error.first });
      else if (!mine.signal.aborted) throw error;
      else if (running.current === mine) setSaid({ text: "Stopped." });
    } finally {
      if (running.current === mine) setBusy(false);
    }
  }, [desk, looked]);

  useEffect(() => {
    if (again.current) go(wish);
    return () => {
      running.current?.abort();
      grid.current?.remove();
    };
  }, []);

  /** Rows inside the blocks are shown where they are read, until they are hidden. */
  const within = (inside: boolean) => {
    look.current = { ...look.current, subs: inside };
    set({ inside });
  };

  /** An edit of the cell that was chosen: read at once where it is whole, else its field waits for a text. */
  const editHere = (edit: Edit) => {
    const wanted = { ...wish, edits: [...wish.edits, edit] };
    change({ wish: wanted });
    if (edit.kind === "project_out") go(wanted);
    else requestAnimationFrame(() => edits.current?.querySelector<HTMLInputElement>("li:last-child input[type=text]")?.focus());
  };

  const enter = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    go(wish);
  };

  return (
    <>
      <form class="ask" onSubmit={(event) => { event.preventDefault(); go(wish); }}>
        <label for="text">Text</label>
        <textarea id="text" rows={3} spellcheck={false} value={wish.text} onInput={(event) => set({ text: event.currentTarget.value })} onKeyDown={enter} />
        <Lenses desk={desk} chosen={wish.lenses.length ? wish.lenses : desk.usual} choose={(lenses) => set({ lenses })} />
        <label class="choice">
          <input type="checkbox" checked={wish.inside} onChange={(event) => within(event.currentTarget.checked)} /> inside the blocks
        </label>
        <span class="buttons">
          <button type="submit" class="main">Read</button>
          <button type="button" disabled={!busy} onClick={() => running.current?.abort()}>Stop</button>
        </span>
      </form>
      <div ref={edits}><Edits desk={desk} edits={wish.edits} change={(edits) => set({ edits })} /></div>
      <p class={said.wrong ? "said wrong" : "said"} role={said.wrong ? "alert" : "status"}>
        {said.text}{" "}
        {ended && text.current !== wish.text && <span class="soft">Below is the text as it was read; Enter reads it as it stands now. </span>}
        {said.first !== undefined && (
          <button type="button" onClick={() => { set({ text: said.first! }); go({ ...wish, text: said.first! }); }}>Read its first part</button>
        )}
      </p>
      <div ref={home} class="reading" />
      {/* what is below the rows is out of sight while they come, so that they push nothing away */}
      <div hidden={busy}>
        {ended && cell && grid.current && (
          <Cell grid={grid.current} reading={ended.reading} row={cell.row} col={cell.col} edit={editHere} anchor={(layer) => set({ anchor: `${layer}:0.1` })} />
        )}
        {ended && <Keep ended={ended} look={state.look} />}
        <Sample model={desk.model} text={wish.text} edits={wish.edits} anchor={wish.anchor} setAnchor={(anchor) => set({ anchor })} />
      </div>
    </>
  );
}

function Lenses({ desk, chosen, choose }: { desk: Desk; chosen: string[]; choose: (lenses: string[]) => void }) {
  return (
    <fieldset>
      <legend>Lenses</legend>
      {desk.lenses.map((name) => (
        <label class="choice">
          <input type="checkbox" checked={chosen.includes(name)}
            onChange={(event) => choose(desk.lenses.filter((one) => (one === name ? event.currentTarget.checked : chosen.includes(one))))} /> {name}
        </label>
      ))}
    </fieldset>
  );
}

function lookOf(grid: MidstreamGrid, old: Look): Look {
  const row = grid.rows[grid.cursor.line] ?? 0;
  const one = grid.grid;
  const place = old.cell || grid.cursor.line || grid.cursor.col !== one.positions.length - 1;
  return {
    lens: one.lens,
    statistic: grid.wanted,
    every: grid.every,
    subs: grid.subs,
    cell: place ? [one.layers[row]!, one.sites[row]!, one.positions[grid.cursor.col]!] : null,
    pins: grid.followed.asAtFirst ? null : grid.followed.pins.map((pin) => [pin.grid.lens, pin.grid.positions[pin.col]!, pin.token]),
  };
}

/** The lens, statistic and cell of a link, as far as this reading has them. */
function restore(grid: MidstreamGrid, look: Look): void {
  if (look.every > 1 || look.subs) grid.change({ every: look.every, subs: look.subs });
  const lens = grid.data.grids.find((one) => one.lens === look.lens);
  if (lens) grid.setGrid(lens);
  if (grid.data.statistics.some((one) => one.name === look.statistic)) grid.setStatistic(look.statistic);
  if (!look.cell) return;
  const [layer, site, position] = look.cell;
  const line = grid.rows.findIndex((row) => grid.grid.layers[row] === layer && grid.grid.sites[row] === site);
  const col = grid.grid.positions.indexOf(position);
  if (line >= 0 && col >= 0) grid.moveTo({ line, col });
}

function pins(grid: MidstreamGrid, look: Look): void {
  const { data } = grid;
  if (!look.pins) return;
  for (const pin of [...grid.followed.pins]) grid.followed.drop(pin);
  for (const [lens, position, token] of look.pins) {
    const one = data.grids.find((other) => other.lens === lens);
    const col = one?.positions.indexOf(position) ?? -1;
    if (!one || col < 0 || !(token in data.vocabulary)) continue;
    grid.followed.toggle(one, col, token);
  }
}
