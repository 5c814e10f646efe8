// The shell: which page is shown, which model is in memory, and the address that says both.

import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { Compare } from "./compare";
import { Read } from "./read";
import { Shelf } from "./shelf";
import { called, type Desk, get, post, Refusal } from "./server";
import { fromFragment, type State, toFragment } from "./state";

const PAGES = { read: "Read", compare: "Compare", shelf: "Stores and studies" } as const;

export function App() {
  const [state, setState] = useState(() => fromFragment(location.hash));
  const [desk, setDesk] = useState<Desk | null>(null);
  const [said, setSaid] = useState("");
  const written = useRef("");
  const read = useRef(/[#&]text=/.test(location.hash));
  const compared = useRef(/[#&]side=/.test(location.hash));

  const change = useCallback((part: Partial<State>) => setState((old) => ({ ...old, ...part })), []);

  useEffect(() => {
    const fragment = toFragment(state);
    if (fragment === written.current) return;
    written.current = fragment;
    history.replaceState(null, "", fragment);
  }, [state]);

  useEffect(() => {
    const followed = () => {
      if (location.hash !== written.current) location.reload(); // somebody pasted another link
    };
    addEventListener("hashchange", followed);
    return () => removeEventListener("hashchange", followed);
  }, []);

  const choose = useCallback(async (model: string) => {
    setSaid(`Loading ${model} …`);
    try {
      const found = await post<Desk>("/api/model", { model });
      setDesk(found);
      setSaid("");
      return found;
    } catch (error) {
      setSaid((error as Refusal).message);
      setDesk(await get<Desk>("/api/desk"));
      return null;
    }
  }, []);

  useEffect(() => {
    get<Desk>("/api/desk").then(
      async (found) => {
        if (!state.model || state.model === found.model || !(await choose(state.model))) setDesk(found);
      },
      (error: Refusal) => setSaid(error.message),
    );
  }, []);

  return (
    <>
      <header class="top">
        <h1>midstream</h1>
        <nav aria-label="pages">
          {Object.entries(PAGES).map(([page, name]) => (
            <button type="button" aria-current={state.page === page ? "page" : undefined} onClick={() => change({ page: page as State["page"] })}>
              {name}
            </button>
          ))}
        </nav>
        {desk && <Models desk={desk} choose={(model) => choose(model).then((found) => found && change({ model }))} />}
        <a href="/docs">API</a>
      </header>
      <p class="said" role="status">{said}</p>
      <main>
        {desk && state.page === "read" && <Read desk={desk} state={state} change={change} again={read} />}
        {desk && state.page === "compare" && <Compare desk={desk} state={state} change={change} again={compared} />}
        {state.page === "shelf" && <Shelf />}
      </main>
    </>
  );
}

function Models({ desk, choose }: { desk: Desk; choose: (model: string) => void }) {
  if (desk.models.length < 2) return <span class="model">{desk.name}</span>;
  return (
    <label class="model">
      Model{" "}
      <select value={desk.model} onChange={(event) => choose(event.currentTarget.value)}>
        {desk.models.map((name) => <option value={name}>{called(desk)(name)}</option>)}
      </select>
    </label>
  );
}
