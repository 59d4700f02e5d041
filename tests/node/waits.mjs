// How long eventsource.js waits, in a world of fakes: what it sets timers to, as one JSON array.
//
//   node waits.mjs MODULE OPTIONS ANSWER
//
// Each request gets ANSWER, { headers, body }; the first timer that isn't for a silence ends the program.
const [, , module, options, answer] = process.argv;
const { headers, body } = JSON.parse(answer);
const set = [];
globalThis.location = { href: "http://localhost/", origin: "http://localhost" };
globalThis.addEventListener = () => {};
globalThis.fetch = async () => new Response(body, { status: headers ? 503 : 200, headers: headers ?? { "Content-Type": "text/event-stream" } });
globalThis.setTimeout = (call, milliseconds) => {
  set.push(milliseconds);
  if (!String(call).includes("cancel")) console.log(JSON.stringify(set));
};
const { EventStream } = await import(module);
new EventStream("/news", JSON.parse(options));
