// Reads a stream by the types that openapi-typescript has made of its document (./api.ts).
import { createParser } from "eventsource-parser";
import type { components, paths } from "./api.ts";

declare const process: { argv: string[] };

type Content = paths["/events"]["get"]["responses"]["200"]["content"]["text/event-stream"];
type StreamEvent = Content[number];
type Item = components["schemas"]["Item"];

function told(event: StreamEvent): object {
    switch (event.event) {
        case "tick": {
            const item: Item = JSON.parse(event.data);
            return { item: item.name, amount: item.amount };
        }
        case "done":
            return { done: JSON.parse(event.data) as string };
        default: {
            const none: never = event; // All events are known.
            return none;
        }
    }
}

const response = await fetch(`${process.argv[2]}/events`);
const parser = createParser({
    onEvent: (event) => console.log(JSON.stringify(told(event as unknown as StreamEvent))),
});
const decoder = new TextDecoder();
for await (const chunk of response.body!) parser.feed(decoder.decode(chunk, { stream: true }));
