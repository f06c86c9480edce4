// The connection to the emulator: a live view that mends itself, and the few things that a page can do.

const KEY = "raydog-authorization";
const SILENCE = 25_000; // milliseconds; the emulator says something every 10 s
const FIRST_RETRY = 500;
const LONGEST_RETRY = 5_000;

/** Take the token out of the address, so that it is in no history and no bookmark. */
export function takeToken() {
  const found = /^#token=(.+)$/.exec(location.hash);
  if (!found) return false;
  sessionStorage.setItem(KEY, `Bearer ${decodeURIComponent(found[1])}`);
  history.replaceState(null, "", location.pathname);
  return true;
}

export function useKey(id, secret) {
  sessionStorage.setItem(KEY, `yd-key ${id}:${secret}`);
}

function post(path, body, signal) {
  return fetch(`emulator/page/${path}`, {
    method: "POST",
    headers: { Authorization: sessionStorage.getItem(KEY) ?? "", "Content-Type": "application/json" },
    body: JSON.stringify(body),
    cache: "no-store",
    signal,
  });
}

/** Do something; throws an Error with what the emulator said if it refused. */
export async function act(path, body = {}) {
  const answer = await post(path, body);
  if (!answer.ok) throw new Error((await answer.json()).message);
}

/** Keeps one live view open. Calls `onParts(parts, line)`, `onState("live" | "lost")` and `onRefused()`. */
export class Live {
  #listener;
  #view = null;
  #abort = null;
  #timer = 0;
  #wait = FIRST_RETRY;

  constructor(listener) {
    this.#listener = listener;
  }

  /** Look at something else from now on. */
  look(view) {
    this.#view = view;
    this.#wait = FIRST_RETRY;
    this.#open();
  }

  async #open() {
    this.#abort?.abort();
    clearTimeout(this.#timer);
    const abort = (this.#abort = new AbortController());
    try {
      const answer = await post("feed", this.#view, abort.signal);
      if (answer.status === 401) {
        this.#listener.onRefused();
        return;
      }
      if (!answer.ok) throw new Error((await answer.json()).message);
      await this.#read(answer.body.pipeThrough(new TextDecoderStream()), abort);
    } catch (error) {
      if (abort !== this.#abort) return; // it looks at something else by now
      console.info("the live view ended:", error.message);
    }
    if (abort === this.#abort) this.#lost();
  }

  async #read(stream, abort) {
    const parts = {};
    let rest = "";
    let silence = 0;
    const listen = () => {
      clearTimeout(silence);
      silence = setTimeout(() => abort.abort(new Error("no word for too long")), SILENCE);
    };
    listen();
    try {
      const reader = stream.getReader();
      for (let next = await reader.read(); !next.done; next = await reader.read()) {
        const lines = (rest + next.value).split("\n");
        rest = lines.pop();
        for (const text of lines) {
          if (abort !== this.#abort) return;
          const line = JSON.parse(text);
          Object.assign(parts, line);
          this.#wait = FIRST_RETRY;
          this.#listener.onState("live");
          this.#listener.onParts(parts, line);
        }
        listen();
      }
    } finally {
      clearTimeout(silence);
    }
  }

  #lost() {
    this.#listener.onState("lost");
    this.#timer = setTimeout(() => this.#open(), this.#wait);
    this.#wait = Math.min(this.#wait * 2, LONGEST_RETRY);
  }
}
