// What is on screen, to take along: as files, as a link, as the command and the Python that give it again.

import { useState } from "preact/hooks";
import type { Ended } from "./reading";

const FORMS = ["html", "svg", "png", "csv", "json", "parquet"];

/** Links to what is at a path, as files. */
export function Files({ path, name, query = "" }: { path: string; name: string; query?: string }) {
  return <span>Save as {FORMS.map((form) => <a href={`${path}.${form}${query}`} download={`${name}.${form}`}>{form}</a>)}</span>;
}

export function Keep({ ended, statistic }: { ended: Ended; statistic: string }) {
  const [copied, setCopied] = useState("");
  const copy = async (name: string, text: string) => {
    try {
      await navigator.clipboard.writeText(text);
      setCopied(`${name} copied`);
    } catch {
      setCopied(`this browser lets nothing be copied here: take the ${name} from ${name === "link" ? "the address" : "below"}`);
    }
  };
  return (
    <section class="keep" aria-label="keep">
      <Files path={`/api/readings/${ended.reading}`} name="reading" query={statistic && `?statistic=${encodeURIComponent(statistic)}`} />
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
