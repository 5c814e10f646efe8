// The edits that a text is read and continued under, each as a row of choices; `docs/edit.md` says what they mean.

import { useRef, useState } from "preact/hooks";
import type { Desk } from "./server";
import { type Edit, EDIT } from "./state";

const KINDS: Record<Edit["kind"], string> = {
  add: "add",
  project_out: "take out",
  replace: "replace by",
  interpolate: "turn towards",
  scale: "scale by",
  patch: "patch from",
  swap: "swap",
};

const VECTORS: Record<Edit["vector"], string> = {
  unembedding: "unembedding of",
  embedding: "embedding of",
  lens: "lens’s direction of",
  random: "a random direction",
};

/** The strength that a kind of edit takes: its name, and what stands there at first. */
const AMOUNTS: Partial<Record<Edit["kind"], [string, number]>> = {
  add: ["by share of the stream’s length", 0.3],
  interpolate: ["by α", 0.1],
  scale: ["factor", 0],
};

/** What the edits still lack, in a sentence; empty where they are whole. */
export function lacking(edits: Edit[]): string {
  for (const [at, { kind, amount, text }] of edits.entries()) {
    if (Number.isNaN(amount)) return `edit ${at + 1}: expected a number ${AMOUNTS[kind]![0]}, such as ${AMOUNTS[kind]![1]}.`;
    if (kind === "patch" && !text) return `edit ${at + 1}: give the text to patch from.`;
  }
  return "";
}

export function Edits({ desk, edits, change }: { desk: Desk; edits: Edit[]; change: (edits: Edit[]) => void }) {
  const put = (at: number, part: Partial<Edit>) => change(edits.map((one, i) => (i === at ? { ...one, ...part } : one)));
  const more = useRef<HTMLButtonElement>(null);
  const drop = (at: number) => {
    change(edits.filter((_, i) => i !== at));
    more.current?.focus();
  };
  const add = () => change([...edits, { ...EDIT, layers: String(Math.round((2 * desk.blocks) / 3)), amount: AMOUNTS.add![1] }]);
  return (
    <section class="edits" aria-label="edits">
      <ul>
        {edits.map((edit, at) => (
          <li>
            <One desk={desk} edit={edit} put={(part) => put(at, part)} />
            <button type="button" aria-label={`remove edit ${at + 1}`} onClick={() => drop(at)}>×</button>
          </li>
        ))}
      </ul>
      <button type="button" ref={more} onClick={add}>{edits.length ? "Another edit" : "Edit the stream"}</button>
      {edits.length > 0 && <span class="soft"> The grid shows what the edits have moved, beside the text as it was.</span>}
    </section>
  );
}

function One({ desk, edit, put }: { desk: Desk; edit: Edit; put: (part: Partial<Edit>) => void }) {
  const vector = edit.kind !== "scale" && edit.kind !== "patch";
  const amount = AMOUNTS[edit.kind];
  const kind = (value: Edit["kind"]) => put({ kind: value, amount: AMOUNTS[value]?.[1] ?? null });
  return (
    <fieldset>
      <Choice label="change" values={KINDS} value={edit.kind} choose={kind} />
      {edit.kind === "patch" && <Field label="the run over the text" value={edit.text} set={(text) => put({ text })} wide />}
      {vector && <Choice label="vector" values={VECTORS} value={edit.vector} choose={(value) => put({ vector: value })} />}
      {vector && edit.vector === "lens" && (
        <Choice label="lens" values={Object.fromEntries(desk.lenses.map((name) => [name, name]))} value={edit.lens} choose={(lens) => put({ lens })} />
      )}
      {vector && edit.vector !== "random" && <Field label="token" value={edit.token} set={(token) => put({ token })} hint="␣Paris" />}
      {edit.kind === "swap" && <Field label="and token" value={edit.other} set={(other) => put({ other })} hint="␣London" />}
      {amount && <Amount key={edit.kind} label={amount[0]} value={edit.amount} set={(value) => put({ amount: value })} />}
      <Field label="at layers" value={edit.layers} set={(layers) => put({ layers })} />
      <Field label="positions" value={edit.positions ?? ""} set={(positions) => put({ positions: positions || null })} hint="all" />
      <Choice label="site" values={Object.fromEntries(desk.sites.map((site) => [site, site]))} value={edit.site} choose={(site) => put({ site })} />
    </fieldset>
  );
}

/** A number as it is typed: `0.` and `-` are on their way to one. */
function Amount({ label, value, set }: { label: string; value: number | null; set: (value: number) => void }) {
  const [text, setText] = useState(value === null ? "" : String(value));
  const typed = (now: string) => {
    setText(now);
    set(now.trim() && Number.isFinite(Number(now)) ? Number(now) : Number.NaN);
  };
  const wrong = !Number.isFinite(Number(text)) || !text.trim();
  return (
    <label>
      {label} <input type="text" inputMode="decimal" class="amount" aria-invalid={wrong} value={text} onInput={(event) => typed(event.currentTarget.value)} />
    </label>
  );
}

function Choice<T extends string>({ label, values, value, choose }: { label: string; values: Record<T, string>; value: T; choose: (value: T) => void }) {
  return (
    <label>
      <span class="ms-unseen">{label}</span>
      <select value={value} onChange={(event) => choose(event.currentTarget.value as T)}>
        {(Object.entries(values) as [T, string][]).map(([name, text]) => <option value={name}>{text}</option>)}
      </select>
    </label>
  );
}

function Field({ label, value, set, hint, wide }: { label: string; value: string; set: (value: string) => void; hint?: string; wide?: boolean }) {
  return (
    <label class={wide ? "grow" : undefined}>
      {label} <input type="text" spellcheck={false} value={value} placeholder={hint ?? ""} onInput={(event) => set(event.currentTarget.value)} />
    </label>
  );
}
