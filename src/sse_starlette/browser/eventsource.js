/**
 * An event stream for browsers that does what `EventSource` can't: one connection for all tabs, headers and
 * other methods than GET, an end for good, going on after a reload. Its types are in eventsource.d.ts.
 *
 * Every tab begins with a connection of its own. The one that holds a Web Lock tells the others on a
 * BroadcastChannel what it receives, and from which id to which. A tab that has come to the same id gives its own
 * connection up, so nothing falls between; where what it's told doesn't follow on, it connects again. It takes the
 * lock from a leader without a connection: all that the browser opens to an origin may be in use by such tabs.
 */

const [CONNECTING, OPEN, CLOSED] = [0, 1, 2];
const REMEMBERED = 1_000; // messages, while a tab catches up; and ids, to know what came twice
const [LONGEST_WAIT, LONGEST_TIMER] = [60_000, 2 ** 31 - 1]; // ms between attempts; what lasts longer is due at once
const WAKING = ["online", "pageshow"];
const TRY_AGAIN = [408, 425, 429]; // and 500 and more: statuses of what may pass

/** Returns a function that takes text and returns the blocks it completes (WHATWG HTML 9.2.6). */
export function eventStreamParser(lastEventId = "") {
  let [rest, afterCR, cursor, type, data, retry] = ["", false, lastEventId, "", [], undefined];
  return (text) => {
    if (afterCR && text.startsWith("\n")) text = text.slice(1);
    if (text === "") return [];
    afterCR = text.endsWith("\r");
    const lines = /[\r\n]/.test(text) ? (rest + text).split(/\r\n|\n|\r/) : [rest + text];
    rest = lines.pop();
    const blocks = [];
    for (const line of lines) {
      if (line === "") {
        blocks.push({ cursor, retry, ...(data.length && { type: type || "message", data: data.join("\n") }) });
        [type, data, retry] = ["", [], undefined];
      }
      const [, field, value] = /^([^:]*)(?:: ?)?([^]*)$/.exec(line);
      if (field === "data") data.push(value);
      else if (field === "event") type = value;
      else if (field === "id" && !value.includes("\0")) cursor = value;
      else if (field === "retry" && /^\d+$/.test(value)) retry = Number(value);
    }
    return blocks;
  };
}

export class EventStream extends EventTarget {
  onopen = null; onmessage = null; onerror = null;
  #options; #name; #cursor; #retry; #recent = new Set();
  #readyState = CONNECTING;
  #connection; #live = false; // whether it's open
  #failures = 0; #hurry = () => {};
  #wake = () => (this.#hurry(), this.#ask());
  #role = "alone"; // or "catching up", "following", "leading"
  #channel; #lock; // its request for it
  #asked; // the leader's answer to this is waited for
  #pending = []; #leaderWaits = false; // what it has said while this tab catches up; whether it has no connection

  constructor(url, options = {}) {
    super();
    this.url = new URL(url, location.href).href;
    this.#options = options;
    this.#name = `event-stream:${typeof options.share === "string" ? options.share : this.url}`;
    this.#retry = options.retry ?? 3_000;
    this.#cursor = (options.resume && sessionStorage.getItem(this.#name)) || options.lastEventId || "";
    for (const type of ["open", "message", "error"]) this.addEventListener(type, (event) => this[`on${type}`]?.(event));
    for (const type of WAKING) addEventListener(type, this.#wake);
    if (!options.share || !navigator.locks) return void this.#connect();
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    this.#catchUp([]);
    this.#seekLock();
  }

  get readyState() { return this.#readyState; }
  get lastEventId() { return this.#cursor; }
  get connected() { return this.#readyState === OPEN && this.#live && this.#role !== "following"; }

  close() {
    if (this.#readyState === CLOSED) return;
    this.#readyState = CLOSED;
    if (this.#options.resume) sessionStorage.removeItem(this.#name);
    this.#connection?.abort();
    this.#channel?.close();
    this.#lock?.abort();
    for (const type of WAKING) removeEventListener(type, this.#wake);
  }

  restart() {
    if (this.#readyState === CLOSED) return;
    this.#cursor = "";
    this.#recent.clear();
    if (this.#role === "following" || this.#role === "catching up") this.#catchUp([]);
    else this.#connect();
  }

  // --- One among the tabs ---

  /** Wait for the lock, or take it; lead with it, until another tab takes it. */
  async #seekLock(steal = false) {
    this.#leaderWaits = false;
    this.#lock?.abort();
    const { signal } = (this.#lock = new AbortController());
    const lead = () => new Promise((leave) => {
      if (signal.aborted) return leave();
      signal.addEventListener("abort", leave);
      if (this.#role === "following") this.#connect();
      this.#role = "leading";
      this.#tell();
    });
    const options = steal ? { steal } : { signal };
    const failure = await navigator.locks.request(this.#name, options, lead).catch((error) => error);
    if (signal.aborted || failure?.name !== "AbortError") return;
    if (this.#role === "leading") this.#catchUp([], false);
    this.#seekLock();
  }

  /** Tell the other tabs, if this one leads: what has come, or where it is. A follower compares. */
  #tell({ messages = this.#cursor ? [{ after: this.#cursor, cursor: this.#cursor }] : [], ...more } = {}) {
    if (this.#role !== "leading") return;
    this.#channel.postMessage({ messages, state: this.#readyState, live: this.#live, ...more });
  }

  #ask() {
    if (this.#readyState !== CLOSED) this.#channel?.postMessage({ asked: (this.#asked = Math.random()) });
  }

  #hear({ messages, state, live, ended, asked, answers = this.#asked }) {
    if (asked) return this.#tell({ answers: asked });
    if (this.#role === "leading" || answers !== this.#asked) return;
    this.#leaderWaits = !live;
    if (this.#role === "following") this.#follow(messages);
    else this.#pending = [...this.#pending, ...messages].slice(-REMEMBERED);
    this.#giveUpConnection();
    if (this.#role !== "following") return; // It comes to the end by itself.
    if (ended) this.#end(ended.type, ended.status);
    else if (state !== this.#readyState) this.#setState(state), this.#ask(); // It may be a former leader's.
  }

  #follow(messages) {
    for (const [index, message] of messages.entries()) {
      if (this.#role !== "following" || this.#readyState === CLOSED) return;
      if (message.after === this.#cursor) this.#take(message);
      else if (!this.#recent.has(message.cursor)) this.#catchUp(messages.slice(index));
    }
  }

  #catchUp(pending, anew = true) {
    this.#role = "catching up";
    this.#pending = pending;
    this.#ask();
    if (anew) this.#connect();
  }

  /** Without ids nobody can tell whether two tabs are at the same place, so each keeps its connection. */
  #giveUpConnection() {
    if (this.#role !== "catching up" || !this.#cursor) return;
    const index = this.#pending.findIndex(({ cursor }) => cursor === this.#cursor);
    if (index < 0) return void (this.#live && this.#leaderWaits && this.#seekLock(true));
    this.#role = "following";
    this.#connection.abort();
    this.#follow(this.#pending.splice(0).slice(index + 1));
    this.#ask(); // Two leaders may have spoken, and their messages have come in any order.
  }

  // --- The connection ---

  async #connect() {
    this.#live = false;
    this.#connection?.abort();
    const { signal } = (this.#connection = new AbortController());
    while (!signal.aborted) {
      const retryAfter = await this.#read(signal).catch(() => 0);
      if (signal.aborted) return;
      this.#live = false;
      this.#setState(CONNECTING, true);
      const growing = Math.min(this.#retry * 2 ** this.#failures++, Math.max(this.#retry, LONGEST_WAIT));
      const wait = Math.max(retryAfter, growing * (0.75 + Math.random() / 2)); // Not all clients at once.
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, Math.min(wait, LONGEST_TIMER));
        this.#hurry = () => (clearTimeout(timer), resolve());
        signal.addEventListener("abort", this.#hurry);
      });
    }
  }

  /** Read one response to its end; returns the milliseconds that the server asks us to wait. */
  async #read(signal) {
    const { method, body, headers, withCredentials, silence } = this.#options;
    const url = new URL(this.url);
    const sent = new Headers(typeof headers === "function" ? await headers() : headers);
    sent.set("Accept", "text/event-stream");
    // To another origin the header would need a preflight.
    if (this.#cursor && url.origin === location.origin) sent.set("Last-Event-ID", this.#cursor);
    else if (this.#cursor) url.searchParams.set("last_event_id", this.#cursor);
    const credentials = withCredentials ? "include" : "same-origin";
    const response = await fetch(url, { method, body, headers: sent, credentials, signal, cache: "no-store" });
    const { status, headers: got } = response;
    if (status >= 500 || TRY_AGAIN.includes(status)) return 1_000 * Number(got.get("Retry-After")) || 0;
    if (status === 204) this.#end("end");
    else if (status !== 200 || !/^text\/event-stream *(;|$)/i.test(got.get("Content-Type"))) this.#end("error", status);
    if (signal.aborted) return 0;
    this.#live = true;
    this.#setState(OPEN);
    const parse = eventStreamParser(this.#cursor);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const timer = silence && setTimeout(() => reader.cancel(), Math.min(silence, LONGEST_TIMER));
      const { done, value } = await reader.read().finally(() => clearTimeout(timer));
      if (done || signal.aborted) return 0;
      this.#failures = 0;
      this.#receive(parse(value), signal);
    }
  }

  #receive(blocks, signal) {
    let after = this.#cursor;
    const messages = [];
    for (const { retry, ...block } of blocks) {
      this.#retry = retry ?? this.#retry;
      if (block.type !== undefined || block.cursor !== after) messages.push({ after, ...block });
      after = block.cursor;
    }
    if (messages.length) this.#tell({ messages }); // Before a listener may close the stream.
    for (const message of messages) {
      if (!signal.aborted) this.#take(message);
      this.#giveUpConnection();
    }
    this.#giveUpConnection();
  }

  #take({ cursor, type, data }) {
    this.#cursor = cursor;
    this.#recent.add(cursor);
    if (this.#recent.size > REMEMBERED) this.#recent.delete(this.#recent.values().next().value);
    if (this.#options.resume) sessionStorage.setItem(this.#name, cursor);
    if (type === undefined) return;
    this.dispatchEvent(new MessageEvent(type, { data, lastEventId: cursor, origin: new URL(this.url).origin }));
    if (type === this.#options.endEvent) this.#end("end");
  }

  #setState(state, again = false) {
    if (this.#readyState === CLOSED || (state === this.#readyState && !again)) return;
    this.#readyState = state;
    this.#tell();
    this.dispatchEvent(new Event(state === OPEN ? "open" : "error"));
  }

  /** End for good, in every tab. */
  #end(type, status) {
    if (this.#readyState === CLOSED) return;
    this.#tell({ ended: { type, status } });
    this.close();
    this.dispatchEvent(Object.assign(new Event(type), { status }));
  }
}
