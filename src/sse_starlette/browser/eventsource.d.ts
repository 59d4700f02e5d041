export interface EventStreamOptions {
  /** One connection for all tabs of the origin with the same URL, or with the same text given here. What one user
   * may see another may not: put the user into the URL or the text. Needs ids and a secure context; else each tab
   * has a connection of its own. */
  share?: boolean | string;
  /** Sent with each request; a function is called for each, as for a token that is renewed. */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>);
  method?: string;
  body?: BodyInit;
  /** Send cookies to another origin, too. */
  withCredentials?: boolean;
  /** Go on from the last id when this tab has loaded the page again. */
  resume?: boolean;
  /** Begin after this event, if there's nothing to resume. */
  lastEventId?: string;
  /** The name of the event that is the last one: it's dispatched, then the stream ends in all tabs. */
  endEvent?: string;
  /** Connect again when nothing, not even a ping, has come for so many milliseconds. Default: never. */
  silence?: number;
  /** Milliseconds before the first reconnect, until the server says otherwise; they double up to a minute. */
  retry?: number;
}

/** Dispatches `open`, `error` (on the way back, or closed: look at `readyState` and `status`), `end` (for good: by a
 * 204 or `endEvent`), and each event by its name: `message` if it has none. */
export class EventStream extends EventTarget {
  constructor(url: string | URL, options?: EventStreamOptions);
  readonly url: string;
  /** 0: connecting, 1: open, 2: closed. */
  readonly readyState: 0 | 1 | 2;
  readonly lastEventId: string;
  /** Whether it's this tab that has a connection. */
  readonly connected: boolean;
  onopen: ((event: Event) => unknown) | null;
  onmessage: ((event: MessageEvent<string>) => unknown) | null;
  onerror: ((event: Event & { status?: number }) => unknown) | null;
  close(): void;
  /** Forget the last id and begin as a new client does, as after a `reset`. */
  restart(): void;
  addEventListener(
    type: string, listener: ((event: MessageEvent<string>) => unknown) | EventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

export interface Block { cursor: string; retry?: number; type?: string; data?: string }
/** Returns a function that takes text and returns the blocks that it completes. */
export function eventStreamParser(lastEventId?: string): (text: string) => Block[];
