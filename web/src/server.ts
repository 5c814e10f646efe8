// How the app asks its server: JSON in, JSON or a stream of events out; what went wrong is a sentence.

export interface Desk {
  models: string[];
  model: string;
  name: string;
  blocks: number;
  sites: string[];
  lenses: string[];
  usual: string[];
  tokens: number;
}

/** What a model is called in a list; ``default`` is known by its name once it is loaded. */
export const called = (desk: Desk) => (model: string) => (model === desk.model ? desk.name : model);

/** A sentence for the person at the page; `first`: the part of a text that would have been read. */
export class Refusal extends Error {
  first: string | undefined;
  constructor(said: { error: string; first?: string }) {
    super(said.error);
    this.first = said.first;
  }
}

/** What has no sentence of the server comes from before it: too many connections. */
const BUSY = { error: "The server is too busy to answer. Try again in a moment." };

async function answered(path: string, options: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Refusal({ error: "The server does not answer. Start it again with: midstream serve" });
  }
  if (!response.ok) throw new Refusal(await response.json().catch(() => BUSY));
  return response;
}

function posted(body: unknown, signal?: AbortSignal): RequestInit {
  return { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal: signal ?? null };
}

export async function get<T>(path: string): Promise<T> {
  return (await answered(path, {})).json();
}

export async function post<T>(path: string, body: unknown): Promise<T> {
  return (await answered(path, posted(body))).json();
}

/** The events of an answer, one after another, until it ends; aborting `signal` cancels the work on the server too. */
export async function* events(path: string, body: unknown, signal: AbortSignal): AsyncGenerator<[string, any]> {
  const response = await answered(path, posted(body, signal));
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      text += value;
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const found = parsed(text.slice(0, end));
        text = text.slice(end + 2);
        if (found) yield found;
      }
    }
  } catch (error) {
    if (signal.aborted || error instanceof Refusal) throw error;
    throw new Refusal({ error: "The server stopped in the middle. Start it again with: midstream serve" });
  }
}

function parsed(block: string): [string, any] | null {
  let event = "message";
  const data: string[] = [];
  for (const line of block.split("\n")) {
    const at = line.indexOf(":");
    const rest = line.slice(at + 1).replace(/^ /, "");
    if (line.startsWith("event:")) event = rest;
    else if (line.startsWith("data:")) data.push(rest);
  }
  if (!data.length) return null;
  const found = JSON.parse(data.join("\n"));
  if (event === "error") throw new Refusal(found);
  return [event, found];
}
