// Tabs that share a stream by eventsource.js, in a world of fakes where all that may happen in any order does.
//
//   node tabs.mjs MODULE FIRST COUNT
//
// Runs the random programs FIRST to FIRST + COUNT - 1; prints the faults it finds as one JSON array. A program opens
// and kills tabs, publishes and cuts connections; between these steps a few of the things happen that wait to:
// messages arrive (in order from one tab to another, and in no order else), a lock is granted, one of six
// connections is made, a piece of a response or a timer comes.
import { AsyncLocalStorage } from "node:async_hooks";

const [, , module, first, count] = process.argv;
const CONNECTIONS = 6;
const HISTORY = 20;
const turn = () => new Promise(setImmediate);
const acting = new AsyncLocalStorage();
let world;

class World {
  tabs = [];
  waiting = []; // what may happen: { tab, run, line }, in order along a line
  locks = []; // { tab, callback, held }
  channels = new Set();
  connections = new Set();
  head = 0;
  over = false; // nothing follows the head any more

  constructor(seed) {
    this.seed = seed;
  }

  random(limit) {
    this.seed = (Math.imul(this.seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((this.seed / 2 ** 32) * limit);
  }

  pick(list) {
    return list[this.random(list.length)];
  }

  later(run, line = {}, tab = acting.getStore()) {
    const what = { tab, run, line };
    this.waiting.push(what);
    return what;
  }

  async happen(limit) {
    await turn();
    for (let left = limit; this.waiting.length && left > 0; left--) {
      const { line } = this.pick(this.waiting);
      const index = this.waiting.findIndex((each) => each.line === line);
      const [{ tab, run }] = this.waiting.splice(index, 1);
      if (tab.alive) acting.run(tab, run);
      await turn();
    }
  }

  async settle() {
    await turn();
    for (let steps = 0; this.waiting.length; steps++) {
      if (steps > 5_000) throw new Error("it never settles");
      await this.happen(1);
    }
  }

  get living() {
    return this.tabs.filter(({ alive, stream }) => alive && (this.over || stream.readyState !== 2));
  }

  open(EventStream) {
    const tab = { alive: true, number: this.tabs.length, got: [], told: [] };
    this.tabs.push(tab);
    const slow = this.random(2);
    const headers = () => (slow ? new Promise((resolve) => this.later(() => resolve({}))) : {});
    acting.run(tab, () => {
      tab.stream = new EventStream("/news", { share: true, retry: 1, headers });
      tab.stream.onmessage = ({ data }) => tab.got.push(Number(data));
      tab.stream.addEventListener("reset", ({ lastEventId }) => tab.got.push(lastEventId));
      tab.stream.addEventListener("end", () => tab.told.push("end"));
    });
  }

  kill(tab) {
    tab.alive = false;
    for (const channel of this.channels) if (channel.tab === tab) this.channels.delete(channel);
    for (const connection of this.connections) if (connection.tab === tab) this.connections.delete(connection);
    this.locks = this.locks.filter((each) => each.tab !== tab);
    this.serve();
    this.grant();
  }

  grant() {
    const next = this.locks[0];
    if (!next || next.held) return;
    next.held = true;
    this.later(async () => {
      if (!this.locks.includes(next)) return;
      await next.callback();
      this.release(next);
      next.resolve();
    }, {}, next.tab);
  }

  release(lock) {
    this.locks = this.locks.filter((each) => each !== lock);
    this.grant();
  }

  /** What the server and the browser's network do: make connections, send what is new. */
  serve() {
    const all = [...this.connections];
    const queue = all.filter(({ made }) => !made);
    for (let free = CONNECTIONS - (all.length - queue.length); free > 0 && queue.length; free--) {
      const [connection] = queue.splice(this.random(queue.length), 1);
      connection.made = true;
      this.later(connection.answer, connection, connection.tab);
    }
  }

  publish(number) {
    this.head += number;
    for (const connection of this.connections) if (connection.wake) connection.wake();
  }
}

function block(offset, fields = "") {
  return `id: e.${offset}\n${fields}\n`;
}

class Connection {
  constructor(cursor, signal, resolve, reject) {
    Object.assign(this, { cursor, signal, resolve, reject, tab: acting.getStore(), text: "", made: false });
    signal.addEventListener("abort", () => this.end((error) => (this.reject(error), this.reading?.reject(error))));
    this.answer = () => {
      if (!world.connections.has(this)) return;
      const [, offset] = cursor.split(".");
      this.offset = offset === undefined ? world.head : Number(offset);
      if (this.offset < world.head - HISTORY) {
        this.offset = world.head;
        this.text = block(this.offset, "event: reset\ndata: 0\n");
      } else this.text = block(this.offset);
      if (world.over && this.offset === world.head) {
        world.connections.delete(this);
        world.serve();
        return resolve({ status: 204 });
      }
      const getReader = () => ({ read: () => this.read() });
      const headers = new Headers({ "Content-Type": "text/event-stream" });
      resolve({ status: 200, headers, body: { pipeThrough: () => ({ getReader }) } });
    };
  }

  read() {
    return new Promise((resolve, reject) => {
      if (!world.connections.has(this)) return resolve({ done: true });
      this.reading = { resolve, reject };
      this.wake = () => {
        this.wake = undefined;
        world.later(() => {
          if (!world.connections.has(this)) return;
          while (this.offset < world.head) this.text += block(++this.offset, `data: ${this.offset}\n`);
          const value = this.text.slice(0, 1 + world.random(this.text.length));
          this.text = this.text.slice(value.length);
          resolve({ value });
          if (world.over && !this.text) this.cut();
        }, this, this.tab);
      };
      if (this.text || this.offset < world.head) this.wake();
    });
  }

  end(how) {
    if (!world.connections.delete(this)) return;
    how(new Error("gone"));
    world.serve();
  }

  cut() {
    this.end((error) => (this.reading ? this.reading.resolve({ done: true }) : this.reject(error)));
  }
}

class Channel {
  constructor(name) {
    Object.assign(this, { name, tab: acting.getStore(), lines: new Map() });
    world.channels.add(this);
  }

  postMessage(message) {
    for (const other of world.channels) {
      if (other === this || !this.tab.alive) continue;
      if (!this.lines.has(other)) this.lines.set(other, {});
      const data = structuredClone(message);
      world.later(() => world.channels.has(other) && other.onmessage({ data }), this.lines.get(other), other.tab);
    }
  }

  close() {
    world.channels.delete(this);
  }
}

const fakes = {
  location: { href: "http://a.test/", origin: "http://a.test" },
  addEventListener() {},
  removeEventListener() {},
  BroadcastChannel: Channel,
  navigator: {
    locks: {
      request(_, { signal, steal }, callback) {
        return new Promise((resolve, reject) => {
          const request = { tab: acting.getStore(), callback, resolve, held: false };
          const [holder] = world.locks;
          if (steal && holder?.held) {
            world.later(holder.reject, {}, holder.tab);
            world.locks.shift();
          }
          request.reject = () => reject(new DOMException("stolen", "AbortError"));
          if (steal) world.locks.unshift(request);
          else world.locks.push(request);
          signal?.addEventListener("abort", () => request.held || world.release(request));
          world.grant();
        });
      },
    },
  },
  fetch(_, { headers, signal }) {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(new Error("gone"));
      world.connections.add(new Connection(headers.get("Last-Event-ID") ?? "", signal, resolve, reject));
      world.serve();
    });
  },
  setTimeout: (run) => world.later(run),
  clearTimeout(timer) {
    world.waiting = world.waiting.filter((each) => each !== timer);
  },
};
for (const [name, value] of Object.entries(fakes)) Object.defineProperty(globalThis, name, { value });
const { EventStream } = await import(module);

/** What is wrong with what the tabs have got, when nothing is on its way any more. */
function faults() {
  const found = [];
  for (const { number, got, stream } of world.living) {
    for (const [index, each] of got.entries()) {
      const before = got[index - 1];
      if (typeof each === "number" && typeof before === "number" && each !== before + 1) {
        found.push(`tab ${number}: ${each} after ${before}`);
      }
    }
    if (stream.lastEventId !== `e.${world.head}`) found.push(`tab ${number}: at ${stream.lastEventId} of ${world.head}`);
    if (stream.readyState !== 1) found.push(`tab ${number}: state ${stream.readyState}`);
  }
  if (world.connections.size !== Math.min(1, world.living.length)) found.push(`${world.connections.size} connections`);
  const leaders = world.living.filter(({ stream }) => stream.connected);
  if (leaders.length !== Math.min(1, world.living.length)) found.push(`${leaders.length} leaders`);
  return found;
}

async function program(seed) {
  world = new World(seed);
  const [kills, pace] = [1 + world.random(3), 1 + world.random(40)];
  for (let steps = 10 + world.random(60); steps > 0; steps--) {
    const what = world.random(10);
    if (what < 3 && world.living.length < 12) world.open(EventStream);
    else if (what < 3 + kills && world.living.length) world.kill(world.pick(world.living));
    else if (what < 8) world.publish(1 + world.random(5));
    else if (what < 9 && world.connections.size) world.pick([...world.connections]).cut();
    else if (world.living.length) {
      const tab = world.pick(world.living);
      acting.run(tab, () => (world.random(2) ? tab.stream.close() : (tab.got.push("anew"), tab.stream.restart())));
    }
    await world.happen(world.random(pace));
  }
  await world.settle();
  const found = faults();
  world.publish(1);
  await world.settle();
  found.push(...faults().map((fault) => `after one more event: ${fault}`));
  const listening = world.living;
  world.publish(2);
  await world.happen(world.random(pace));
  world.over = true;
  for (const connection of world.connections) connection.cut();
  await world.settle();
  for (const { number, told, stream } of listening) {
    if (String(told) !== "end") found.push(`tab ${number}: told ${told}`);
    if (stream.lastEventId !== `e.${world.head}`) found.push(`tab ${number}: ended at ${stream.lastEventId}`);
  }
  return found;
}

const found = [];
for (let seed = Number(first); seed < Number(first) + Number(count); seed++) {
  const wrong = await program(seed).catch((error) => [String(error.stack)]);
  if (wrong.length) found.push({ seed, wrong });
}
process.stdout.write(`${JSON.stringify(found)}\n`);
