/**
 * An event stream for browsers that does what `EventSource` can't: one connection for all tabs, headers and
 * other methods than GET, an end for good, going on after a reload. Its types are in eventsource.d.ts.
 *
 * Every tab begins with a connection of its own. The one that holds a Web Lock tells the others on a
 * BroadcastChannel what it receives, and from which id to which. A tab that has come to the same id gives its own
 * connection up, so nothing falls between; where what it's told doesn't follow on, it connects again.
 */

const [CONNECTING, OPEN, CLOSED] = [0, 1, 2];
const REMEMBERED = 1_000; // messages, while a tab catches up; and ids, to know what came twice
const LONGEST_WAIT = 60_000; // milliseconds between two attempts
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
        continue;
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
  onopen = null;
  onmessage = null;
  onerror = null;
  #options;
  #readyState = CONNECTING;
  #cursor;
  #retry;
  #failures = 0;
  #role = "alone"; // or "catching up", "following", "leading"
  #pending = []; // what the leader has said while this tab catches up
  #recent = new Set();
  #channel;
  #connection;
  #leave = () => {};
  #hurry = () => {};
  #online = () => this.#hurry();

  constructor(url, options = {}) {
    super();
    this.url = new URL(url, location.href).href;
    this.#options = options;
    this.#retry = options.retry ?? 3_000;
    this.#cursor = (options.resume && sessionStorage.getItem(this.#name)) || options.lastEventId || "";
    for (const type of ["open", "message", "error"]) this.addEventListener(type, (event) => this[`on${type}`]?.(event));
    addEventListener("online", this.#online);
    if (options.share && navigator.locks) this.#join();
    else this.#connect();
  }

  get readyState() { return this.#readyState; }
  get lastEventId() { return this.#cursor; }
  get connected() { return this.#readyState === OPEN && this.#role !== "following"; }

  close() {
    if (this.#readyState === CLOSED) return;
    this.#readyState = CLOSED;
    removeEventListener("online", this.#online);
    if (this.#options.resume) sessionStorage.removeItem(this.#name);
    this.#connection?.abort();
    this.#channel?.close();
    this.#leave();
  }

  restart() {
    if (this.#readyState === CLOSED) return;
    this.#cursor = "";
    this.#recent.clear();
    if (this.#role === "following" || this.#role === "catching up") this.#catchUp([]);
    else this.#connect();
  }

  // --- One among the tabs ---

  get #name() {
    return `event-stream:${typeof this.#options.share === "string" ? this.#options.share : this.url}`;
  }

  #join() {
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    this.#catchUp([]);
    const closing = new AbortController();
    const left = new Promise((resolve) => (this.#leave = () => (closing.abort(), resolve())));
    const lead = () => {
      const connects = this.#role === "catching up";
      this.#role = "leading";
      this.#pending = [];
      if (connects) this.#tell();
      else this.#connect();
      return left;
    };
    navigator.locks.request(this.#name, { signal: closing.signal }, lead).catch(() => {}); // closed before that
  }

  /** Tell the other tabs, if this one leads: what has come, or where it is. */
  #tell(messages = this.#cursor ? [{ after: this.#cursor, cursor: this.#cursor }] : [], ended) {
    if (this.#role === "leading") this.#channel.postMessage({ messages, state: this.#readyState, ended });
  }

  #hear({ messages, state, ended }) {
    if (!messages) return this.#tell();
    if (this.#role === "leading") return;
    if (this.#role === "following") this.#follow(messages);
    else this.#pending = [...this.#pending, ...messages].slice(-REMEMBERED);
    this.#giveUpConnection();
    if (ended) this.#end(ended.type, ended.status);
    else if (this.#role === "following") this.#setState(state);
  }

  #follow(messages) {
    for (const [index, message] of messages.entries()) {
      if (this.#role !== "following" || this.#readyState === CLOSED) return;
      if (message.after === this.#cursor) this.#take(message);
      else if (!this.#recent.has(message.cursor)) this.#catchUp(messages.slice(index));
    }
  }

  #catchUp(pending) {
    this.#role = "catching up";
    this.#pending = pending;
    this.#channel.postMessage({}); // Where are you?
    this.#connect();
  }

  /** Without ids nobody can tell whether two tabs are at the same place, so each keeps its connection. */
  #giveUpConnection() {
    const index = this.#pending.findIndex(({ cursor }) => cursor === this.#cursor);
    if (this.#role !== "catching up" || !this.#cursor || index < 0) return;
    const ahead = this.#pending.slice(index + 1);
    this.#role = "following";
    this.#pending = [];
    this.#connection.abort();
    this.#follow(ahead);
  }

  // --- The connection ---

  async #connect() {
    this.#connection?.abort();
    const { signal } = (this.#connection = new AbortController());
    while (!signal.aborted) {
      const retryAfter = await this.#read(signal).catch(() => 0);
      if (signal.aborted) return;
      this.#setState(CONNECTING, true);
      const growing = Math.min(this.#retry * 2 ** this.#failures++, Math.max(this.#retry, LONGEST_WAIT));
      const wait = Math.max(retryAfter, growing * (0.75 + Math.random() / 2)); // Not all clients at once.
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, wait);
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
    const { status } = response;
    if (status === 204) this.#end("end");
    else if (status >= 500 || TRY_AGAIN.includes(status)) {
      return 1_000 * Number(response.headers.get("Retry-After")) || 0;
    } else if (status !== 200 || !/^text\/event-stream *(;|$)/i.test(response.headers.get("Content-Type"))) {
      this.#end("error", status);
    }
    if (signal.aborted) return 0;
    this.#setState(OPEN);
    const parse = eventStreamParser(this.#cursor);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const timer = silence && setTimeout(() => reader.cancel(), silence);
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
    if (messages.length) this.#tell(messages); // Before a listener may close the stream.
    for (const message of messages) {
      if (!signal.aborted) this.#take(message);
      this.#giveUpConnection();
    }
  }

  // --- What listeners hear ---

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
    this.#tell([], { type, status });
    this.close();
    this.dispatchEvent(Object.assign(new Event(type), { status }));
  }
}
