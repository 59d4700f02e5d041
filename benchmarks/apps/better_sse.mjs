// better-sse on Node's own HTTP server: `node better_sse.mjs PORT`.
import http from "node:http";
import { createChannel, createSession } from "better-sse";

const channel = createChannel();

async function publish({ seconds, rate }) {
  const began = performance.now();
  let published = 0;
  for (let passed = 0; passed < seconds; passed = (performance.now() - began) / 1000) {
    const due = rate ? Math.floor(passed * rate) + 1 : published + 1;
    for (; published < due; published++) {
      channel.broadcast(`@${process.hrtime.bigint()} AAPL 187.44 +0.12`, "tick");
    }
    const wait = rate ? began + (published / rate) * 1000 - performance.now() : 0;
    await new Promise((done) => (wait > 0 ? setTimeout(done, wait) : setImmediate(done)));
  }
  return published;
}

const server = http.createServer(async (request, response) => {
  const url = new URL(request.url, "http://localhost");
  const number = (name) => Number(url.searchParams.get(name));
  if (url.pathname === "/control/publish") {
    const published = await publish({ seconds: number("seconds"), rate: number("rate") });
    response.end(JSON.stringify(published));
  } else if (url.pathname === "/control/collect") {
    response.end("0");
  } else {
    const session = await createSession(request, response, { serializer: (text) => text });
    if (url.pathname === "/queue") channel.register(session);
    if (url.pathname === "/one") {
      session.push("hello world number", "tick");
      response.end();
    }
  }
});
server.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 });
