// Lets the model go on from the text, with the edits on, and beside it without; token by token as they come.

import { useEffect, useRef, useState } from "preact/hooks";
import { lacking } from "./edits";
import { events, Refusal } from "./server";
import type { Edit } from "./state";

interface Branch {
  text: string;
  ended: string;
}

const ENDS: Record<string, string> = {
  end: "the model ended here", length: "as many as were asked for", context: "its context is full", stop: "stopped at a text",
};

interface Given {
  model: string;
  text: string;
  edits: Edit[];
  anchor: string;
  setAnchor: (anchor: string) => void;
}

export function Sample({ model, text, edits, anchor, setAnchor }: Given) {
  const [tokens, setTokens] = useState(40);
  const [temperature, setTemperature] = useState(0);
  const [seed, setSeed] = useState(0);
  const [branches, setBranches] = useState<Record<string, Branch>>({});
  const [prompt, setPrompt] = useState("");
  const [said, setSaid] = useState("");
  const [busy, setBusy] = useState(false);
  const running = useRef<AbortController | null>(null);

  useEffect(() => () => running.current?.abort(), []);
  useEffect(() => setSaid(""), [text, edits, anchor]); // what was wrong may be so no longer

  const go = async () => {
    const lacks = lacking(edits);
    if (lacks) return setSaid(lacks);
    running.current?.abort();
    const mine = (running.current = new AbortController());
    setBusy(true);
    setBranches({});
    setPrompt(text);
    setSaid("");
    try {
      for await (const [event, found] of events("/api/sample", { model, text, edits, anchor, tokens, temperature, seed }, mine.signal)) {
        if (event === "place") setSaid(`Waiting: ${found.ahead} before you.`);
        if (event === "loading") setSaid(`Loading ${found.model} …`);
        if (event !== "token") continue;
        setSaid("");
        setBranches((old) => ({
          ...old, [found.branch]: { text: (old[found.branch]?.text ?? "") + found.text, ended: found.ended },
        }));
      }
    } catch (error) {
      if (error instanceof Refusal) setSaid(error.message);
      else if (!mine.signal.aborted) throw error;
    } finally {
      if (running.current === mine) setBusy(false);
    }
  };

  return (
    <section class="sample" aria-label="continue">
      <h2>Let it go on</h2>
      <form class="ask" onSubmit={(event) => { event.preventDefault(); go(); }}>
        <Amount label="tokens" value={tokens} set={setTokens} min={1} max={512} />
        <Amount label="temperature" value={temperature} set={setTemperature} min={0} max={10} step={0.1} />
        <Amount label="seed" value={seed} set={setSeed} min={0} max={2147483647} />
        <label>anchor <input type="text" value={anchor} placeholder="15:0.1" spellcheck={false} onInput={(event) => setAnchor(event.currentTarget.value.trim())} /></label>
        <span class="buttons">
          <button type="submit" class="main">Continue</button>
          <button type="button" disabled={!busy} onClick={() => running.current?.abort()}>Stop</button>
        </span>
      </form>
      <p class="said" role="status">{said}</p>
      <div class="branches">
        {Object.entries(branches).map(([name, { text: more, ended }]) => (
          <article>
            <h3>{name === "edited" ? "with the edits" : "as it is"} <span class="soft">{ENDS[ended] ?? ""}</span></h3>
            <p><span class="soft">{prompt}</span><bdi class="new">{more}</bdi></p>
          </article>
        ))}
      </div>
    </section>
  );
}

function Amount({ label, value, set, min, max, step }: { label: string; value: number; set: (value: number) => void; min: number; max: number; step?: number }) {
  return (
    <label>
      {label} <input type="number" value={value} min={min} max={max} step={step ?? 1} required onInput={(event) => Number.isFinite(event.currentTarget.valueAsNumber) && set(event.currentTarget.valueAsNumber)} />
    </label>
  );
}
