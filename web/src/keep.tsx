// What is on screen, to take along: as files, as a link, as the command and the Python that give it again.

import { useEffect, useState } from "preact/hooks";
import type { Ended } from "./reading";
import { post, type Refusal } from "./server";
import type { Look } from "./state";

const FORMS = ["html", "svg", "png", "csv", "json", "parquet"];

/** Links to what is at a path, as files. */
export function Files({ path, name, query = "" }: { path: string; name: string; query?: string }) {
  return <span>Save as {FORMS.map((form) => <a href={`${path}.${form}${query}`} download={`${name}.${form}`}>{form}</a>)}</span>;
}

type Code = Record<"command" | "python", string>;

export function Keep({ ended, look }: { ended: Ended; look: Look }) {
  const { statistic, every } = look;
  const [copied, setCopied] = useState("");
  const [code, setCode] = useState<Code>({ command: "", python: "" });
  const watch = [...new Set(look.pins?.map(([, , token]) => token))];
  const wanted = JSON.stringify({ ...ended.asked, every, watch, ...(statistic && { statistic }) });

  useEffect(() => {
    let stale = false;
    post<Code>("/api/code", JSON.parse(wanted)).then((found) => stale || setCode(found), (error: Refusal) => {
      if (stale) return;
      setCode({ command: "", python: "" });
      setCopied(error.message);
    });
    return () => void (stale = true);
  }, [wanted]);

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
        <button type="button" disabled={!code.command} onClick={() => copy("command", code.command)}>command</button>
        <button type="button" disabled={!code.python} onClick={() => copy("Python", code.python)}>Python</button>
        <span role="status" class="soft"> {copied}</span>
      </span>
      <details>
        <summary>How to get this again</summary>
        <pre tabIndex={0}>{code.command}</pre>
        <pre tabIndex={0}>{code.python}</pre>
      </details>
    </section>
  );
}
