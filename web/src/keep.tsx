// What is on screen, to take along: as files, as a link, as the command and the Python that give it again.

import { useState } from "preact/hooks";
import type { Ended } from "./reading";

const FORMS = ["html", "svg", "png", "csv", "json", "parquet"];

export function Keep({ ended }: { ended: Ended }) {
  const [copied, setCopied] = useState("");
  const copy = async (name: string, text: string) => {
    await navigator.clipboard.writeText(text);
    setCopied(`${name} copied`);
  };
  return (
    <section class="keep" aria-label="keep">
      <span>Save as {FORMS.map((form) => <a href={`/api/readings/${ended.reading}.${form}`} download={`reading.${form}`}>{form}</a>)}</span>
      <span>
        Copy{" "}
        <button type="button" onClick={() => copy("link", location.href)}>link</button>
        <button type="button" onClick={() => copy("command", ended.code.command)}>command</button>
        <button type="button" onClick={() => copy("Python", ended.code.python)}>Python</button>
        <span role="status" class="soft"> {copied}</span>
      </span>
      <details>
        <summary>How to get this again</summary>
        <pre tabIndex={0}>{ended.code.command}</pre>
        <pre tabIndex={0}>{ended.code.python}</pre>
      </details>
    </section>
  );
}
